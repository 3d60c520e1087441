"""utils/data/labels.py: every kind of bad line is left out, named, and nothing else is."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from utils.data.labels import (
    CLIPPED,
    CONFIDENCE,
    ORIENTED,
    POLYGON,
    Problem,
    Remark,
    label_path,
    label_places,
    load_samples,
    pixel_boxes,
    read_labels,
    report,
    spread,
)
from utils.errors import DataError


def write_image(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/1.jpg", "labels/1.txt"),
        ("/a/images/train/1.jpg", "/a/labels/train/1.txt"),
        ("/images/b/images/1.2.png", "/images/b/labels/1.2.txt"),
        ("/a/my_images/1.jpg", "/a/my_images/1.txt"),
        ("/a/images", "/a/images.txt"),
    ],
)
def test_labels_are_first_looked_for(image: str, labels: str) -> None:
    assert label_places(Path(image))[0] == Path(labels)


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/a.jpg", "labels/a.txt"),
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("images/train2017/a.jpg", "labels/train2017/a.txt"),
        ("VOCdevkit/VOC2007/JPEGImages/a.jpg", "VOCdevkit/VOC2007/labels/a.txt"),
        ("images/VOC2012/JPEGImages/a.jpg", "images/VOC2012/labels/a.txt"),
        ("Images/x/a.png", "Labels/x/a.txt"),
        ("img/a.jpg", "label/a.txt"),
        ("raw/a.jpg", "labels/a.txt"),
        ("images/raw/a.jpg", "labels/raw/a.txt"),
        ("images/b/images/a.jpg", "images/b/labels/a.txt"),
        ("images/b/images/a.jpg", "labels/b/images/a.txt"),
        ("images/a.jpg", "images/a.txt"),
        ("pictures/a.jpg", "pictures/a.txt"),
    ],
)
def test_labels_are_found_where_others_put_them(tmp_path: Path, image: str, labels: str) -> None:
    (tmp_path / labels).parent.mkdir(parents=True)
    assert label_path(tmp_path / image) == (tmp_path / image).with_suffix(".txt")  # where it would be
    (tmp_path / labels).touch()
    assert label_path(tmp_path / image) == tmp_path / labels


def test_label_path_falls_back_to_beside_the_image(tmp_path: Path) -> None:
    image = tmp_path / "images" / "1.jpg"
    assert label_path(image) == tmp_path / "images" / "1.txt"
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.txt").touch()
    assert label_path(image) == tmp_path / "labels" / "1.txt"


def test_good_labels(tmp_path: Path) -> None:
    path = tmp_path / "1.txt"
    path.write_text("\ufeff0 0.5 0.5 1 1\n\n2 0.25 .75 1e-1 0.5\r\n", encoding="utf-8")
    labels, problems = read_labels(path, 3)
    assert problems == []
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.array([[0, 0.5, 0.5, 1, 1], [2, 0.25, 0.75, 0.1, 0.5]], np.float32))


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("3 .5 .5 .1 .1", "class out of range"),
        ("-1 .5 .5 .1 .1", "class out of range"),
        ("0.5 .5 .5 .1 .1", "class is not an integer"),
        ("0 1.2 .5 .1 .1", "coordinates outside 0..1"),
        ("0 .5 -.1 .1 .1", "coordinates outside 0..1"),
        ("0 .5 .5 .1 320", "coordinates outside 0..1"),
        ("0 1.0101 .5 .1 .1", "coordinates outside 0..1"),
        ("0 .5 .5 -.0101 .1", "coordinates outside 0..1"),
        ("0 .1 .1 .2 .1 .2 .2 .1 1.02", "coordinates outside 0..1"),
        ("0 .5 .5 .2 .2 .9 1", "seven columns"),  # may be a box with confidence and track number
        ("0 .5 .5 .2 .2 .9 17", "seven columns"),
        ("0 .1 .2 .3 .2 .2 .6", "seven columns"),  # may be a triangle
        ("0 .5 .5 -.01 .1", "box of zero size"),
        ("0 .1 .1 .2 .1 .3 .1 .4 .1", "box of zero size"),
        ("0 .5 .5 .1", "wrong number of columns"),
        ("0 .1 .1 .2 .1 .2 .2 .1", "wrong number of columns"),
        ("0 .5 .5 .1 .1 17", "wrong number of columns"),
        ("0 .5 .5 .1 .1 nan", "not a number"),
        ("1 .5 .5 .25 .25 .9", "duplicate box"),
        ("cat .5 .5 .1 .1", "not a number"),
        ("0 nan .5 .1 .1", "not a number"),
        ("inf .5 .5 .1 .1", "not a number"),
        ("0 .5 .5 0 .1", "box of zero size"),
        ("1 .5 .5 .25 .25", "duplicate box"),
    ],
)
def test_bad_line_is_left_out_and_named(tmp_path: Path, line: str, kind: str) -> None:
    path = tmp_path / "1.txt"
    path.write_text(f"1 .5 .5 .25 .25\n{line}\n2 .5 .5 .5 .5\n")
    labels, problems = read_labels(path, 3)
    assert labels[:, 0].tolist() == [1, 2]
    assert [(problem.path, problem.line, problem.kind) for problem in problems] == [(path, 2, kind)]
    assert str(problems[0]).startswith(f"{path}:2: {kind}: ")


@pytest.mark.parametrize(
    ("line", "box", "kinds"),
    [
        ("0 0.5 0.5 1.0000001 1.0", [0.5, 0.5, 1, 1], [CLIPPED]),
        ("0 -0.0000001 .5 .1 .1", [0, 0.5, 0.1, 0.1], [CLIPPED]),
        ("0 .5 1.01 .1 1.01", [0.5, 1, 0.1, 1], [CLIPPED]),
        ("0 .5 .5 .2 .1 0.93", [0.5, 0.5, 0.2, 0.1], [CONFIDENCE]),
        ("0 .5 .5 .2 1.005 1", [0.5, 0.5, 0.2, 1], [CONFIDENCE, CLIPPED]),
        ("0 .5 .2 .8 .5 .5 .8 .2 .5", [0.5, 0.5, 0.6, 0.6], [ORIENTED]),  # a square on its corner
        ("0 .1 .1 .9 .1 .9 .5 .5 .5 .5 .9 .1 .9", [0.5, 0.5, 0.8, 0.8], [POLYGON]),  # an L
        ("0 -.009 .1 .5 .1 .5 .5 .2 .3 .1 .4", [0.25, 0.3, 0.5, 0.4], [CLIPPED, POLYGON]),
    ],
)
def test_lines_that_are_read_with_a_remark(tmp_path: Path, line: str, box: list[float], kinds: list[str]) -> None:
    (tmp_path / "1.txt").write_text(f"1 .5 .5 .25 .25\n{line}\n")
    labels, problems = read_labels(tmp_path / "1.txt", 2)
    np.testing.assert_allclose(labels, [[1, 0.5, 0.5, 0.25, 0.25], [0, *box]], atol=1e-6)
    assert [(type(problem), problem.kind, problem.line) for problem in problems] == [
        (Remark, kind, 2) for kind in kinds
    ]


def test_the_box_of_a_polygon_touches_it_on_all_sides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    polygons = [rng.integers(0, 2049, (rng.integers(4, 12), 2), np.int32) for _ in range(100)]
    lines = ("0 " + " ".join(f"{number / 2048}" for number in polygon.reshape(-1)) for polygon in polygons)
    (tmp_path / "1.txt").write_text("\n".join(lines))
    labels, problems = read_labels(tmp_path / "1.txt", 1)
    assert {problem.kind for problem in problems} == {POLYGON, ORIENTED}
    left, top, width, height = np.array([cv2.boundingRect(polygon) for polygon in polygons]).T  # both ends included
    expected = np.stack((left, top, left + width - 1, top + height - 1), axis=1)
    np.testing.assert_allclose(pixel_boxes(labels, 2048, 2048)[:, 1:], expected, atol=1e-3)


def test_remarks_are_said_once_per_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [write_image(tmp_path / "images" / f"{i}.png") for i in range(4)]
    (tmp_path / "labels").mkdir()
    for i in range(4):
        points = ".3 .2 .2 .6 .2 .7 .2 .8"
        lines = ["0 .5 .5 .1 .1", f"0 .1 .2 {points}", f"0 .2 .2 {points}", "0 .5 .5 .2 1.001", "9 .5 .5 .1 .1"]
        (tmp_path / "labels" / f"{i}.txt").write_text("\n".join(lines[: i + 2]))
    samples, problems = load_samples(images, 1, "train")
    assert [len(sample.labels) for sample in samples] == [2, 3, 4, 4]
    report(problems)
    assert capsys.readouterr().err.splitlines()[-4:] == [
        f"{tmp_path}/labels/3.txt:5: class out of range: expected 0..0, got 9",
        "1 problem in the data: class out of range (1)",
        f"7 label lines with {POLYGON}; the first: {tmp_path}/labels/0.txt:2",
        f"2 label lines with {CLIPPED}; the first: {tmp_path}/labels/2.txt:4",
    ]


def test_missing_or_empty_file_is_a_background(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for name in ("empty.txt", "missing.txt"):
        labels, problems = read_labels(tmp_path / name, 1)
        assert labels.shape == (0, 5) and labels.dtype == np.float32 and problems == []


def test_binary_label_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_bytes(b"\xff\xfe\x00\x80" * 9)
    labels, problems = read_labels(tmp_path / "1.txt", 1)
    assert len(labels) == 0 and problems[0].kind == "unreadable label file"


@given(content=st.text(max_size=60))
def test_no_content_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.mktemp("labels") / "1.txt"
    path.write_text(content, encoding="utf-8", errors="replace", newline="")
    labels, problems = read_labels(path, 2)
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    assert len(labels) + sum(not isinstance(problem, Remark) for problem in problems) == len(lines)
    assert np.isfinite(labels).all()


def test_load_samples_keeps_order_and_skips_bad_images(tmp_path: Path) -> None:
    images = [write_image(tmp_path / "images" / f"{i}.png") for i in range(20)]
    (tmp_path / "labels").mkdir()
    for i in range(0, 20, 2):
        (tmp_path / "labels" / f"{i}.txt").write_text(f"0 .5 .5 .1 .{i + 1:02}\n7 .5 .5 .1 .1\n")
    images[3].write_bytes(b"junk")
    images[5].unlink()
    samples, problems = load_samples(images, 1, "train")
    assert [sample.image for sample in samples] == [image for i, image in enumerate(images) if i not in (3, 5)]
    assert [len(sample.labels) for sample in samples[:4]] == [1, 0, 1, 1]
    kinds = [problem.kind for problem in problems]
    assert kinds.count("unreadable image") == 2 and kinds.count("class out of range") == 10 and len(kinds) == 12
    assert str(images[5]) in str(problems[4]) and "no such file" in str(problems[4])


def test_load_samples_without_one_readable_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 2 images can be read.*a\.jpg"):
        load_samples([tmp_path / "a.jpg", tmp_path / "b.jpg"], 1, "train")


def test_no_label_file_at_all_is_a_problem(tmp_path: Path) -> None:
    image = write_image(tmp_path / "images" / "1.png")
    samples, problems = load_samples([image], 1, "train")
    assert len(samples) == 1 and len(problems) == 1
    assert str(tmp_path / "labels" / "1.txt") in str(problems[0]) and str(image.with_suffix(".txt")) in str(problems[0])
    (tmp_path / "images" / "1.txt").touch()
    assert load_samples([image], 1, "train")[1] == []


def test_a_folder_without_any_label_file_is_told(tmp_path: Path) -> None:
    images = [
        write_image(tmp_path / f"{place}/{i}.png") for place in ("images/a", "images/b", "photos") for i in (1, 2)
    ]
    for file in (tmp_path / "labels/a/1.txt", tmp_path / "photos/2.txt"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    problem = load_samples(images, 1, "train")[1]
    assert [(each.path, each.kind) for each in problem] == [
        (tmp_path / "images/b", "no label file for any image of a folder")
    ]
    assert f"looked for {tmp_path}/labels/b/1.txt and {tmp_path}/images/b/1.txt" in str(problem[0])
    assert load_samples([*images[:2], *images[4:]], 1, "train")[1] == []  # single images without are backgrounds


def test_two_images_with_one_label_file_are_told(tmp_path: Path) -> None:
    images = [write_image(tmp_path / f"images/{name}") for name in ("1.jpg", "1.png", "2.png")]
    (tmp_path / "labels").mkdir()
    assert [problem.kind for problem in load_samples(images, 1, "train")[1]] == ["no label file for any image"]
    (tmp_path / "labels/1.txt").touch()
    samples, problems = load_samples([*images, images[0]], 1, "train")  # an image named twice is another thing
    assert len(samples) == 4
    assert [str(problem) for problem in problems] == [
        f"{images[1]}: two images with one label file: {images[0]} has {tmp_path}/labels/1.txt, too"
    ]


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem(Path(f"{i}.txt"), i, f"{'odd' if i % 2 else 'even'}: got {i}") for i in range(1, 13)]
    report(problems, limit=3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["1.txt:1: odd: got 1", "2.txt:2: even: got 2", "3.txt:3: odd: got 3"]
    assert lines[3].startswith("... and 9 more; `python -m utils.data.check DATA`")
    assert lines[4:] == ["12 problems in the data: odd (6), even (6)"]
    report([])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "items, count, chosen",
    [(range(9), 5, [0, 2, 4, 6, 8]), (range(5), 2, [0, 4]), (range(3), 4, [0, 1, 2]), (range(3), 1, [0]), ([], 4, [])],
)
def test_spread_has_both_ends_and_even_steps(items: list[int], count: int, chosen: list[int]) -> None:
    assert spread(items, count) == chosen
