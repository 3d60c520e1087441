"""Image folders and CSV files as classes, and crops of labelled boxes."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.classes import ClassData, load_classes
from utils.data.crops import CropOptions, crop
from utils.data.images import read_image
from utils.errors import DataError, InputError


def make_folder(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            cv2.imwrite(str(folder / name / f"{index}.png"), np.full((4, 4, 3), index, np.uint8))
    return folder


def found(data: ClassData, part: str) -> list[tuple[str, str]]:
    return [(sample.image.name, data.names[sample.label]) for sample in getattr(data, part)]


def test_a_folder_with_parts(tmp_path: Path) -> None:
    make_folder(tmp_path, {"Train/b": 2, "Train/a": 1, "validation/a": 1, "test/b": 1, ".hidden/c": 1})
    (tmp_path / "Train" / "a" / "notes.txt").write_text("x")
    data = load_classes(str(tmp_path))
    assert data.names == ("a", "b") and not data.chosen
    assert found(data, "train") == [("0.png", "a"), ("0.png", "b"), ("1.png", "b")]
    assert found(data, "valid") == [("0.png", "a")]
    assert found(data, "test") == [("0.png", "b")]


def test_a_fifth_of_each_class_is_held_out_where_there_are_no_parts(tmp_path: Path) -> None:
    make_folder(tmp_path, {"10": 20, "9": 5, "two": 2, "one": 1})
    data = load_classes(str(tmp_path))
    assert data.names == ("9", "10", "one", "two") and data.chosen  # numbers in their order
    assert [sum(sample.label == label for sample in data.valid) for label in range(4)] == [1, 4, 0, 1]
    assert len(data.train) + len(data.valid) == 28
    assert not {s.image for s in data.train} & {s.image for s in data.valid}
    assert load_classes(str(tmp_path)) == data != load_classes(str(tmp_path), seed=1)
    (tmp_path / "b" / "train").mkdir(parents=True)
    make_folder(tmp_path / "b" / "train", {"x": 5, "y": 5})  # a part, but none to validate on
    assert len(load_classes(str(tmp_path / "b")).valid) == 2


def test_a_csv_file(tmp_path: Path) -> None:
    make_folder(tmp_path, {"x": 3})
    (tmp_path / "d.csv").write_text(
        "split,class,image,more\ntrain,cat,x/0.png,1\ntrain,dog,x/1.png,2\nval,dog,x/2.png,3\n"
    )
    data = load_classes(str(tmp_path / "d.csv"))
    assert data.names == ("cat", "dog")
    assert [sample.image for sample in data.train] == [tmp_path / "x" / "0.png", tmp_path / "x" / "1.png"]
    assert found(data, "valid") == [("2.png", "dog")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na.png,b\n", r"d.csv:1: expected the columns image, class \(and split\), got file, class"),
        ("image,class\na.png,\n", "d.csv:2: expected an image and its class, got 'a.png' and ''"),
        ("image,class,split\na.png,b,dev\n", "d.csv:2: split: expected train, valid or test, got 'dev'"),
        ("image,class,split\nd.csv,b,train\nd.csv,c,\n", "expected a split for every image or for none"),
        ("image,class\n", "expected a line for each image"),
        ("image,class\nd.csv,b\n", "expected two classes at least, got b"),
        ("image,class\nd.csv,b\nnone.png,c\n", "d.csv:3: .*none.png: no such file"),
        ("image,class\n~nobody/x.png,c\n", "d.csv:2: .*nobody/x.png: no such file"),
        ("image,class\n\xff", "d.csv:2: expected text in UTF-8, got the byte 0xff"),
    ],
)
def test_csv_files_that_are_wrong(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        load_classes(str(tmp_path / "d.csv"))


def test_folders_that_are_wrong(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", {"train/x": 1, "train/y": 1})
    (tmp_path / "empty").mkdir()
    make_folder(tmp_path / "vehicles", {"train": 2, "bus": 2})  # a class that has the name of a part
    assert load_classes(str(tmp_path / "vehicles")).names == ("bus", "train")
    make_folder(tmp_path / "gap", {"train/x": 1, "train/y": 0, "valid/x": 1})
    assert load_classes(str(tmp_path / "gap")).names == ("x", "y")  # an empty one is not forgotten
    with pytest.raises(DataError, match="expected the classes x, z, got y"):
        load_classes(str(tmp_path / "a"), names=["x", "z"])
    with pytest.raises(DataError, match="expected a folder for each class with images in it, found none"):
        load_classes(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="no such folder or file"):
        load_classes(str(tmp_path / "none"))
    make_folder(tmp_path / "boxes", {"images": 1, "labels": 0})
    (tmp_path / "x.data").write_text("classes=1")
    for name in ("boxes", "x.data"):
        with pytest.raises(DataError, match="a detection data set: expected a class for each image"):
            load_classes(str(tmp_path / name))
    with pytest.raises(DataError, match="expected the classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more, got x, y"):
        load_classes(str(tmp_path / "a"), names=[str(number) for number in range(12)])


# ---- Crops ---------------------------------------------------------------------------------------------------------


def make_boxes(folder: Path) -> Path:
    """Two images of 100 x 60: a red box of 20 x 10 in the middle, and one of 4 x 4; a blue one at the left edge."""
    for index in range(2):
        image = np.zeros((60, 100, 3), np.uint8)
        image[25:35, 40:60] = (0, 0, 255)
        image[20:40, 0:10] = (255, 0, 0)
        (folder / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
        (folder / "images" / f"{index}.txt").write_text(
            f"0 .5 .5 .2 {10 / 60}\n1 .05 .5 .1 {20 / 60}\n0 .9 .9 .04 {4 / 60}\n"
        )
    (folder / "images" / "bad.png").write_bytes(cv2.imencode(".png", image)[1].tobytes()[:60])
    (folder / "images" / "bad.txt").write_text("0 .5 .5 .2 .2\n")
    (folder / "d.names").write_text("red\nblue\n")
    (folder / "d.data").write_text("classes=2\ntrain=images\nnames=d.names\n")
    return folder / "d.data"


def test_crops_are_squares_about_the_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_boxes(tmp_path)
    crop(CropOptions(str(data), tmp_path / "out", margin=0.25))
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.jpg"))
    assert files == [f"train/{name}/00000{i}_{j}.jpg" for name, j in (("blue", 1), ("red", 0)) for i in range(2)]
    red = read_image(tmp_path / "out" / "train" / "red" / "000000_0.jpg")
    assert red.shape == (30, 30, 3)  # 20 pixels and a quarter of them on either side
    assert red[15, 15, 2] > 200 and red[15, 2, 2] < 60 and red[5, 15, 2] < 60
    assert red[:, 5:25][10:20, :, 2].mean() > 200
    blue = read_image(tmp_path / "out" / "train" / "blue" / "000000_1.jpg")
    assert blue.shape == (30, 20, 3)  # the image ends 5 pixels to the left of the box's middle
    assert "4 crops in train" in capsys.readouterr().out


def test_crops_of_what_cannot_be_cut(tmp_path: Path) -> None:
    data = make_boxes(tmp_path)
    crop(CropOptions(str(data), tmp_path / "out"))
    for options, message in (
        (CropOptions(str(data), tmp_path / "out"), "expected a new or empty folder"),
        (CropOptions(str(data), tmp_path / "new", margin=-1), "--margin -1: expected 0 to 2"),
        (CropOptions(str(data), tmp_path / "new", min_side=0), "--min-side 0: expected at least 1"),
        (CropOptions(str(data), tmp_path / "new", min_side=90), "expected boxes of 90 pixels or more, found none"),
    ):
        with pytest.raises(InputError, match=message):
            crop(options)
    (tmp_path / "d.names").write_text("red/green\nblue\n")
    with pytest.raises(DataError, match="expected a name that a folder can have"):
        crop(CropOptions(str(data), tmp_path / "new"))
    assert not (tmp_path / "new").exists()
