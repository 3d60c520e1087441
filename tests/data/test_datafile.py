"""utils/data/datafile.py: what both formats give, where paths are looked for, and what each mistake is told."""

import errno
from functools import partial
from pathlib import Path

import pytest

from utils.data import datafile, shapes
from utils.data.classes import load_classes
from utils.data.datafile import load_data
from utils.data.labels import load_samples
from utils.errors import DataError, InputError
from utils.files import PROJECT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images a..d in images/{train,valid}, lists of them, and names; the working folder is elsewhere."""
    for name in ("train/a.jpg", "train/sub/b.PNG", "valid/c.jpg", "valid/d.txt"):
        path = tmp_path / "set" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "set" / "train.txt").write_text("./images/train/a.jpg\n\nimages/train/sub/b.PNG\n")
    (tmp_path / "set" / "two.names").write_text("cat\n\ndog\n\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "set"


BOMB = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "{}: [*i, *i]\n"
)
"""A list of lists of lists ... that would be written out as a hundred million letters."""


def write(folder: Path, text: str, name: str = "set.data") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_darknet(folder: Path) -> None:
    path = write(
        folder,
        "# a set\nclasses = 2\ntrain=train.txt\n; more\nvalid = images/valid\nnames=two.names\nbackup=x/\neval=coco\n",
    )
    spec = load_data(path)
    assert spec.names == ("cat", "dog") and spec.num_classes == 2 and spec.path == path
    assert spec.train == (folder / "images/train/a.jpg", folder / "images/train/sub/b.PNG")
    assert spec.valid == (folder / "images/valid/c.jpg",)


def test_several_sources_and_no_names(folder: Path) -> None:
    spec = load_data(write(folder, "classes=3\ntrain=images/valid, train.txt\n"))
    assert [image.name for image in spec.train] == ["c.jpg", "a.jpg", "b.PNG"]
    assert spec.valid == () and spec.names == ("class_0", "class_1", "class_2")


def test_count_comes_from_the_names(folder: Path) -> None:
    assert load_data(write(folder, "valid=images/valid\nnames=two.names")).names == ("cat", "dog")


@pytest.mark.parametrize(
    "text",
    [
        "path: .\ntrain: images/train\nval: images/valid\nnames: [cat, dog]\nnc: 2\n",
        "train: train.txt\nval: [images/valid]\nnames: {1: dog, 0: cat}\ndownload: https://example.org/a.zip\n",
        "path: ../set\ntrain: images/train\nvalid: images/valid\nnames:\n  - cat\n  - dog\n",
        "train: ../images/train\nval: ../images/valid\nnames: [cat, dog]\n",  # Roboflow's way
    ],
)
def test_yaml(folder: Path, text: str) -> None:
    (folder / "train").mkdir(exist_ok=True)
    spec = load_data(write(folder, text, "set.yaml"))
    assert spec.names == ("cat", "dog")
    assert [image.resolve() for image in spec.train] == [
        folder / "images/train/a.jpg",
        folder / "images/train/sub/b.PNG",
    ]
    assert [image.resolve() for image in spec.valid] == [folder / "images/valid/c.jpg"]


@pytest.mark.parametrize(
    "words",
    [("SE", "NO", "DK"), ("01", "1", "1.10"), ("null", "on", "~"), ("2024-01-01", "0x1", "1_000"), ("=", "<<", ".inf")],
)
def test_yaml_names_are_the_words_as_they_are_written(folder: Path, words: tuple[str, ...]) -> None:
    a, b, c = words
    for text in (f"[{a}, {b}, {c}]", f"{{0: {a}, 1: {b}, 2: {c}}}", f"{{'0': {a}, 2: {c}, \"1\": {b}}}"):
        assert load_data(write(folder, f"names: {text}\ntrain: train.txt\n", "set.yaml")).names == words
    text = f"names:\n  - {a}\n  - '{b}'\n  - {c}  # a remark\nnc: 3\ntrain: train.txt\ntest:\n"
    assert load_data(write(folder, text, "set.yaml")).names == words


def test_paths_fall_back_to_the_working_folder(folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "elsewhere" / "pictures" / "e.jpg"
    image.parent.mkdir()
    image.touch()
    (tmp_path / "elsewhere" / "list.txt").write_text("pictures/e.jpg\nimages/train/a.jpg\n")
    spec = load_data(write(folder, "classes=1\ntrain=list.txt"))
    assert spec.train == (image, folder / "images/train/a.jpg")


def test_an_entry_that_is_missing_stays_listed(folder: Path) -> None:
    (folder / "train.txt").write_text("images/train/a.jpg\nimages/train/gone.jpg\n")
    spec = load_data(write(folder, "classes=1\ntrain=train.txt"))
    assert spec.train == (folder / "images/train/a.jpg", folder / "images/train/gone.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "classes=3\ntrain=train.txt\nnames=two.names",
            r"set\.data:1: classes: expected the number of names, 2, got 3",
        ),
        ("train=train.txt", r"set\.data: classes: missing"),
        ("classes=many\ntrain=train.txt", r":1: classes: expected 1 to 99999, got 'many'"),
        ("classes=0\ntrain=train.txt", r":1: classes: expected 1 to 99999, got '0'"),
        ("classes=300000000\ntrain=train.txt", r":1: classes: expected 1 to 99999, got '300000000'"),
        ("classes=" + "9" * 5000 + "\ntrain=train.txt", r":1: classes: expected 1 to 99999, got '99999"),
        ("classes=2\nvalid=/dev/zero", r"/dev/zero: expected a file"),
        ("names=/dev/zero\ntrain=train.txt", r"/dev/zero: no such file"),
        ("names=escape.names\ntrain=train.txt", r"expected class names without control characters, got 'a\\x1b"),
        ("classes=2", r"set\.data: expected train or valid"),
        ("classes=2\nvaild=train.txt", r":2: unknown key 'vaild'; known are classes, train"),
        ("classes=2\ntrain", r":2: expected key=value, got 'train'"),
        ("classes=2\ntrain=", r":2: expected key=value"),
        ("classes=2\nclasses=2\ntrain=train.txt", r":2: classes was already given in line 1"),
        ("classes=2\ntrain=gone.txt", r":2: train=gone\.txt: no such file or folder \(looked at .*set/gone\.txt"),
        ("classes=2\ntrain=images/valid,empty", r":2: train: expected images, but this folder holds none: .*empty"),
        ("classes=2\ntrain=empty.txt", r":2: train: expected images, but this list names none: .*empty\.txt"),
        ("classes=2\ntrain=bad.txt", r"bad\.txt:1: expected image paths, but none of the 1 exist; .*set/nothing\.jpg"),
        ("classes=2\ntrain=binary.txt", r"binary\.txt:1: expected text in UTF-8, got the byte 0xff"),
        ("names=empty.txt\ntrain=train.txt", r"empty\.txt: expected class names"),
        ("generator=stars\ntrain=a\nclasses=1", r":1: generator: expected shapes, got 'stars'"),
        ("generator=shapes\ntrain=s/train\nvalid=s/valid\nclasses=3", r":1: generator=shapes draws into FOLDER/images"),
    ],
)
def test_darknet_mistakes(folder: Path, text: str, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    (folder / "bad.txt").write_text("nothing.jpg\n")
    (folder / "escape.names").write_text("a\x1b[31m\n")
    (folder / "binary.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=message) as caught:
        load_data(write(folder, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, b]\nnc: 3\ntrain: train.txt", r"set\.yaml: nc: expected the number of names, 2, got 3"),
        ("train: train.txt", r"set\.yaml: nc: missing"),
        ("nc: -1\ntrain: train.txt", r"nc: expected 1 to 99999, got '-1'"),
        ("names: [a]", r"expected train or valid"),
        ("names: [a]\nvaild: train.txt\ntrain: train.txt", r"unknown key 'vaild'; did you mean 'valid'\?"),
        ("names: {0: a, 2: b}\ntrain: train.txt", r"names: expected the keys 0..1, got \['0', '2'\]"),
        ("names: {1: a, 01: b}\ntrain: train.txt", r"names: expected the keys 0..1, got \['1', '01'\]"),
        ("names: [NO, NO]\ntrain: train.txt", r"names: expected distinct class names, got 'NO' 2 times"),
        ("names: [a, '']\ntrain: train.txt", r"names: expected a name for class 1, got ''"),
        ("names: [a, ]\nnc: 2\ntrain: train.txt", r"nc: expected the number of names, 1, got 2"),
        ("names: [a, [b]]\ntrain: train.txt", r"names: expected a name for class 1, got \['b'\]"),
        ("names: cat\ntrain: train.txt", r"names: expected a list or a mapping .* got 'cat'"),
        ("names: [a]\ntrain: 5", r"train: expected a path or a list of paths, got 5"),
        ("names: [a]\npath: nowhere\ntrain: train.txt", r"path=nowhere: no such file or folder"),
        ("names: [a\ntrain: train.txt", r"set\.yaml:\d: not valid YAML"),
        ("just text", r"expected keys such as train"),
        ("names: {0: a, 0: b}", r"set\.yaml:1: not valid YAML: 0 is given twice"),
        ("names: [a]\nkpt_shape: [17, 3]\ntrain: train.txt", r"kpt_shape: expected labels of boxes or polygons"),
        ("names: [" + "[" * 1000, r"set\.yaml: not valid YAML: nested too deeply"),
        ('names: ["a\\nb"]\ntrain: train.txt', r"names: expected class names without control characters, got 'a\\nb'"),
        (BOMB.format("names"), r"names: expected a name for class 0, got \[\["),
        (BOMB.format("nc"), r"nc: expected one value, got \[\["),
        (BOMB.format("path"), r"path: expected one value, got \[\["),
        (BOMB.format("nc: 1\ntrain"), r"train: expected a path or a list of paths, got \[\["),
        ("names: {" + "9" * 900 + ": a}\ntrain: train.txt", r"names: expected the keys 0..0, got \['9999"),
        ("names: !!python/object/apply:os.getcwd []", r"not valid YAML"),
    ],
)
def test_yaml_mistakes(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(write(folder, text, "set.yaml"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_missing_file() -> None:
    with pytest.raises(DataError, match=r"nothing\.data: no such file \(looked at .*data/nothing\.data"):
        load_data("nothing.data")


def test_generator_draws_on_first_use_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = shapes.generate

    def few(target: Path) -> None:
        drawn.append(target)
        original(target, train=3, valid=2, size=96)

    monkeypatch.setattr(datafile.shapes, "generate", few)
    text = "generator=shapes\nclasses=3\ntrain=drawn/images/train\nvalid=drawn/images/valid"
    for _ in range(2):
        spec = load_data(write(folder, text))
        assert (len(spec.train), len(spec.valid)) == (3, 2)
    assert drawn == [folder / "drawn"] * 2
    assert all(image.is_file() for image in spec.train + spec.valid)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_project(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The embedded data are drawn, and cut out, in the user's cache; an error says so where that is read-only, too."""
    data, original = folder / "data", Path.mkdir
    data.mkdir()
    read_only = [data]

    def mkdir(path: Path, *args: int, **options: bool) -> None:
        if any(path.is_relative_to(place) for place in read_only) and not path.is_dir():
            raise OSError(number, "not for writing", str(path))
        original(path, *args, **options)

    (data / "shapes.data").write_text((PROJECT / "data" / "shapes.data").read_text())
    (data / "shapes.names").write_text("\n".join(shapes.NAMES))
    monkeypatch.setattr(Path, "mkdir", mkdir)
    for module in ("utils.files", "utils.data.classes"):
        monkeypatch.setattr(f"{module}.PROJECT", folder)
    monkeypatch.setattr(datafile.shapes, "generate", partial(shapes.generate, train=4, valid=2, size=64))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        spec = load_data("shapes.data")
        crops = load_classes("shapes")
    place = tmp_path / "cache" / "ghost-yolo"
    assert spec.train == tuple(place / "shapes" / "images" / "train" / f"{i:04}.jpg" for i in range(4))
    assert len(load_samples(spec.valid, 3, "valid")[0]) == 2 and crops.path == place / "shapes-crops"
    assert sorted(path.name for path in data.iterdir()) == ["shapes.data", "shapes.names"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(data))
    with pytest.raises(InputError, match=r"shapes: cannot be written, nor can .*shapes: set XDG_CACHE_HOME"):
        load_data("shapes.data")


def test_the_files_that_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    """shapes.data names the folder that is drawn; coco.names has the 80 classes in Darknet's order."""
    targets: list[Path] = []
    monkeypatch.setattr(datafile.shapes, "generate", targets.append)
    monkeypatch.setattr(datafile, "_find_images", lambda *_: (Path("a.jpg"),))
    spec = load_data("shapes.data")
    assert spec.names == shapes.NAMES and targets == [spec.path.parent / "shapes"]
    coco = datafile.read_names(spec.path.parent / "coco.names")
    assert len(coco) == len(set(coco)) == 80
    assert (coco[0], coco[16], coco[79]) == ("person", "dog", "toothbrush")
