"""detect.py from end to end: images, videos, and what it writes of them."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.commands import run

pytestmark = pytest.mark.slow


def test_detect_writes_what_was_asked_for(trained: Path, data: Path) -> None:
    image = data / "shapes" / "images" / "valid" / "0000.jpg"
    options = ["--weights", trained / "best.pt", "--conf", "0", "--max-det", 5, "--classes", "square,triangle"]
    outputs = ["--save-csv", "--save-json", "--save-txt", "--save-crop", "--nosave", "--agnostic-nms"]
    done = run("detect.py", *options, *outputs, "--source", image, "--name", "all", folder=data)
    assert done.returncode == 0, done.stderr
    folder = data / "runs" / "detect" / "all"
    (row,) = json.loads((folder / "detections.json").read_text())
    boxes = row["boxes"]
    assert 0 < len(boxes) <= 5 and {box["name"] for box in boxes} <= {"square", "triangle"}
    with (folder / "detections.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["x1"]) for line in lines] == [box["x1"] for box in boxes] and lines[0]["frame"] == ""
    labels = [line.split() for line in (folder / "labels" / "0000.txt").read_text().splitlines()]
    assert [int(label[0]) for label in labels] == [box["class"] for box in boxes]
    assert (float(labels[0][1]) - float(labels[0][3]) / 2) * 96 == pytest.approx(boxes[0]["x1"], abs=0.01)
    crops = list((folder / "crops").glob("*/0000_*.jpg"))
    assert len(crops) == len(boxes) and {crop.parent.name for crop in crops} == {box["name"] for box in boxes}
    assert not list(folder.glob("*.jpg"))


def test_detect_draws_as_asked(trained: Path, data: Path) -> None:
    image = data / "shapes" / "images" / "valid" / "0000.jpg"
    pictures = []
    for number, extra in enumerate([[], ["--hide-conf"], ["--hide-labels"], ["--line-thickness", 9]]):
        options = ["--weights", trained / "best.pt", "--conf", "0", "--max-det", 3, "--name", f"d{number}"]
        done = run("detect.py", *options, *extra, "--source", image, folder=data)
        assert done.returncode == 0, done.stderr
        pictures.append(cv2.imread(str(data / f"runs/detect/d{number}/0000.jpg")).astype(int))
    changed = [np.abs(picture - cv2.imread(str(image))).sum() for picture in pictures]
    assert changed[0] > changed[1] > changed[2] > 0 and changed[3] > changed[0]


def test_detect_images_and_video(trained: Path, data: Path) -> None:
    folder = data / "shapes" / "images" / "valid"
    video = data / "v.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for value in range(5):
        writer.write(np.full((64, 96, 3), 40 * value, np.uint8))
    writer.release()
    options = ["--weights", trained / "best.pt", "--conf", "0", "--save-json"]
    done = run("detect.py", *options, "--source", folder, folder=data)
    assert done.returncode == 0, done.stderr
    first = json.loads((data / "runs" / "detect" / "exp" / "detections.json").read_text())
    assert len(first) == 8 and set(first[0]) == {"path", "width", "height", "boxes"}
    boxes = [box for row in first for box in row["boxes"]]
    assert boxes and set(boxes[0]) == {"x1", "y1", "x2", "y2", "score", "class", "name"}
    assert all(0 <= box["x1"] <= box["x2"] <= 96 and 0 <= box["y1"] <= box["y2"] <= 96 for box in boxes)
    assert "96x96, " in done.stdout and " ms" in done.stdout
    pictures = sorted(path.name for path in (data / "runs" / "detect" / "exp").glob("*.jpg"))
    assert pictures == sorted(path.name for path in folder.iterdir())

    done = run("detect.py", *options, "--source", video, folder=data)
    assert done.returncode == 0, done.stderr
    capture = cv2.VideoCapture(str(data / "runs" / "detect" / "exp-2" / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and capture.get(cv2.CAP_PROP_FPS) == 10
    rows = json.loads((data / "runs" / "detect" / "exp-2" / "detections.json").read_text())
    assert [row["frame"] for row in rows] == [0, 1, 2, 3, 4]
