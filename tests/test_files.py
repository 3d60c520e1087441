"""Files that are whole or absent, and run folders that never overwrite."""

from pathlib import Path

import pytest

from utils.data.classes import load_classes
from utils.data.datafile import load_data
from utils.data.sources import open_source
from utils.errors import CfgError, InputError
from utils.files import PROJECT, check_writable, find_file, new_run_folder, user_path, whole_file, whole_folder
from utils.names import read_names
from utils.runtimes.opening import find_exported


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), whole_file(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with whole_file(target) as partial:
        partial.write_text("new")
        with whole_file(target) as other:  # as of a process with the same number on another machine
            other.write_text("other")
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


@pytest.mark.parametrize("parent", ["runs", "runs/train"])
def test_a_link_to_nowhere_in_the_way_of_run_folders(tmp_path: Path, parent: str) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match=r"runs/.*x: expected a folder at .*runs, got a link to nowhere"):
        new_run_folder(tmp_path / parent, "x")
    with pytest.raises(InputError, match="runs to be a folder"):
        check_writable(tmp_path / parent)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").symlink_to(tmp_path / "unmounted")  # only taken
    assert new_run_folder(tmp_path / "mine", "x").name == "x-2"


def test_users_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a") == Path("/home/me/a") and user_path("a~") == Path("a~")
    assert user_path("~nobodyofthisname/a") == Path("~nobodyofthisname/a")


@pytest.mark.parametrize("name", ["~nobodyofthisname/x.pt", "~nobodyofthisname"])
def test_a_user_who_is_not_there_is_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    """Wherever paths are named: files, weights, sources, lists, data descriptions, classes."""
    (tmp_path / "l.txt").write_text(f"{name}\n")
    (tmp_path / "d.yaml").write_text(f"names: [a]\npath: {name}\ntrain: x\n")
    (tmp_path / "d.data").write_text(f"classes=1\ntrain={name}\n")
    assert find_exported(name) is None
    for call in (
        lambda: find_file(name, "weights"),
        lambda: read_names(name),
        lambda: open_source(name),
        lambda: list(open_source(str(tmp_path / "l.txt")).frames()),
        lambda: load_data(tmp_path / "d.yaml"),
        lambda: load_data(tmp_path / "d.data"),
        lambda: load_classes(name),
    ):
        with pytest.raises(InputError, match="no such f"):
            call()


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
