"""The commands from end to end, as a user runs them: good input, and bad input with one line and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from models import load_model, save_weights
from tests.commands import CFG, assert_refused, run
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow


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


def test_unknown_keys_are_refused_in_training_unless_lenient(trained: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "typo.cfg").write_text((data / "x.cfg").read_text().replace("[net]", "[net]\nhieght=96"))
    options = ["--cfg", "typo.cfg", "--data", data / "s.data", "--epochs", 1, "--workers", 0, "--batch-size", 8]
    words = "typo.cfg:2: unknown key 'hieght' in [net], did you mean 'height'?"
    assert_refused(run("train.py", *options, folder=tmp_path), f"{words} (train.py --lenient", tmp_path)
    done = run("train.py", *options, "--lenient", "--name", "a", folder=tmp_path)
    assert done.returncode == 0 and done.stderr.count(f"warning: {words}") == 1, done.stderr
    looked = run("models.py", "--cfg", "typo.cfg", folder=tmp_path)
    assert looked.returncode == 0 and looked.stderr.count(words) == 1


def test_bad_input_of_each_command(trained: Path, data: Path, tmp_path: Path) -> None:
    pictures = data / "shapes" / "images" / "valid"
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
        (["detect.py", "--weights", weights, "--source", pictures, "--classes", "9"], "no class '9'; expected names"),
        (
            ["detect.py", "--weights", weights, "--source", pictures, "--line-thickness", "0"],
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
            f"{image}:1: expected text in UTF-8, got the byte 0xff",
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


def test_a_reader_that_ends_early_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "models.py"), "--cfg", "yolov3.cfg"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=100) == 1


def test_python_use(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`from train import train, TrainOptions` and `from detect import ...` work without a command line."""
    from detect import DetectOptions, detect
    from train import TrainOptions, train

    monkeypatch.chdir(tmp_path)
    result = train(TrainOptions(cfg=str(data / "x.cfg"), data=str(data / "s.data"), epochs=1, workers=0, img_size=96))
    assert result.folder == Path("runs/train/exp") and 0 <= result.metrics.ap50 <= 1
    image = next((data / "shapes" / "images" / "valid").iterdir())
    (found,) = detect(DetectOptions(weights=str(result.folder / "best.pt"), source=str(image)))
    assert found.path == str(image) and (found.width, found.height, found.resize) == (96, 96, "letterbox")


def test_one_class_scores_are_objectness_times_class(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    model = load_model(tmp_path / "x.cfg")
    save_weights(model, tmp_path / "x.weights")
    predictions = model(torch.rand(1, 3, 96, 96))
    assert predictions.shape == (1, 2 * 6 * 6, 6) and (predictions[..., 5] < 1).all()
