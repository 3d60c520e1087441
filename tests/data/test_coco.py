"""COCO files as other programs and people write them: ids, paths, types, crowds; there and back to 1e-6."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import Box, possible_paths
from utils.data.coco import read_coco, read_truth
from utils.data.datafile import load_data
from utils.data.formats import main
from utils.data.labels import Sample, load_samples
from utils.errors import DataError

Document = dict[str, list[dict[str, Any]]]


def draw(folder: Path, *names: str, size: tuple[int, int] = (100, 50)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / name)
    return folder


def document(*names: str) -> Document:
    """An image for each name, ids from 0, and on each a box of `car` at 10 * id; further categories may be added."""
    return {
        "images": [{"id": i, "file_name": name, "width": 100, "height": 50} for i, name in enumerate(names)],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [10 * i, 0, 10, 20], "area": 200, "iscrowd": 0}
            for i in range(len(names))
        ],
    }


def write(folder: Path, content: object) -> Path:
    file = folder / "instances.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def convert(file: Path, pictures: Path, *options: str | Path) -> Path:
    target = file.parent / "out"
    main(["coco", *map(str, (file, pictures, target, *options))])
    return target / "out.data"


def refusal(file: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the converter ends with."""
    with pytest.raises(SystemExit) as caught:
        convert(file, pictures)
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip() and "image/s]" not in line]
    assert len(lines) == 1 and not (file.parent / "out").exists()
    return lines[0]


def samples_of(data: Path) -> dict[str, Sample]:
    """The samples of the project's own reader, by their path below images/train; there may be no problem."""
    spec = load_data(data)
    samples, problems = load_samples(spec.train, spec.num_classes, "train")
    assert problems == []
    return {sample.image.relative_to(data.parent / "images" / "train").as_posix(): sample for sample in samples}


def truth_of(data: Path) -> dict[str, list[list[float]]]:
    """The boxes that test.py measures with, by the image's path."""
    spec = load_data(data)
    assert spec.annotations is not None
    truth = read_truth(spec.annotations, spec.names, spec.valid)
    folder = data.parent / "images" / "train"
    return {file.relative_to(folder).as_posix(): objects.boxes.tolist() for file, objects in truth.images.items()}


def test_there_and_back(tmp_path: Path) -> None:
    """200 boxes of any fractions of pixels, in images of odd sizes, are what the JSON says to 1e-6 of the image."""
    rng = np.random.default_rng(0)
    sizes = {"a.jpg": (1999, 1013), "b/c.png": (97, 641), "d.jpg": (33, 3000)}
    made = document(*sizes)
    made["categories"] = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    made["annotations"] = []
    wanted: dict[str, list[list[float]]] = {name: [] for name in sizes}
    for image, (name, (width, height)) in zip(made["images"], sizes.items(), strict=True):
        draw(tmp_path / "pictures", name, size=(width, height))
        image |= {"width": width, "height": height}
        for _ in range(70):
            (x0, x1), (y0, y1) = (np.sort(rng.uniform(0, side, 2)).tolist() for side in (width, height))
            if min(x1 - x0, y1 - y0) > 0.1:
                category = int(rng.choice([3, 7]))
                bbox = [x0, y0, x1 - x0, y1 - y0]
                made["annotations"].append({"image_id": image["id"], "category_id": category, "bbox": bbox})
                row = [category == 7, (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width]
                wanted[name].append([*row, (y1 - y0) / height])
    samples = samples_of(convert(write(tmp_path, made), tmp_path / "pictures"))
    assert sum(map(len, wanted.values())) > 180
    for name, rows in wanted.items():
        np.testing.assert_allclose(samples[name].labels, rows, rtol=0, atol=1e-6)
        assert samples[name].size == sizes[name]


@pytest.mark.parametrize("case", ["dupimage", "mixids", "one_back", "rf", "strids"])
def test_users_files(shared: Path, tmp_path: Path, case: str) -> None:
    """Files as users had them, made of pictures and label files that are known."""
    runpy.run_path(str(shared / "cases" / "make_base.py"))["make"](tmp_path)
    folder = tmp_path / "images" / "train"
    main(["coco", str(shared / f"cases/coco/{case}.json"), str(folder), str(tmp_path / "out")])
    data = tmp_path / "out" / "out.data"
    assert load_data(data).names == ("blue", "green", "red")
    samples, truth = samples_of(data), truth_of(data)
    assert len(samples) == 12
    for name, sample in samples.items():
        known = np.loadtxt(tmp_path / "labels" / "train" / Path(name).with_suffix(".txt").name, ndmin=2)
        np.testing.assert_allclose(sample.labels, known, rtol=0, atol=1e-6)
        corners = np.column_stack((known[:, 1:3] - known[:, 3:] / 2, known[:, 1:3] + known[:, 3:] / 2)) * 96
        np.testing.assert_allclose(np.array(truth[name])[:, 1:], corners, rtol=0, atol=1e-4)


def test_colliding_ids_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The converter and test.py name both holders of an id of images, categories or annotations; "1" equals 1."""
    draw(tmp_path / "pictures", "a.jpg", "b.jpg")
    changes: list[tuple[str, dict[str, object], str]] = [
        ("images", {"id": 0}, "images 'a.jpg' and 'b.jpg' have the same id 0"),
        ("images", {"id": "0"}, "images 'a.jpg' and 'b.jpg' have the same id 0"),
        ("categories", {"id": 1.0}, "categories 'car' and 'dog' have the same id 1"),
        ("categories", {"name": "car"}, "categories: expected names that differ, but 1 and 2 are both 'car'"),
        ("annotations", {"id": 0}, "annotations[0] and annotations[1] have the same id 0"),
    ]
    for key, change, message in changes:
        made = document("a.jpg", "b.jpg")
        made["categories"].append({"id": 2, "name": "dog"})
        made[key][1] |= change
        file = write(tmp_path, made)
        assert message in refusal(file, tmp_path / "pictures", capsys)
        with pytest.raises(DataError) as caught:
            read_truth(file, ("car", "dog"), [tmp_path / "a.jpg"])
        assert message in str(caught.value)


def test_the_same_category_twice_is_one(tmp_path: Path) -> None:
    draw(tmp_path / "pictures", "a.jpg")
    made = document("a.jpg")
    made["categories"] *= 2
    data = convert(write(tmp_path, made), tmp_path / "pictures")
    assert load_data(data).names == ("car",) and truth_of(data) == {"a.jpg": [[0, 0, 0, 10, 20]]}


def test_ids_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    """Also as text, where "10" comes before "9"; what is no number comes last. Ids are written out as they were."""
    draw(tmp_path / "pictures", "a.jpg")
    made = document("a.jpg")
    made["categories"] = [{"id": key, "name": f"c{key}"} for key in ("10", "9", 1, "x")]
    data = convert(write(tmp_path, made), tmp_path / "pictures")
    spec = load_data(data)
    assert spec.names == ("c1", "c9", "c10", "cx") and spec.annotations is not None
    assert read_truth(spec.annotations, spec.names, spec.valid).category_ids == (1, "9", "10", "x")


ODD: list[object] = [None, True, 1.5, float("nan"), [], [1], {"a": [1]}, "", "x", -1, 10**400, 1e308]


@pytest.mark.parametrize("key", ["images", "categories", "annotations"])
def test_any_type_in_any_field_is_told(tmp_path: Path, key: str) -> None:
    """Each field in turn: an error of one line, or all that is not wrong, for conversion and for measuring."""
    pictures = draw(tmp_path / "pictures", "a.jpg", "b.jpg")
    outcomes = set()
    for field in document("a.jpg")[key][0]:
        for value in ODD:
            made = document("a.jpg", "b.jpg")
            made[key][0][field] = value
            file = write(tmp_path, made)
            try:
                annotations, names = read_coco(file, pictures)
            except DataError as error:
                assert "\n" not in str(error) and len(str(error)) < 300
                outcomes.add("refused")
                continue
            outcomes.add("told" if annotations.problems else "taken")
            if key == "categories" and annotations.problems:
                continue  # it is a category of another id now
            boxes = [picture.boxes for picture in annotations.pictures if picture.name.name == "b.jpg"]
            assert boxes == [[Box(names[0], 10, 0, 20, 20)]], (field, value)
            truth = read_truth(file, names, [tmp_path / "b.jpg"])
            assert truth.images[tmp_path / "b.jpg"].boxes.tolist() == [[0, 10, 0, 20, 20]], (field, value)
    assert {"refused", "told"} <= outcomes


def test_wrong_types_by_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "pictures", "a.jpg", "b.jpg")
    refused: list[tuple[str, str, object, str]] = [
        ("images", "id", [1], "images[0]: expected a whole number or a text as id, got [1]"),
        ("images", "file_name", 5, "images[0]: expected a text as file_name, got 5"),
        ("categories", "id", {"a": 1}, "categories[0]: expected a whole number or a text as id, got {'a': 1}"),
        ("categories", "name", None, "categories[0]: expected a text as name, got None"),
        ("categories", "name", "a\nb", "categories[0]: not a class name: expected text in one line, got 'a\\nb'"),
        ("categories", "name", "\ud800", "categories[0]: not a class name: expected text in one line, got '\\ud800'"),
        ("annotations", "id", True, "annotations[0]: expected a whole number or a text as id, got True"),
    ]
    for key, field, value, message in refused:
        made = document("a.jpg", "b.jpg")
        made[key][0][field] = value
        assert message in refusal(write(tmp_path, made), tmp_path / "pictures", capsys)
    told: list[tuple[str, str, object, str]] = [
        ("images", "width", "wide", "size without numbers: expected width and height, got ['wide', 50] (images[0])"),
        ("annotations", "image_id", [0], "unknown image: annotation 0 of image [0]"),
        ("annotations", "category_id", [1], "unknown category: [1] (annotation 0 of image 0)"),
        ("annotations", "bbox", [0, 0, 10**400, 5], "box without numbers: expected left, top, width, height, got [0, "),
        ("annotations", "bbox", [1e308, 0, 1e308, 5], "box without numbers"),
        ("annotations", "area", "big", "area that is no number: 'big' (annotation 0 of image 0)"),
        ("annotations", "iscrowd", [0], "iscrowd that is neither 0 nor 1: [0] (annotation 0 of image 0)"),
    ]
    for number, (key, field, value, message) in enumerate(told):
        made = document("a.jpg", "b.jpg")
        made[key][0][field] = value
        main(["coco", str(write(tmp_path, made)), str(tmp_path / "pictures"), str(tmp_path / f"{number}")])
        problems = (tmp_path / f"{number}" / "problems.txt").read_text().splitlines()
        assert len(problems) == 1 and message in problems[0] and len(problems[0]) < 300
        capsys.readouterr()
        truth = truth_of(tmp_path / f"{number}" / f"{number}.data")
        assert message in capsys.readouterr().err and len(truth["a.jpg"]) == (key == "images")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100000, "instances.json: not valid JSON: "),
        ('{"images": ' + "9" * 5000 + "}", "instances.json: not valid JSON: "),
        ('[{"images": []}]', "instances.json: expected an object with images, annotations and categories, got "),
        ("", "instances.json:1: not valid JSON: "),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    assert message in refusal(write(tmp_path, text), draw(tmp_path / "pictures", "a.jpg"), capsys)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("a/b.jpg", ["a/b.jpg", "b.jpg"]),
        ("images\\1/x.jpg", ["images/1/x.jpg", "1/x.jpg", "x.jpg"]),
        ("..\\..\\media\\x.png", ["media/x.png", "x.png"]),
        ("a/../../b.jpg", ["b.jpg"]),
        ("/etc/passwd", ["etc/passwd", "passwd"]),
        ("C:\\Users\\me\\x.jpg", ["Users/me/x.jpg", "me/x.jpg", "x.jpg"]),
        ("/data/local-files/?d=media/my%20x.jpg", ["media/my x.jpg", "my x.jpg", *["data/local-files", "local-files"]]),
        ("what?.jpg", ["what?.jpg"]),
        ("10%20.jpg", ["10%20.jpg"]),
        ("..", []),
        ("", []),
        ("a\nb.jpg", []),
    ],
)
def test_possible_paths(name: str, paths: list[str]) -> None:
    assert [path.as_posix() for path in possible_paths(name)] == paths


def test_an_address_is_looked_for_by_its_last_parts() -> None:
    paths = [path.as_posix() for path in possible_paths("https://host/s/x%201.jpg?token=a/b.png&d=m/y.jpg")]
    assert paths[:2] == ["m/y.jpg", "y.jpg"] and paths[-2:] == ["s/x 1.jpg", "x 1.jpg"]


def test_paths_of_other_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each finds its picture by the longest path that is there; what is not there is a problem of that image."""
    names = ["images\\1/x.jpg", "..\\..\\media\\y.jpg", "http://host:80/data/local-files/?d=up/z.jpg"]
    names += ["gone/w.jpg", "..", "k" * 5000]
    pictures = draw(tmp_path / "pictures", "1/x.jpg", "2/x.jpg", "y.jpg", "z.jpg")
    data = convert(write(tmp_path, document(*names)), pictures)
    wanted = {"1/x.jpg": [[0, 0, 0, 10, 20]], "y.jpg": [[0, 10, 0, 20, 20]], "z.jpg": [[0, 20, 0, 30, 20]]}
    assert truth_of(data) == wanted and set(samples_of(data)) == set(wanted)
    problems = (data.parent / "problems.txt").read_text().splitlines()
    assert len(problems) == 3
    assert f"{pictures}/gone/w.jpg: unreadable image: no such file" in problems[0]
    assert "no name of a file: image 4 ('..')" in problems[1] and "file name too long" in problems[2]


def test_the_same_name_in_two_folders(tmp_path: Path) -> None:
    """Each has its own boxes, in the label files and in what test.py measures with."""
    names = ["b/x.jpg", "a/x.jpg", "x.jpg", "c/a/x.jpg", "train/x.jpg"]
    data = convert(write(tmp_path, document(*names)), draw(tmp_path / "pictures", *names))
    assert truth_of(data) == {name: [[0, 10 * i, 0, 10 * i + 10, 20]] for i, name in enumerate(names)}
    centres = {name: sample.labels[0, 1] * 100 for name, sample in samples_of(data).items()}
    assert centres == pytest.approx({name: 10 * i + 5 for i, name in enumerate(names)}, abs=1e-4)


def test_labels_of_folders_that_have_a_meaning_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`images`, `JPEGImages` and such in a path: each image finds its own labels, or the file is refused."""
    names = ["images/a.jpg", "JPEGImages/b.jpg", "raw/img/c.jpg", "labels/d.jpg"]
    pictures = draw(tmp_path / "pictures", *names, "JPEGImages/a.jpg")
    lefts = {name: 10 * index / 100 for index, name in enumerate(names)}
    samples = samples_of(convert(write(tmp_path, document(*names)), pictures))
    assert {name: sample.labels[0, 1] - 0.05 for name, sample in samples.items()} == pytest.approx(lefts, abs=1e-6)
    with pytest.raises(SystemExit):
        main(
            [
                "coco",
                str(write(tmp_path, document("images/a.jpg", "JPEGImages/a.jpg"))),
                str(pictures),
                str(tmp_path / "x"),
            ]
        )
    assert "JPEGImages/a.jpg: another image has the same" in capsys.readouterr().err


def test_images_that_cannot_be_told_apart_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, document("a/x.jpg", "b/x.jpg"))
    message = refusal(file, draw(tmp_path / "pictures", "x.jpg"), capsys)
    assert "images 0 ('a/x.jpg') and 1 ('b/x.jpg') are both" in message
    with pytest.raises(DataError, match=r"/x\.jpg may be both images 0 \('a/x\.jpg'\) and 1 \('b/x\.jpg'\)"):
        read_truth(file, ("car",), [tmp_path / "x.jpg"])
    file = write(tmp_path, document("x.jpg"))
    with pytest.raises(DataError, match=r"image 0 \('x\.jpg'\) may be both .*/a/x\.jpg and .*/b/x\.jpg"):
        read_truth(file, ("car",), [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"])


def test_the_same_image_under_two_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its boxes come together, one that both have once; this is told."""
    made = document("a.jpg", "a.jpg")
    made["annotations"].append({"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 20], "area": 200})
    data = convert(write(tmp_path, made), draw(tmp_path / "pictures", "a.jpg"))
    captured = capsys.readouterr()
    assert "image listed twice: a.jpg" in captured.err and "train: 1 duplicate boxes left out" in captured.out
    assert truth_of(data) == {"a.jpg": [[0, 0, 0, 10, 20], [0, 10, 0, 20, 20]]}
    assert len(samples_of(data)["a.jpg"].labels) == 2
    assert load_data(data).train == (data.parent / "images" / "train" / "a.jpg",)


def test_a_folder_that_is_not_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = draw(tmp_path / "other", "z.jpg")
    with pytest.raises(SystemExit):
        convert(write(tmp_path, document(*(f"{index}.jpg" for index in range(9)))), folder)
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: train: no image left to write; 9 problems, the first: ")
    assert [f"{folder}/{index}.jpg: unreadable image: no such file" in message for index in range(4)] == [True] * 3 + [
        False
    ]


def test_the_category_of_the_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Roboflow's, the parent of all others, is no class as long as it has no boxes."""
    pictures = draw(tmp_path / "pictures", "a.jpg")
    made = document("a.jpg")
    for name in ("colours", "car"):  # the project may be called as one of its classes
        made["categories"] = [
            {"id": 0, "name": name, "supercategory": "none"},
            {"id": 1, "name": "car", "supercategory": name},
            {"id": 2, "name": "dog", "supercategory": name},
        ]
        main(["coco", str(write(tmp_path, made)), str(pictures), str(tmp_path / name)])
        assert f"category without boxes left out: {name}, " in capsys.readouterr().out
        data = tmp_path / name / f"{name}.data"
        assert load_data(data).names == ("car", "dog") and samples_of(data)["a.jpg"].labels[0, 0] == 0
        assert truth_of(data) == {"a.jpg": [[0, 0, 0, 10, 20]]}
    made["categories"][0]["name"] = made["categories"][1]["supercategory"] = made["categories"][2]["supercategory"] = (
        "c"
    )
    made["annotations"][0]["category_id"] = 0
    assert load_data(convert(write(tmp_path, made), pictures)).names == ("c", "car", "dog")


def test_a_data_set_that_has_the_project_as_a_class(tmp_path: Path) -> None:
    made = document("a.jpg")
    made["categories"] = [{"id": 0, "name": "p"}, {"id": 1, "name": "car", "supercategory": "p"}]
    truth = read_truth(write(tmp_path, made), ("p", "car"), [tmp_path / "a.jpg"])
    assert truth.images[tmp_path / "a.jpg"].boxes[:, 0].tolist() == [1]


def test_crowds_alone_are_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = draw(tmp_path / "pictures", "a.jpg", "b.jpg")
    made = document("a.jpg", "b.jpg")
    for entry in made["annotations"]:
        entry["iscrowd"] = 1
    data = convert(write(tmp_path, made), pictures)
    assert "train: 2 boxes marked as crowd regions kept, since all are" in capsys.readouterr().out
    assert [len(sample.labels) for sample in samples_of(data).values()] == [1, 1]
    spec = load_data(data)
    truth = read_truth(made_file := write(tmp_path, made), spec.names, spec.valid)
    assert [objects.crowd.tolist() for objects in truth.images.values()] == [[False], [False]]
    assert f"{made_file}: all 2 objects are marked as crowd regions: taken as objects" in capsys.readouterr().err


def test_nothing_left_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = document("a.jpg", "b.jpg")
    made["annotations"][0]["iscrowd"] = 1
    made["annotations"][1]["bbox"] = [0, 0, 0, 0]
    message = refusal(write(tmp_path, made), draw(tmp_path / "pictures", "a.jpg", "b.jpg"), capsys)
    assert "train: no box left to write; 1 problem, the first: " in message and "box of zero size" in message


def test_sides_below_zero_are_counted_backwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = document("a.jpg")
    made["annotations"][0]["bbox"] = [30, 40, -20, -10]
    data = convert(write(tmp_path, made), draw(tmp_path / "pictures", "a.jpg"))
    assert "train: 1 boxes with swapped edges put in order" in capsys.readouterr().out
    assert truth_of(data) == {"a.jpg": [[0, 10, 30, 30, 40]]}
    np.testing.assert_allclose(samples_of(data)["a.jpg"].labels, [[0, 0.2, 0.7, 0.2, 0.2]], atol=1e-6)


def test_a_box_over_the_edge_is_cut_and_one_beyond_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The label files, too, take a box whose centre and size are in the image."""
    made = document("a.jpg")
    boxes = [[90, 0, 20, 10], [-5, -5, 10, 10], [100, 0, 9, 9], [99.995, 0, 50, 9]]
    made["annotations"] = [{"image_id": 0, "category_id": 1, "bbox": box} for box in boxes]
    data = convert(write(tmp_path, made), draw(tmp_path / "pictures", "a.jpg"))
    np.testing.assert_allclose(
        samples_of(data)["a.jpg"].labels, [[0, 0.95, 0.1, 0.1, 0.2], [0, 0.025, 0.05, 0.05, 0.1]], atol=1e-6
    )
    captured = capsys.readouterr()
    assert "train: 2 boxes clipped to the image" in captured.out and "box outside its image (2)" in captured.err
