"""utils/data/formats.py: VOC and COCO folders made here, and the real ones, against counts and hand-worked boxes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import safe_name
from utils.data.coco import read_truth
from utils.data.datafile import load_data
from utils.data.formats import main
from utils.data.labels import label_path, load_samples, read_labels
from utils.errors import DataError

Box = tuple[str, float, float, float, float]


def write_image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def voc_xml(boxes: list[Box], size: tuple[int, int] = (100, 50)) -> str:
    objects = "".join(
        f"<object><name>{name}</name><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><bndbox>"
        f"<ymin>{y0}</ymin><xmin>{x0}</xmin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in boxes
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Two training images and one to test on, 100x50 pixels."""
    folder = tmp_path / "voc"
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for name in ("a", "b", "c"):
        write_image(folder / "JPEGImages" / f"{name}.jpg", (100, 50))
    (folder / "ImageSets/Main/trainval.txt").write_text("a\nb\n")
    (folder / "ImageSets/Main/test.txt").write_text("c\n")
    (folder / "Annotations/a.xml").write_text(voc_xml([("dog", 1, 1, 100, 50), ("cat", 11, 6, 30, 15)]))
    (folder / "Annotations/b.xml").write_text(voc_xml([]))
    (folder / "Annotations/c.xml").write_text(voc_xml([("dog", 51, 26, 100, 50)]))
    return folder


def labels_of(data: Path, split: str = "train") -> dict[str, np.ndarray]:
    spec = load_data(data)
    images = spec.train if split == "train" else spec.valid
    return {image.name: read_labels(label_path(image), spec.num_classes)[0] for image in images}


def test_voc(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out" / "pets"
    main(["voc", str(voc), str(target)])
    spec = load_data(target / "pets.data")
    assert spec.names == ("cat", "dog")
    assert [image.name for image in spec.train] == ["a.jpg", "b.jpg"] and [image.name for image in spec.valid] == [
        "c.jpg"
    ]
    assert all(image.is_symlink() and image.is_file() for image in spec.train)
    labels = labels_of(target / "pets.data")
    np.testing.assert_allclose(labels["a.jpg"], [[1, 0.5, 0.5, 1, 1], [0, 0.2, 0.2, 0.2, 0.2]], atol=1e-6)
    assert labels["b.jpg"].shape == (0, 5)
    np.testing.assert_allclose(
        labels_of(target / "pets.data", "valid")["c.jpg"], [[1, 0.75, 0.75, 0.5, 0.5]], atol=1e-6
    )
    assert not (target / "problems.txt").exists()
    assert (target / "train.txt").read_text() == "images/train/a.jpg\nimages/train/b.jpg\n"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 2 images (1 without boxes), 2 boxes, 0 problems"
    assert lines[-1] == f"next: python train.py --data {target / 'pets.data'}"


def test_voc_copy_and_names(voc: Path, tmp_path: Path) -> None:
    (tmp_path / "order.names").write_text("dog\nbird\ncat\n")
    main(["voc", str(voc), str(tmp_path / "out"), "--copy", "--names", str(tmp_path / "order.names")])
    spec = load_data(tmp_path / "out" / "out.data")
    assert spec.names == ("dog", "bird", "cat")
    assert not any(image.is_symlink() for image in spec.train)
    assert labels_of(spec.path)["a.jpg"][:, 0].tolist() == [0, 2]


def test_voc_problems_are_named_and_counted(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes: list[Box] = [
        ("dog", 20, 20, 20, 20),
        ("dog", 0, 0, 120, 25),
        ("dog", 130, 1, 150, 9),
        ("dog", "x", 1, 2, 3),  # type: ignore[list-item]
        ("", 1, 1, 9, 9),
        ("dog", 11, 11, 20, 20),
    ]
    (voc / "Annotations/a.xml").write_text(voc_xml(boxes, size=(101, 50)))
    (voc / "ImageSets/Main/trainval.txt").write_text("a\nb\ngone\nbroken\n")
    (voc / "Annotations/b.xml").write_text("<annotation><object>")
    (voc / "Annotations/broken.xml").write_text(voc_xml([]))
    main(["voc", str(voc), str(tmp_path / "out")])
    labels = labels_of(tmp_path / "out" / "out.data")
    assert list(labels) == ["a.jpg"]
    np.testing.assert_allclose(labels["a.jpg"][:, 1:], [[0.5, 0.25, 1, 0.5], [0.15, 0.3, 0.1, 0.2]], atol=1e-6)
    captured = capsys.readouterr()
    assert "train: 1 boxes clipped to the image" in captured.out
    for kind in (
        "size disagrees", "box of zero size", "box outside its image", "box without numbers", "object without a name",
        "not valid XML", "missing annotation", "unreadable image",
    ):  # fmt: skip
        assert f"{kind} (1)" in captured.err, kind
    assert len((tmp_path / "out" / "problems.txt").read_text().splitlines()) == 8


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_voc_refuses_document_types(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    text = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + voc_xml([("&x;", 1, 1, 5, 5)])
    (voc / "Annotations/b.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?>{text}', encoding=encoding)
    main(["voc", str(voc), str(tmp_path / "out")])
    assert "b.xml: unsafe XML: expected no document type" in capsys.readouterr().err
    assert list(labels_of(tmp_path / "out" / "out.data")) == ["a.jpg"]


def fails(argv: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in argv])
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_voc_errors(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(["voc", voc, tmp_path / "out", "--valid", "val"], capsys)
    assert "val.txt: no such list" in message and message.endswith("which has: test, trainval")
    (tmp_path / "one.names").write_text("cat\n")
    message = fails(["voc", voc, tmp_path / "out", "--names", tmp_path / "one.names"], capsys)
    assert "there are boxes of dog" in message
    (voc / "ImageSets/Main/test.txt").write_text("../../secret\n")
    message = fails(["voc", voc, tmp_path / "out"], capsys)
    assert "test.txt:1: expected a file name within the folder, got '../../secret'" in message
    (voc / "ImageSets/Main/test.txt").write_text("gone\n")
    assert "valid: no image left to write" in fails(["voc", voc, tmp_path / "out"], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.names", "voc"], "nothing half-made stays"


def test_nothing_is_overwritten(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    assert "expected a new or empty folder" in fails(["voc", voc, target], capsys)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]
    (target / "mine.txt").unlink()
    main(["voc", str(voc), str(target)])
    assert (target / "out.data").is_file()


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.jpg", "a/../../b.jpg", "..", "", "C:/a.jpg", "a\\..\\b", "a\nb.jpg"]
)
def test_names_may_not_leave_the_folder(name: str) -> None:
    with pytest.raises(DataError, match=r"here: expected a file name within the folder"):
        safe_name(name, "here")


def write_coco(tmp_path: Path, **changes: Any) -> Path:
    document = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 9, "file_name": "images/b.jpg", "width": 40, "height": 40},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 10, 20, 10], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [90.5, 0, 20, 50.001], "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 50, 50], "iscrowd": 1},
            {"id": 4, "image_id": 9, "category_id": 3, "bbox": [5, 5, 0, 3], "iscrowd": 0},
            {"id": 5, "image_id": 9, "category_id": 3, "bbox": [0, 0, 40, 20]},
        ],
    } | changes
    write_image(tmp_path / "pictures" / "a.jpg", (100, 50))
    write_image(tmp_path / "pictures" / "images" / "b.jpg", (40, 40))
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return path


def test_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["coco", str(write_coco(tmp_path)), str(tmp_path / "pictures"), str(tmp_path / "out")])
    spec = load_data(tmp_path / "out" / "out.data")
    assert spec.names == ("car", "dog"), "in the order of the ids"
    assert spec.train == spec.valid
    labels = labels_of(spec.path)
    np.testing.assert_allclose(labels["a.jpg"], [[1, 0.2, 0.3, 0.2, 0.2], [0, 0.9525, 0.5, 0.095, 1]], atol=1e-6)
    np.testing.assert_allclose(labels["b.jpg"], [[0, 0.5, 0.25, 1, 0.5]], atol=1e-6)
    captured = capsys.readouterr()
    assert "train: 1 crowd regions left out" in captured.out and "train: 1 boxes clipped to the image" in captured.out
    assert "valid: the same images as train" in captured.out
    assert "box of zero size: car at 5,5,5,8 (annotation 4 of image 9, images/b.jpg)" in captured.err


def test_coco_with_validation_and_copies(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    argv = ["coco", path, tmp_path / "pictures", tmp_path / "out", "--valid-annotations", path, "--copy"]
    main([str(word) for word in argv])
    spec = load_data(tmp_path / "out" / "out.data")
    assert len(spec.train) == len(spec.valid) == 2 and not set(spec.train) & set(spec.valid)
    assert labels_of(spec.path, "valid")["b.jpg"].shape == (1, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": []}, "categories: expected names that differ"),
        ({"images": None}, "expected a list 'images'; there are: images, categories, annotations"),
        ({"images": [{"id": 1}]}, "images[0]: expected the fields id, file_name"),
        ({"images": [{"id": 1, "file_name": "gone.jpg"}], "annotations": []}, "train: no image left to write"),
        ({"annotations": [{"id": 1}]}, "annotations[0]: expected the fields image_id, category_id, bbox"),
    ],
)
def test_coco_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str) -> None:
    path = write_coco(tmp_path, **change)
    assert message in fails(["coco", path, tmp_path / "pictures", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


def test_coco_odd_objects_are_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = [
        {"id": 1, "image_id": 1000, "category_id": 3, "bbox": [0, 0, 9, 9]},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 9, 9]},
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 9]},
        {"id": 4, "image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 9]},
    ]
    main(["coco", str(write_coco(tmp_path, annotations=objects)), str(tmp_path / "pictures"), str(tmp_path / "out")])
    assert labels_of(tmp_path / "out" / "out.data")["a.jpg"].shape == (1, 5)
    err = capsys.readouterr().err
    for kind in ("unknown image", "unknown category", "box without numbers"):
        assert f"{kind} (1)" in err, kind


def test_coco_broken_json_and_orphan_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_coco(tmp_path)
    argv = ["coco", path, tmp_path / "pictures", tmp_path / "out"]
    assert "expected --valid-annotations with it" in fails([*argv, "--valid-images", tmp_path], capsys)
    path.write_text('{"images": [\n1,,]}')
    assert "instances.json:2: not valid JSON" in fails(argv, capsys)


def test_two_images_may_not_share_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "pictures" / "a.png", (9, 9))
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.png"}]
    path = write_coco(tmp_path, images=images, annotations=[])
    assert "a.png: another image has the same name" in fails(
        ["coco", path, tmp_path / "pictures", tmp_path / "out"], capsys
    )


def test_links_that_cannot_be_made_become_copies(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    main(["voc", str(voc), str(tmp_path / "out")])
    spec = load_data(tmp_path / "out" / "out.data")
    assert all(image.is_file() and not image.is_symlink() for image in spec.train)


@pytest.fixture
def real(shared: Path) -> Callable[[str], Path]:
    """A real data set by its folder's name; skips where it is missing."""

    def find(name: str) -> Path:
        folder = shared / "datasets" / name
        if not folder.is_dir():
            pytest.skip(f"real inputs are not here: {folder} is missing")
        return folder

    return find


def test_bccd(real: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["voc", str(real("bccd")), str(tmp_path / "bccd")])
    spec = load_data(tmp_path / "bccd" / "bccd.data")
    assert spec.names == ("Platelets", "RBC", "WBC")
    for images, num_images, num_boxes in ((spec.train, 292, 3941), (spec.valid, 72, 945)):
        samples, problems = load_samples(images, spec.num_classes, "bccd")
        assert (len(samples), sum(len(sample.labels) for sample in samples), problems) == (num_images, num_boxes, [])
    problems_text = (tmp_path / "bccd" / "problems.txt").read_text().splitlines()
    assert ["BloodImage_00338.xml: box of zero size" in problems_text[0], len(problems_text)] == [True, 2]
    assert "BloodImage_00343.xml: box of zero size" in capsys.readouterr().err


def test_coco128_agrees_with_its_published_labels(real: Callable[[str], Path], tmp_path: Path) -> None:
    """The YOLO labels that come with coco128 were made by others from the same annotations' outlines."""
    folder = real("coco128")
    argv = ["coco", folder / "instances_train2017.json", folder / "images", tmp_path / "out"]
    main([str(word) for word in argv])
    spec = load_data(tmp_path / "out" / "out.data")
    assert len(spec.train) == 128 and spec.num_classes == 80
    boxes = matched = 0
    for name, ours in labels_of(spec.path).items():
        theirs, _ = read_labels(folder / "labels" / Path(name).with_suffix(".txt").name, 80)
        boxes += len(ours)
        for row in ours:
            same = theirs[theirs[:, 0] == row[0]]
            matched += bool(len(same)) and bool(np.abs(same[:, 1:] - row[1:]).max(axis=1).min() < 0.01)
    assert boxes == 929
    assert matched >= 0.95 * boxes


def test_objects_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For measuring: crowds and areas stay, nothing is clipped; what does not fit together is an error."""
    document = {
        "images": [{"id": 7, "file_name": "a/1.jpg"}, {"id": 8, "file_name": "2.jpg"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [-1, 2, 10, 20], "area": 5.5, "iscrowd": 1},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]},
        ],
    }
    file = tmp_path / "x.json"
    file.write_text(json.dumps(document))
    one, two = Path("images/valid/a/1.jpg"), Path("images/valid/2.jpg")
    truth = read_truth(file, ("dog", "cat"), [one, two])
    assert truth.category_ids == (90, 3) and truth.images[two].boxes.shape == (0, 5)
    objects = truth.images[one]
    assert objects.image_id == 7 and objects.boxes.tolist() == [[0, -1, 2, 9, 22], [1, 1, 2, 4, 6]]
    assert objects.area.tolist() == [5.5, 12] and objects.crowd.tolist() == [True, False]
    with pytest.raises(DataError, match=r"'bird' is in one alone"):
        read_truth(file, ("dog", "cat", "bird"), [one])
    with pytest.raises(DataError, match=r"expected all validation images, images/valid/3\.jpg is not in it"):
        read_truth(file, ("dog", "cat"), [one, Path("images/valid/3.jpg")])
    document["annotations"][0]["image_id"] = 9
    file.write_text(json.dumps(document))
    assert read_truth(file, ("dog", "cat"), [one]).images[one].boxes.shape == (1, 5)
    assert "unknown image: annotation 1 of image 9" in capsys.readouterr().err
