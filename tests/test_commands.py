"""The commands from end to end, as a user runs them: good input, and bad input with one line and exit code 2."""

import contextlib
import csv
import io
import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models import load_model, save_weights
from tests.conftest import PROJECT
from utils.data.shapes import generate

pytestmark = pytest.mark.slow

CFG = """[net]
width=96
height=96
[convolutional]
filters=16
size=3
stride=4
pad=1
batch_normalize=1
activation=leaky
[ghost]
filters=32
size=3
stride=4
pad=1
batch_normalize=1
activation=leaky
[convolutional]
filters=12
size=1
activation=linear
[yolo]
mask=0,1
anchors=20,20,40,40
num=2
classes=1
"""


@dataclass(frozen=True)
class Done:
    """A command's exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(script: str, *arguments: object, folder: Path) -> Done:
    """`python SCRIPT ARGUMENTS` in `folder`; in this process, since importing torch anew takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, [script, *map(str, arguments)]
    code = 0
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(PROJECT / script), run_name="__main__")
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    return Done(code, out.getvalue(), err.getvalue())


def assert_refused(done: Done, message: str, folder: Path) -> None:
    """Exit code 2, one line on stderr (beside progress bars), no traceback, no run folder."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "runs").exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set: 24 and 8 images of shapes."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder / "shapes", train=24, valid=8, size=96)
    (folder / "s.names").write_text("circle\nsquare\ntriangle\n")
    (folder / "s.data").write_text("classes=3\ntrain=shapes/images/train\nvalid=shapes/images/valid\nnames=s.names\n")
    (folder / "x.cfg").write_text(CFG)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    """A two-epoch training; its run folder."""
    options = ["--cfg", "x.cfg", "--data", "s.data", "--epochs", 2, "--batch-size", 8, "--workers", 0, "--name", "a"]
    done = run("train.py", *options, folder=data)
    assert done.returncode == 0, done.stderr
    assert "x.cfg has 1 class, s.data has 3: heads fitted (filters=16 before [yolo])" in done.stdout
    assert "results in runs/train/a" in done.stdout
    return data / "runs" / "train" / "a"


def test_train_leaves_what_the_readme_promises(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "last.pt", "best.pt", "best.weights", "model.cfg", "model.names", "results.csv", "results.png", "options.json",
        "labels.png", "train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg", "predictions.jpg",
    }  # fmt: skip
    rows = (trained / "results.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("epoch,box,objectness,classes,ap50,ap,lr")
    for picture in trained.glob("*.[jp][pn]g"):
        assert cv2.imread(str(picture)).std() > 5
    assert json.loads((trained / "options.json").read_text())["batch_size"] == 8
    assert torch.load(trained / "best.pt", weights_only=True)["names"] == ["circle", "square", "triangle"]


def test_the_three_forms_of_a_result_are_the_same_network(trained: Path) -> None:
    by_pt = load_model(None, trained / "best.pt")
    by_cfg = load_model(trained / "model.cfg", trained / "best.pt")
    by_weights = load_model(trained / "model.cfg", trained / "best.weights")
    images = torch.rand(1, 3, 96, 96)
    assert torch.equal(by_pt(images), by_cfg(images)) and torch.equal(by_pt(images), by_weights(images))
    assert by_weights.names == by_pt.names == ["circle", "square", "triangle"]
    assert by_weights.seen == by_pt.seen in (24, 48)  # the best epoch


def test_a_taken_name_gets_a_number(trained: Path, data: Path) -> None:
    options = ["--cfg", "x.cfg", "--data", "s.data", "--epochs", 1, "--workers", 0, "--name", "a"]
    done = run("train.py", *options, "--weights", trained / "best.pt", "--img-size", "64,96", folder=data)
    assert done.returncode == 0, done.stderr
    assert "results in runs/train/a-2" in done.stdout and "weights from" in done.stdout


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


def test_a_text_file_called_jpg_is_skipped_and_named(trained: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    good = next((data / "shapes" / "images" / "valid").iterdir())
    (folder / "good.jpg").write_bytes(good.read_bytes())
    (folder / "bad.jpg").write_text("no picture")
    done = run("detect.py", "--weights", trained / "best.pt", "--source", folder, folder=tmp_path)
    assert done.returncode == 0 and "bad.jpg" in done.stderr and "1 picture" in done.stdout
    (tmp_path / "b.data").write_text(f"classes=3\ntrain={folder}\nvalid={data / 'shapes/images/valid'}\n")
    options = ["--cfg", data / "x.cfg", "--data", "b.data", "--epochs", 1, "--workers", 0]
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "good.txt").write_text("0 .5 .5 .2 .2\n7 .5 .5 .2 .2\n0 .5 .5 .2\n")
    done = run("train.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("bad.jpg", "good.txt:2: class out of range", "good.txt:3: wrong number of columns"):
        assert words in done.stderr


def test_bad_input_of_each_command(trained: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unknown.cfg").write_text("[net]\n[contrastive]\n")
    (tmp_path / "novalue.cfg").write_text("[net]\nwidth=\n")
    (tmp_path / "route.cfg").write_text("[net]\n[convolutional]\n[route]\nlayers=5\n")
    (tmp_path / "none.data").write_text("classes=1\ntrain=list.txt\nvalid=list.txt\n")
    (tmp_path / "list.txt").write_text("\n")
    (tmp_path / "short.weights").write_bytes((trained / "best.weights").read_bytes()[:-4])
    torch.save({"model": load_model(None, trained / "best.pt")}, tmp_path / "object.pt")
    cfg, weights = trained / "model.cfg", trained / "best.pt"
    image = next((data / "shapes" / "images" / "valid").iterdir())
    cases: list[tuple[list[object], str]] = [
        (["train.py", "--cfg", "missing.cfg"], "missing.cfg: no such file"),
        (["models.py", "--cfg", "unknown.cfg"], "unknown.cfg:2: unknown section [contrastive]"),
        (["train.py", "--cfg", "novalue.cfg"], "novalue.cfg:2: expected key=value, got 'width='"),
        (["detect.py", "--cfg", "route.cfg", "--weights", weights, "--source", image], "route.cfg:4: [route] layers=5"),
        (
            ["test.py", "--cfg", cfg, "--weights", "short.weights", "--data", data / "s.data"],
            "expected 3,600 floats for the whole network, found 3,599",
        ),
        (["detect.py", "--cfg", cfg, "--weights", "object.pt", "--source", image], "refused: it holds pickled objects"),
        (
            ["train.py", "--cfg", cfg, "--data", "none.data"],
            "none.data:2: train: expected images",
        ),
        (["detect.py", "--weights", weights, "--source", "empty"], "empty: no image or video in this folder"),
        (["detect.py", "--weights", weights, "--source", "gone.jpg"], "gone.jpg: no such file or folder"),
        (["detect.py", "--weights", trained / "best.weights", "--source", image], "expected --cfg"),
        (["test.py", "--weights", weights, "--data", data / "s.data", "--conf", "2"], "--conf 2.0: expected 0 to 1"),
        (["train.py", "--cfg", cfg, "--data", data / "s.data", "--img-size", "100"], "divisible by 16"),
        (["train.py", "--cfg", cfg, "--data", data / "s.data", "--epochs", "0"], "--epochs 0: expected at least 1"),
        (
            ["train.py", "--cfg", cfg, "--data", data / "s.data", "--workers", "999999"],
            "--workers 999999: expected 0 to",
        ),
        (["test.py", "--weights", weights, "--data", data / "s.data", "--batch-size", "0"], "--batch-size 0: expected"),
        (["test.py", "--weights", weights, "--data", data / "s.data", "--max-det", "0"], "--max-det 0: expected"),
        (["test.py", "--weights", weights, "--data", data / "s.data", "--classes", "squre"], "did you mean 'square'?"),
        (
            ["test.py", "--weights", weights, "--data", data / "s.data", "--rect", "--stretch"],
            "--rect with --stretch: ",
        ),
        (["test.py", "--data", data / "s.data"], "--weights: expected the weights to measure"),
        (["test.py", "--compare", "a.json", "b.json"], "a.json: no such file"),
        (["detect.py", "--weights", weights, "--source", data, "--classes", "9"], "no class '9'; expected names"),
        (
            ["detect.py", "--weights", weights, "--source", data, "--line-thickness", "0"],
            "--line-thickness 0: expected",
        ),
        (["train.py", "--cfg", cfg, "--data", data / "s.data", "--device", "cuda:77"], "--device cuda:77: expected"),
        (["train.py", "--cfg", cfg, "--data", data / "s.data", "--name", "a/b"], "--name 'a/b': expected a plain"),
        (["train.py", "--cfg", cfg, "--data", data / "s.data", "--seed", "-1"], "--seed -1: expected 0 to"),
        (
            ["train.py", "--cfg", cfg, "--data", data / "s.data", "--cutoff", "3"],
            "--cutoff: expected --weights with it",
        ),
        (["detect.py", "--weights", weights, "--source", tmp_path / "list.txt"], "list.txt: "),
        (["detect.py", "--weights", tmp_path, "--source", image], "is a folder, expected a file"),
        (
            ["detect.py", "--weights", weights, "--source", image, "--names", image],
            "expected a text file of class names",
        ),
        (["test.py", "--cfg", "yolov3-tiny.cfg", "--weights", weights, "--data", data / "s.data"], "best.pt: "),
    ]
    for arguments, message in cases:
        assert_refused(run(*arguments, folder=tmp_path), message, tmp_path)


def test_models_table_check_convert_and_expand(tmp_path: Path) -> None:
    done = run("models.py", "--cfg", "yolov3-tiny.cfg", "--img-size", "320", folder=tmp_path)
    assert done.returncode == 0 and "Total params: 8,852,366" in done.stdout and "[-1, 3, 10, 10, 85]" in done.stdout
    done = run("models.py", "--cfg", "yolov3-tiny.cfg", "--check", folder=tmp_path)
    assert done.returncode == 0 and "no problems found" in done.stdout
    (tmp_path / "bad.cfg").write_text(CFG.replace("filters=12", "filters=13"))
    done = run("models.py", "--cfg", "bad.cfg", "--check", folder=tmp_path)
    assert done.returncode == 2 and "bad.cfg:22: [yolo]" in done.stdout and "13" in done.stdout

    (tmp_path / "x.cfg").write_text(CFG)
    for arguments in (
        ["--save", "x.weights"],
        ["--weights", "x.weights", "--save", "x.pt"],
        ["--weights", "x.pt", "--expand-ghost", "y.cfg", "--save", "y.weights"],
    ):
        done = run("models.py", "--cfg", "x.cfg", *arguments, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "[ghost]" not in (tmp_path / "y.cfg").read_text()
    images = torch.rand(1, 3, 96, 96)
    one = load_model(tmp_path / "x.cfg", tmp_path / "x.weights")
    other = load_model(tmp_path / "y.cfg", tmp_path / "y.weights")
    torch.testing.assert_close(one(images), other(images))
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "y.cfg"), str(tmp_path / "y.weights"))
    assert len(net.getUnconnectedOutLayersNames()) == 1


def test_as_a_process_from_another_folder(tmp_path: Path) -> None:
    """A real process: exit code, streams, and files found from any working directory."""
    command = [sys.executable, str(PROJECT / "models.py"), "--cfg", "yolov3-tiny.cfg", "--save", "x.weights"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x.weights: written\n", "")
    assert (tmp_path / "x.weights").stat().st_size == 35_434_956  # as the official file
    done = subprocess.run(
        [*command[:3], "gone.cfg"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("error: gone.cfg: no such file") and not done.stdout


def test_python_use(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`from train import train, TrainOptions` and `from detect import ...` work without a command line."""
    from detect import DetectOptions, detect
    from train import TrainOptions, train

    monkeypatch.chdir(tmp_path)
    result = train(TrainOptions(cfg=str(data / "x.cfg"), data=str(data / "s.data"), epochs=1, workers=0, img_size=96))
    assert result.folder == Path("runs/train/exp") and 0 <= result.metrics.ap50 <= 1
    image = next((data / "shapes" / "images" / "valid").iterdir())
    done = detect(DetectOptions(weights=str(result.folder / "best.pt"), source=str(image)))
    ((path, found),) = done.results
    assert (done.folder / image.name).is_file()
    assert path == image and (found.width, found.height, found.resize) == (96, 96, "letterbox")


def test_one_class_scores_are_objectness_times_class(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    model = load_model(tmp_path / "x.cfg")
    save_weights(model, tmp_path / "x.weights")
    predictions = model(torch.rand(1, 3, 96, 96))
    assert predictions.shape == (1, 2 * 6 * 6, 6) and (predictions[..., 5] < 1).all()
