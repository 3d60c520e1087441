"""Dividing, renaming, labelling by a network, and drawing a data set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from utils.data import stats as data_stats
from utils.data.autolabel import AutolabelOptions, autolabel
from utils.data.datafile import load_data
from utils.data.labels import Sample, load_samples
from utils.data.remap import RemapOptions, remap
from utils.data.split import SplitOptions, split, stratify
from utils.data.stats import StatsOptions, small_boxes, stats
from utils.errors import DataError


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """20 images: a cat and a dog on each, and on every fifth a bird; two without anything."""
    folder = tmp_path / "animals"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(20):
        cv2.imwrite(str(folder / "images" / f"{index:02d}.png"), np.full((20, 40, 3), index * 10, np.uint8))
        rows = ["0 .5 .5 .25 .5", "1 .25 .25 .125 .25"] + ["2 .5 .5 1 1"] * (index % 5 == 0) if index < 18 else []
        (folder / "labels" / f"{index:02d}.txt").write_text("\n".join(rows))
    (folder / "a.names").write_text("cat\ndog\nbird\n")
    (folder / "a.data").write_text("classes=3\ntrain=images\nnames=a.names\n")
    return folder / "a.data"


def labels(data: Path, part: str = "train") -> list[list[list[float]]]:
    spec = load_data(data, test=True)
    return [sample.labels.tolist() for sample in load_samples(getattr(spec, part), spec.num_classes, part)[0]]


def test_division(animals: Path, tmp_path: Path) -> None:
    data = split(SplitOptions(str(animals), tmp_path / "new", valid=0.25, test=0.25))
    spec = load_data(data, test=True)
    assert (len(spec.train), len(spec.valid), len(spec.test)) == (10, 5, 5) and spec.names == ("cat", "dog", "bird")
    assert sorted((*spec.train, *spec.valid, *spec.test)) == sorted(load_data(animals).train)
    birds = [sum(row[0] == 2 for rows in labels(data, part) for row in rows) for part in ("train", "valid", "test")]
    assert birds == [2, 1, 1]
    again = split(SplitOptions(str(animals), tmp_path / "again", valid=0.25, test=0.25))
    other = split(SplitOptions(str(animals), tmp_path / "other", valid=0.25, test=0.25, seed=1))
    assert load_data(again).valid == spec.valid != load_data(other).valid


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_each_class_is_divided_in_the_same_shares(seed: int, share: float) -> None:
    """Classes of 2,000 down to 20 boxes; a division by chance misses the share of the rare ones by far more."""
    rng = np.random.default_rng(seed)
    rates = np.array([5, 2, 0.5, 0.15, 0.05])
    counts = rng.poisson(rates, (400, 5)) * (rng.random((400, 1)) < 0.9)
    rows = [np.repeat(np.arange(5), row)[:, None] * np.array([[1, 0, 0, 0, 0]]) for row in counts]
    samples = [Sample(Path("x"), row, (9, 9)) for row in rows]
    part = stratify(samples, [1 - share, share], seed)
    got = counts[part == 1].sum(axis=0)
    assert (np.abs(got - share * counts.sum(axis=0)) <= np.maximum(2, 0.03 * counts.sum(axis=0))).all()
    assert abs((part == 1).sum() - share * 400) <= 4


def test_renaming_merging_and_dropping(animals: Path, tmp_path: Path) -> None:
    remap(RemapOptions(str(animals), tmp_path / "pets", ("cat=pet", "dog=pet", "bird=")))
    data = tmp_path / "pets" / "pets.data"
    assert load_data(data).names == ("pet",)
    for before, after in zip(labels(animals), labels(data), strict=True):
        expected = [[0.0, *row[1:]] for row in before if row[0] != 2]
        np.testing.assert_allclose(np.array(after).reshape(-1, 5), np.array(expected).reshape(-1, 5), atol=1e-6)
    remap(RemapOptions(str(animals), tmp_path / "same", ("cat=lion",)))
    assert load_data(tmp_path / "same" / "same.data").names == ("lion", "dog", "bird")


def test_detections_become_labels(animals: Path, tmp_path: Path) -> None:
    image = animals.parent / "images" / "03.png"
    box = {"x1": 10, "y1": 5, "x2": 30, "y2": 15, "class": 1, "name": "dog"}
    found = [
        {"path": str(image), "width": 40, "height": 20, "boxes": [{**box, "score": 0.8}, {**box, "score": 0.3}]},
        {"path": "film.mp4", "width": 40, "height": 20, "frame": 3, "boxes": [{**box, "score": 0.8}]},
    ]
    (tmp_path / "detections.json").write_text(json.dumps(found))
    options = AutolabelOptions(str(tmp_path / "detections.json"), tmp_path / "auto", names=animals.parent / "a.names")
    autolabel(options)
    data = tmp_path / "auto" / "auto.data"
    assert load_data(data).names == ("cat", "dog", "bird")
    assert labels(data) == [[[1.0, 0.5, 0.5, 0.5, 0.5]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"class": float("inf")}], "OverflowError"),
        ([{"name": "a\nb"}], "expected text in one line"),
        ([{}, {"name": "cat"}], "expected one name a class"),
        ([{}, {"class": 2}], "expected one name a class"),
        ("[" * 100000, "not a JSON file"),
    ],
)
def test_detections_that_are_none(
    animals: Path, tmp_path: Path, changes: str | list[dict[str, object]], message: str
) -> None:
    box = {"x1": 10, "y1": 5, "x2": 30, "y2": 15, "class": 1, "name": "dog", "score": 0.9}
    image = str(animals.parent / "images" / "03.png")
    file = tmp_path / "detections.json"
    if isinstance(changes, str):
        file.write_text(changes)
    else:
        file.write_text(json.dumps([{"path": image, "boxes": [box | change]} for change in changes]))
    with pytest.raises(DataError, match=message):
        autolabel(AutolabelOptions(str(file), tmp_path / "new"))


def test_a_detection_without_size_is_a_problem(animals: Path, tmp_path: Path) -> None:
    box = {"x1": 10, "y1": 5, "x2": 30, "y2": 15, "class": 1, "name": "dog", "score": 0.9}
    row = {"path": str(animals.parent / "images" / "03.png"), "boxes": [box, box | {"x1": float("nan")}]}
    (tmp_path / "detections.json").write_text(json.dumps([row]))
    autolabel(AutolabelOptions(str(tmp_path / "detections.json"), tmp_path / "new"))
    assert labels(tmp_path / "new" / "new.data") == [[[0.0, 0.5, 0.5, 0.5, 0.5]]]
    assert "box of zero size: dog at nan" in (tmp_path / "new" / "problems.txt").read_text()


def test_drawing(animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes with their counts, sides in pixels of the input, boxes an image; and the file."""
    monkeypatch.chdir(tmp_path)
    drawn: list[Any] = []
    save = data_stats.save_figure
    monkeypatch.setattr(data_stats, "save_figure", lambda figure, path: (drawn.append(figure), save(figure, path)))
    folder = stats(StatsOptions(str(animals), img_size=400))
    assert cv2.imread(str(folder / "train.png")).shape == (900, 1200, 3) and not (folder / "valid.png").exists()
    classes, _, sides, per_image = drawn[0].axes[:4]
    names = [label.get_text() for label in classes.get_yticklabels()]
    counts = dict(zip(names, (bar.get_width() for bar in classes.patches), strict=True))
    assert counts == {"cat": 18, "dog": 18, "bird": 4}
    boxes = {tuple(box) for box in sides.collections[0].get_offsets().tolist()}
    assert boxes == {(100.0, 100.0), (50.0, 50.0), (400.0, 200.0)}  # of images of 40x20 at 400 pixels
    assert [bar.get_height() for bar in per_image.patches] == [2, 0, 14, 4]


def test_bad_input(animals: Path, tmp_path: Path) -> None:
    junk, empty = tmp_path / "junk.json", tmp_path / "empty.json"
    junk.write_text('[{"a": 1}]')
    empty.write_text("[]")
    new = tmp_path / "new"
    cases: list[tuple[Callable[..., object], object, str]] = [
        (split, SplitOptions(str(animals), new, valid=0.8, test=0.4), "expected shares that leave some for training"),
        (split, SplitOptions(str(animals), new, valid=0.01), "20 images are too few for any in valid"),
        (split, SplitOptions(str(animals), tmp_path), "expected a new or empty folder"),
        (
            remap,
            RemapOptions(str(animals), new, ("cow=pet",)),
            "cow=pet: expected OLD=NEW or OLD=, OLD one of cat, dog",
        ),
        (remap, RemapOptions(str(animals), new, ("cat=a", "cat=b")), "cat was changed before"),
        (remap, RemapOptions(str(animals), new, ("cat=", "dog=", "bird=")), "expected some class to be left"),
        (remap, RemapOptions(str(animals), new, ()), "expected changes"),
        (autolabel, AutolabelOptions(str(junk), new), "not what detect.py --save-json writes"),
        (autolabel, AutolabelOptions(str(empty), new), "no image in it can be read"),
    ]
    for function, options, message in cases:
        with pytest.raises(DataError, match=message):
            function(options)
        assert not new.exists()


def sample_of(sides: list[tuple[float, float]], size: tuple[int, int] = (1920, 1080)) -> Sample:
    """An image with boxes of these sides in its pixels."""
    rows = [[0, 0.5, 0.5, width / size[0], height / size[1]] for width, height in sides]
    return Sample(Path("x.png"), np.array(rows, np.float32).reshape(-1, 5), size)


@pytest.mark.parametrize(
    ("sides", "size", "words"),
    [
        ([(8, 8)] * 40, (416, 416), "40 boxes, 100 %, are under 2 px at 416 and not learnt: --img-size 736 leaves 0 %"),
        ([(8, 8)] * 40, (640, 640), None),  # 2.7 pixels
        ([(8, 300), (80, 80)], (416, 256), "1 box, 50 %, is under 2 px at 416,256 and not learnt: --img-size 736,448"),
        ([(1, 1)] * 2 + [(8, 8)] * 98 + [(90, 90)] * 900, (416, 416), "100 boxes, 10 %, are under 2 px at 416 and not"),
        ([(1, 1)] * 2 + [(8, 8)] * 98 + [(90, 90)] * 900, (416, 416), "--img-size 736 leaves 0.2 %"),
        ([(1, 1)], (416, 416), "and not learnt; no --img-size up to 4 times as large helps most of them"),
        ([], (416, 416), None),
    ],
)
def test_small_boxes_are_counted(sides: list[tuple[float, float]], size: tuple[int, int], words: str | None) -> None:
    said = small_boxes([sample_of(sides)], size, 32)
    assert said is None if words is None else said is not None and words in said
