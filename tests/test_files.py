"""Files that are whole or absent, and run folders that never overwrite."""

from pathlib import Path

import pytest

from utils.errors import CfgError, InputError
from utils.files import PROJECT, check_writable, find_file, new_run_folder, whole_file, whole_folder


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), whole_file(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with whole_file(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_is_absent(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "d") as partial:
        (partial / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_run_folders_are_numbered(tmp_path: Path) -> None:
    names = [new_run_folder(tmp_path / "runs", "a").name for _ in range(3)]
    assert names == ["a", "a-2", "a-3"]
    for name in ("", ".", "..", "a/b", "/etc"):
        with pytest.raises(InputError, match="expected a plain folder name"):
            new_run_folder(tmp_path, name)


def test_bare_names_are_found_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file("yolov3.cfg", "cfg") == PROJECT / "cfg" / "yolov3.cfg"
    (tmp_path / "yolov3.cfg").write_text("mine")
    assert find_file("yolov3.cfg", "cfg") == Path("yolov3.cfg")  # the working directory comes first
    with pytest.raises(CfgError, match=r"gone.cfg: no such file \(looked at gone.cfg, .*/cfg/gone.cfg\)"):
        find_file("gone.cfg", "cfg", CfgError)


def test_results_that_could_not_be_written_are_known_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "runs" / "prune")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").touch()
    with pytest.raises(InputError, match="runs to be a folder"):
        check_writable(tmp_path / "runs" / "prune")
