"""test.py from end to end: what it measures, writes, times and compares."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.commands import run

pytestmark = pytest.mark.slow


def test_test_and_its_numbers(trained: Path, data: Path) -> None:
    options = [
        "--cfg",
        trained / "model.cfg",
        "--weights",
        trained / "best.weights",
        "--data",
        "s.data",
        "--workers",
        0,
    ]
    done = run("test.py", *options, "--stretch", folder=data)
    assert done.returncode == 0, done.stderr
    content = json.loads((data / "runs" / "test" / "exp" / "metrics.json").read_text())
    assert content["images"] == 8 and set(content["classes"]) == {"circle", "square", "triangle"}
    assert content["options"]["resize"] == "stretch" and content["options"]["conf"] == 0.001


def test_test_writes_what_other_tools_read(trained: Path, data: Path) -> None:
    options = ["--weights", trained / "best.pt", "--data", "s.data", "--workers", 0, "--conf", "0"]
    done = run("test.py", *options, "--save-json", "--save-txt", "--name", "full", folder=data)
    assert done.returncode == 0, done.stderr
    folder = data / "runs" / "test" / "full"
    content = json.loads((folder / "metrics.json").read_text())
    rows = json.loads((folder / "predictions.json").read_text())
    files = sorted((data / "shapes" / "labels" / "valid").glob("*.txt"))
    assert content["options"]["conf"] == 0 and {row["image_id"] for row in rows} <= {int(file.stem) for file in files}
    lines = {file.stem: (folder / "labels" / file.name).read_text().splitlines() for file in files}
    assert sum(map(len, lines.values())) == len(rows)
    label, x, y, w, h, score = (float(value) for value in lines[files[0].stem][0].split())
    first = next(row for row in rows if row["image_id"] == int(files[0].stem))
    assert [(x - w / 2) * 96, (y - h / 2) * 96, w * 96, h * 96] == pytest.approx(first["bbox"], abs=1e-3)
    assert (label + 1, score) == pytest.approx((first["category_id"], first["score"]), abs=1e-5)
    assert all((folder / name).stat().st_size > 5000 for name in ("curves.png", "confusion.png", "predictions.jpg"))
    assert list((folder / "worst").glob("01_*.jpg"))


def test_more_ways_to_measure(trained: Path, data: Path) -> None:
    (data / "t.data").write_text("classes=3\ntrain=shapes/images/train\ntest=shapes/images/train\nnames=s.names\n")
    options = ["--weights", trained / "best.pt", "--workers", 0, "--conf", "0"]
    done = run("test.py", *options, "--data", "t.data", "--task", "test", "--augment", "--name", "t", folder=data)
    assert done.returncode == 0, done.stderr
    content = json.loads((data / "runs/test/t/metrics.json").read_text())
    assert content["images"] == 24 and content["options"]["augment"] is True and content["options"]["max_nms"] is None
    done = run("test.py", *options, "--data", "s.data", "--max-nms", 2, "--save-json", "--name", "m", folder=data)
    assert done.returncode == 0, done.stderr
    assert json.loads((data / "runs/test/m/metrics.json").read_text())["options"]["max_nms"] == 2
    rows = json.loads((data / "runs/test/m/predictions.json").read_text())
    counts = Counter((row["image_id"], row["category_id"]) for row in rows)
    assert counts and max(counts.values()) <= 2
    done = run("test.py", *options, "--data", "s.data", "--task", "test", folder=data)
    assert done.returncode == 2 and "expected the key test" in done.stderr


def test_test_of_some_classes_and_comparison(trained: Path, data: Path) -> None:
    options = ["--weights", trained / "best.pt", "--data", "s.data", "--workers", 0]
    some = run(
        "test.py", *options, "--classes", "square,2", "--agnostic-nms", "--max-det", 20, "--name", "s", folder=data
    )
    assert some.returncode == 0, some.stderr
    content = json.loads((data / "runs/test/s/metrics.json").read_text())
    assert [content["classes"][name]["labels"] > 0 for name in ("circle", "square", "triangle")] == [False, True, True]
    assert content["options"]["classes"] == "square,2" and content["options"]["max_det"] == 20
    one = run("test.py", *options, "--single-cls", "--task", "train", "--name", "o", folder=data)
    assert one.returncode == 0, one.stderr
    content = json.loads((data / "runs/test/o/metrics.json").read_text())
    assert list(content["classes"]) == ["object"] and content["images"] == 24
    for name in ("a", "b"):
        assert run("test.py", *options, "--name", name, folder=data).returncode == 0
    done = run("test.py", "--compare", "runs/test/a/metrics.json", "runs/test/b/metrics.json", folder=data)
    assert done.returncode == 0, done.stderr
    assert "+0.000  +0.000 to +0.000  may be chance" in done.stdout
    assert next((data / "runs/test").glob("*/comparison.png")).stat().st_size > 5000


def test_test_times_and_studies(trained: Path, data: Path) -> None:
    options = ["--weights", trained / "best.pt", "--data", "s.data", "--workers", 0]
    done = run("test.py", *options, "--task", "speed", folder=data)
    assert done.returncode == 0 and "96x96, batch 1" in done.stdout and "together" in done.stdout, done.stderr
    done = run("test.py", *options, "--task", "study", "--name", "study", folder=data)
    assert done.returncode == 0, done.stderr
    points = json.loads((data / "runs/test/study/study.json").read_text())
    assert [point["size"] for point in points] == [[side, side] for side in (48, 64, 80, 96, 112, 128, 144)]
    assert all(point["speed"]["inference"] > 0 for point in points)
    assert (data / "runs/test/study/study.png").stat().st_size > 5000


def test_test_in_rectangles_measures_the_same_images(trained: Path, data: Path) -> None:
    options = ["--weights", trained / "best.pt", "--data", "s.data", "--workers", 0, "--conf", "0"]
    for arguments in (["--name", "square"], ["--name", "rect", "--rect"]):
        assert run("test.py", *options, *arguments, folder=data).returncode == 0
    square, rect = (json.loads((data / f"runs/test/{name}/metrics.json").read_text()) for name in ("square", "rect"))
    assert rect["options"]["resize"] == "rectangular letterbox"  # square pictures, so there is nothing to save
    assert {**square, "options": None} == {**rect, "options": None}
