"""utils/data/folders.py: what is found in folders and lists, by every command that searches them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from train import load_both
from utils.data.classes import load_classes
from utils.data.datafile import load_data
from utils.data.folders import find_files, find_listed
from utils.data.sources import open_source
from utils.data.split import SplitOptions, split
from utils.errors import DataError
from utils.training.distributed import Ranks


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path, **options: bool) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(folder, **options)]


def test_links_to_folders_are_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "here/b.jpg", "here/sub/c.png", "there/a.jpg", "there/deep/d.jpg", "elsewhere/e.jpg")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "more").symlink_to("../elsewhere")  # a link behind a link
    (tmp_path / "here" / "f.jpg").symlink_to(tmp_path / "there" / "a.jpg")
    assert names(tmp_path / "here") == [
        "b.jpg", "f.jpg", "link/a.jpg", "link/deep/d.jpg", "link/more/e.jpg", "sub/c.png"
    ]  # fmt: skip
    assert names(tmp_path / "here", recursive=False) == ["b.jpg", "f.jpg"]
    (tmp_path / "root").symlink_to("here")
    assert len(names(tmp_path / "root")) == 6
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("target", [".", "..", "../..", "sub", "sub/deep"])
def test_links_in_a_circle_are_told(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one to a folder that is searched anyway, whose images would count twice."""
    touch(tmp_path, "set/images/a.jpg", "set/images/sub/deep/b.jpg", "other/c.jpg", "set/d.jpg")
    (tmp_path / "set/images/again").symlink_to(target)
    assert names(tmp_path / "set/images") == ["a.jpg", "sub/deep/b.jpg"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "images/again: a link to " in said and "searched anyway" in said


def test_two_links_to_one_folder_and_links_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "there/a.jpg")
    (tmp_path / "set").mkdir()
    for name in ("x", "y"):
        (tmp_path / "set" / name).symlink_to("../there")
    (tmp_path / "set" / "z.jpg").symlink_to("z.jpg")
    (tmp_path / "set" / "gone").symlink_to("nowhere")
    assert names(tmp_path / "set") == ["x/a.jpg", "z.jpg"]  # the last is told when it is read
    assert "set/y: a link to" in capsys.readouterr().err


def test_hidden_files_and_folders_are_none(tmp_path: Path) -> None:
    touch(
        tmp_path, "0.jpg", "._0.jpg", ".git/a.jpg", "__MACOSX/0.jpg", "x/__MACOSX/._0.jpg", "x/.cache/b.png", "x/1.jpg"
    )
    assert names(tmp_path) == ["0.jpg", "x/1.jpg"] and names(tmp_path, recursive=False) == ["0.jpg"]
    (tmp_path / ".hidden").mkdir()
    touch(tmp_path, ".hidden/c.jpg")
    assert names(tmp_path / ".hidden") == ["c.jpg"]  # it was asked for


def test_images_that_cannot_be_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "a.HEIC", "x/b.heic", "c.dng", "d.jpg", "e.txt", "._f.heic")
    assert names(tmp_path) == ["d.jpg"]
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in said] == [
        "1 .dng file left out; convert them, to JPEG for example",
        "2 .heic files left out; convert them, to JPEG for example",
    ]


def grid(folder: Path) -> Path:
    """Two classes of two images each, one behind a link, among what macOS leaves; with labels, as train and valid."""
    for name, value in (("cat/0", 10), ("cat/1", 20), ("dog/2", 30)):
        path = folder / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (value, 0, 0)).save(path)
        path.with_suffix(".txt").write_text("0 .5 .5 .5 .5\n")
    touch(folder, "images/__MACOSX/cat/._0.png", "images/cat/._0.png", "images/dog/.DS_Store")
    (folder / "more").mkdir()
    Image.new("RGB", (8, 6), (40, 0, 0)).save(folder / "more" / "3.png")
    (folder / "more" / "3.txt").write_text("0 .5 .5 .5 .5\n")
    (folder / "images" / "dog" / "link").symlink_to(folder / "more")
    (folder / "d.data").write_text("classes=1\ntrain=images\nvalid=images\n")
    return folder / "images"


def by_data(folder: Path) -> list[Path]:
    return list(load_data(folder.parent / "d.data").train)


def by_sources(folder: Path) -> list[Path]:
    return [Path(frame.path) for frame in open_source(str(folder), recursive=True).frames()]


def by_classes(folder: Path) -> list[Path]:
    data = load_classes(str(folder))
    assert data.names == ("cat", "dog")
    return [sample.image for sample in (*data.train, *data.valid)]


def by_split(folder: Path) -> list[Path]:
    split(SplitOptions(str(folder.parent / "d.data"), folder.parent / "new", valid=0.5))
    spec = load_data(folder.parent / "new" / "new.data")
    return [*spec.train, *spec.valid]


@pytest.mark.parametrize("find", [by_data, by_sources, by_classes, by_split])
def test_all_commands_search_alike(find: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    found = find(grid(tmp_path))
    assert sorted(path.relative_to(tmp_path / "images").as_posix() for path in found) == [
        "cat/0.png", "cat/1.png", "dog/2.png", "dog/link/3.png"
    ]  # fmt: skip


def test_split_tells_of_a_link_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (grid(tmp_path) / "cat" / "loop.png").symlink_to("loop.png")
    assert len(by_split(tmp_path / "images")) == 4
    assert "loop.png: unreadable image: too many levels of symbolic links" in capsys.readouterr().err


# ---- Lists ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    ["images/a b.jpg", r"images\a b.jpg", r".\images\a b.jpg", r"set\images\a b.jpg", r"C:\data\set\images\a b.jpg",
     "C:/data/images/a b.jpg", r"\\server\share\images\a b.jpg", r"..\images\a b.jpg", "data/obj/images/a b.jpg",
     "/content/data/images/a b.jpg"],
)  # fmt: skip
def test_paths_written_for_another_place(entry: str, tmp_path: Path) -> None:
    touch(tmp_path, "set/images/a b.jpg", "set/b.jpg")
    (tmp_path / "set" / "lists").mkdir()
    folders = [tmp_path / "set" / "lists", tmp_path / "set"]
    found = find_listed(entry, folders)
    assert found is not None and found.resolve() == tmp_path / "set/images/a b.jpg"
    assert find_listed(entry.replace("a b", "gone"), folders) is None
    assert find_listed(entry.replace("a b", "b"), folders) is None  # set/b.jpg: the folder images is there, without it


def test_a_back_slash_in_a_name_is_one(tmp_path: Path) -> None:
    touch(tmp_path, r"a\b.jpg", "a/b.jpg")
    assert find_listed(r"a\b.jpg", [tmp_path]) == tmp_path / r"a\b.jpg"


def test_lists_written_by_windows_are_read_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    (tmp_path / "l.txt").write_bytes(b"# by a tool\r\ns\\images\\a.jpg\r\nC:\\s\\images\\b.jpg\r\nimages/c.jpg\r\n")
    (tmp_path / "d.data").write_text("classes=1\ntrain=l.txt\n")
    assert load_data(tmp_path / "d.data").train == tuple(tmp_path / "images" / f"{name}.jpg" for name in "abc")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert rf"l.txt: 2 paths written for another place: s\images\a.jpg is read as {tmp_path}/images/a.jpg" in said
    assert list(open_source(str(tmp_path / "l.txt")).names) == [  # type: ignore[union-attr]
        str(tmp_path / "images" / f"{name}.jpg") for name in "abc"
    ]


def test_an_export_of_cvat_as_it_is_unzipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # which has a folder of that name, too
    touch(tmp_path, "obj_train_data/1.jpg", "obj_train_data/1.txt", "obj_train_data/sub/2.jpg")
    (tmp_path / "train.txt").write_text("data/obj_train_data/1.jpg\ndata/obj_train_data/sub/2.jpg\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    text = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    (tmp_path / "obj.data").write_text(text)
    spec = load_data(tmp_path / "obj.data")
    assert spec.names == ("cat", "dog")
    assert spec.train == (tmp_path / "obj_train_data/1.jpg", tmp_path / "obj_train_data/sub/2.jpg")
    said = capsys.readouterr().err
    assert (
        f"obj.data:2: train: 1 path written for another place: data/train.txt is read as {tmp_path}/train.txt" in said
    )
    assert "train.txt: 2 paths written for another place: data/obj_train_data/1.jpg is read as" in said
    with pytest.raises(DataError, match=r"expected the key valid.*`python -m utils.data.split .*obj.data DST` divides"):
        load_both(spec, Ranks(), False)


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "utf-16"])
@pytest.mark.parametrize("file", ["d.names", "l.txt", "d.data", "d.yaml", "d.csv", "l.streams"])
def test_text_that_is_not_utf8_is_told_with_its_line(file: str, encoding: str, tmp_path: Path) -> None:
    contents = {
        "d.names": "cat\nX\n", "l.txt": "images/a.jpg\nX.jpg\n", "d.data": "classes=1\ntrain=X\n",
        "d.yaml": "nc: 1\ntrain: X\n", "d.csv": "image,class\na.jpg,X\n", "l.streams": "0\nX\n",
    }  # fmt: skip
    word = {"gbk": "行人", "latin-1": "Übergröße", "utf-16": "猫"}[encoding]
    (tmp_path / file).write_bytes(contents[file].replace("X", word).encode(encoding))
    if file in ("d.names", "l.txt"):
        (tmp_path / "d.data").write_text("classes=2\ntrain=l.txt\nnames=d.names\n")
        if file == "l.txt":
            (tmp_path / "d.names").write_text("cat\ndog\n")
    line = 1 if encoding == "utf-16" else 2
    with pytest.raises(DataError, match=rf"{file}:{line}: expected text in UTF-8, got the byte 0x"):
        if file == "d.csv":
            load_classes(str(tmp_path / file))
        elif file == "l.streams":
            open_source(str(tmp_path / file))
        else:
            load_data(tmp_path / (file if file == "d.yaml" else "d.data"))
