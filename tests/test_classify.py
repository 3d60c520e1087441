"""classify.py as its users run it: train, resume, measure, predict, compare widths, and hand a backbone to train.py."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from classify import Classifier, ClassTrainOptions, PredictOptions, load_classifier, predict, save_classifier, train
from tests.commands import run, torchrun
from tests.conftest import PROJECT, randomise
from tests.training.small import CFG
from utils.errors import CfgError, InputError, Stopped, WeightsError
from utils.letterbox import IMAGENET_MEAN, IMAGENET_STD
from utils.training.run import EpochEnd

COLOURS = {"blue": (200, 30, 30), "green": (30, 200, 30), "red": (30, 30, 200)}
SMALL = ClassTrainOptions(
    data="set", width=0.1, img_size=32, epochs=4, batch_size=8, workers=0, amp="off", device="cpu"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of three colours: 24 images to learn from and 6 to measure with."""
    place = tmp_path_factory.mktemp("classify")
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("valid", 2)):
        for name, colour in COLOURS.items():
            (place / "set" / part / name).mkdir(parents=True)
            for index in range(count):
                image = np.clip(np.array(colour) + rng.normal(0, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(place / "set" / part / name / f"{index}.png"), image)
    return place


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    options = (
        "--data set --width 0.1 --img-size 32 --epochs 40 --batch-size 8 --workers 0 --randaugment 0 --name a".split()
    )
    done = run("classify.py", "train", *options, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "set: 3 classes, 24 training images, 6 validation images" in done.stdout
    return folder / "runs" / "classify" / "a"


def test_training_learns_colours_and_leaves_its_files(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {"best.pt", "last.pt", "options.json", "results.csv", "results.png", "confusion.png"}
    assert names >= {"predictions.jpg", "train_batch0.jpg"}
    rows = (trained / "results.csv").read_text().splitlines()
    assert len(rows) == 41 and {"loss", "valid_loss", "top1", "top5"} <= set(rows[0].split(","))
    best = max(float(row.split(",")[rows[0].split(",").index("top1")]) for row in rows[1:])
    assert best >= 5 / 6  # a third by chance
    model = load_classifier(trained / "best.pt")
    assert (model.names, model.width_mult, model.variant, model.img_size) == (list(COLOURS), 0.1, "release", 32)


def test_val_agrees_with_counting_predictions(trained: Path, folder: Path) -> None:
    done = run("classify.py", "val", "--weights", trained / "best.pt", "--data", "set", "--workers", 0, folder=folder)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "runs" / "classify-val" / "exp" / "metrics.json").read_text())
    options = PredictOptions(str(trained / "best.pt"), str(folder / "set" / "valid" / "*" / "*.png"))
    predictions = list(predict(options))
    assert len(predictions) == metrics["images"] == 6
    right = sum(Path(path).parent.name == best[0][0] for path, best in predictions)
    assert metrics["top1"] == right / 6
    own = [dict(best)[Path(path).parent.name] for path, best in predictions]
    assert metrics["loss"] == pytest.approx(-sum(map(math.log, own)) / 6, rel=1e-3)


def test_predict_prints_and_writes_the_first_five(trained: Path, folder: Path) -> None:
    done = run("classify.py", "predict", "--weights", trained / "best.pt", "--source", "set/valid/red", folder=folder)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("set/valid/red")]
    assert len(lines) == 2 and lines[0].startswith("set/valid/red/0.png: red 0.")
    rows = (folder / "runs" / "classify-predict" / "exp" / "predictions.csv").read_text().splitlines()
    assert rows[0] == "image,rank,class,probability" and len(rows) == 1 + 2 * 3
    assert sum(float(row.split(",")[3]) for row in rows[1:4]) == pytest.approx(1, abs=1e-4)


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an epoch, with mixing, which draws from the chance that a checkpoint holds."""
    monkeypatch.chdir(folder)
    options = replace(SMALL, mixup=0.3, cutmix=0.3, randaugment=2)
    whole = train(replace(options, name="whole"))
    steps = 0
    from utils.training import engine

    finite = engine.Trainee.change

    def count(self: engine.Trainee, loss: torch.Tensor) -> bool:
        nonlocal steps
        steps += 1
        if steps == 5:
            import signal

            signal.raise_signal(signal.SIGTERM)
        return finite(self, loss)

    monkeypatch.setattr(engine.Trainee, "change", count)
    with pytest.raises(Stopped, match=r"go on with: python classify.py train --resume runs/classify/half"):
        train(replace(options, name="half"))
    monkeypatch.chdir(folder / "set")  # from anywhere
    resumed = train(ClassTrainOptions(resume="../runs/classify/half", workers=0))
    files = folder / whole.folder / "last.pt", resumed.folder / "last.pt"
    a, b = (torch.load(file, weights_only=True)["model"] for file in files)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_two_processes_share_the_images(folder: Path, tmp_path: Path) -> None:
    """Every validation image is measured once; an odd one more than the processes share evenly."""
    (tmp_path / "set").symlink_to(folder / "set")
    rows = [
        f"set/{part}/{c}/{i}.png,{c},{part}"
        for part, n in (("train", 8), ("valid", 2))
        for c in COLOURS
        for i in range(n)
    ]
    (tmp_path / "odd.csv").write_text("\n".join(["image,class,split", *rows[:-1]]) + "\n")
    options = "--data odd.csv --width 0.1 --img-size 32 --epochs 2 --batch-size 8 --workers 1 --mixup 0.2".split()
    done = torchrun(tmp_path, 2, str(PROJECT / "classify.py"), "train", *options)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout and done.stdout.count("best epoch") == 1
    counts = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith(tuple(COLOURS))]
    assert counts == [2, 2, 1]
    assert [path.name for path in (tmp_path / "runs" / "classify").iterdir()] == ["exp"]


def test_a_callback_sees_epochs_and_ends_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    seen: list[EpochEnd] = []

    def callback(end: EpochEnd) -> bool:
        seen.append(end)
        return len(seen) == 2

    result = train(replace(SMALL, name="called"), callback)
    assert [end.record.epoch for end in seen] == [1, 2] and seen[0].metrics.images == 6
    assert result.folder.name == "called"


def test_weights_of_other_classes_give_all_but_the_last_layer(
    trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "two.csv").write_text(
        "image,class\n" + "".join(f"set/train/{c}/{i}.png,{c != 'red'}\n" for c in COLOURS for i in range(8))
    )
    start = replace(SMALL, data="two.csv", width=None, img_size=None, weights=str(trained / "best.pt"), epochs=1)
    result = train(start)
    out = capsys.readouterr().out
    assert "all but the last layer" in out and "held out by --seed" in out
    assert load_classifier(result.folder / "best.pt").names == ["False", "True"]
    with pytest.raises(InputError, match=r"--width 0.5: .*best.pt has 0.1; leave it out"):
        train(replace(start, width=0.5))


def test_published_weights_are_understood(tmp_path: Path) -> None:
    """Top-5 of timm's network for the same picture."""
    network = timm.create_model("ghostnet_050", num_classes=9)
    randomise(network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    torch.save(network.eval().state_dict(), tmp_path / "net.pth")
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), image)
    ((path, best),) = predict(PredictOptions(str(tmp_path / "net.pth"), str(tmp_path / "x.png")))
    planes = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = network((planes - mean)[None] / std)[0].softmax(0).topk(5)
    assert path.endswith("x.png") and [name for name, _ in best] == [f"class_{i}" for i in expected.indices.tolist()]
    assert [value for _, value in best] == pytest.approx(expected.values.tolist(), abs=1e-4)


def test_a_classifier_starts_a_detectors_backbone(trained: Path, tmp_path: Path, data: Path) -> None:
    model = Classifier(["a", "b"], 0.5)
    save_classifier(model, tmp_path / "half.pt")
    options = [
        "--cfg",
        "ghostnet-yolov3-nano.cfg",
        "--data",
        "s.data",
        "--epochs",
        1,
        "--batch-size",
        8,
        "--workers",
        0,
    ]
    options += ["--img-size", 64, "--project", tmp_path]
    done = run("train.py", *options, "--backbone", tmp_path / "half.pt", folder=data)
    assert done.returncode == 0, done.stderr
    assert "tensors, the backbone (layers 0 to 16)" in done.stdout
    done = run("train.py", *options, "--backbone", trained / "best.pt", folder=data)
    assert done.returncode == 2 and "is it a GhostNet of another width or variant?" in done.stderr
    done = run("train.py", *options, "--backbone", "x.pt", "--weights", "y.pt", folder=data)
    assert done.returncode == 2 and "--backbone with --weights: expected one of them" in done.stderr


def test_widths_shows_the_trade(folder: Path) -> None:
    options = "--widths 0.2 0.1 --data set --img-size 32 --epochs 1 --batch-size 8 --workers 0".split()
    done = run("classify.py", "widths", *options, folder=folder)
    assert done.returncode == 0, done.stderr
    place = folder / "runs" / "classify-widths" / "exp"
    rows = json.loads((place / "widths.json").read_text())
    assert [row["width"] for row in rows] == [0.2, 0.1] and (place / "widths.png").is_file()
    for row in rows:
        assert row["parameters"] == sum(p.numel() for p in Classifier(list(COLOURS), row["width"]).parameters())
        assert row["milliseconds"] > 0 and 0 <= row["top1"] <= 1
    assert rows[0]["macs"] > rows[1]["macs"]


def test_networks_of_the_other_kind_are_refused(trained: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    done = run("models.py", "--cfg", "x.cfg", "--save", "x.pt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with pytest.raises(CfgError, match="expected a classifier; this is a detector"):
        load_classifier(tmp_path / "x.pt")
    done = run("detect.py", "--weights", trained / "best.pt", "--source", "set/valid/red", folder=folder)
    assert done.returncode == 2 and "expected a detector; this is a classifier, for classify.py" in done.stderr
    with pytest.raises(WeightsError, match="no such file"):
        load_classifier("none.pt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --data nothing", "nothing: no such folder or file"),
        ("train --data set --width 9", "--width 9.0: expected 0.1 to 3"),
        ("train --data set --img-size 8", "--img-size 8: expected 32 to 4096"),
        ("train --data set --area 0", "--area 0.0: expected above 0"),
        ("train --data set --batch-size 1", "--batch-size 1: expected at least 2"),
        ("train --data set --mixup -1", "--mixup -1.0: expected 0 or more"),
        ("train --data set/train/red", "expected a folder for each class"),
        ("train --resume last", "--resume last: expected a training under runs/classify, found none"),
        ("val --weights none.pt --data set", "none.pt: no such file"),
        ("predict --weights none.pt --source set", "none.pt: no such file"),
        ("widths --widths 7 --data set", "--width 7.0: expected 0.1 to 3"),
        ("widths --data nothing", "nothing: no such folder or file"),
        ("widths --data set --widths", "--widths: expected one at least"),
    ],
)
def test_bad_input_is_one_line(arguments: str, message: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "set").symlink_to(folder / "set")
    done = run("classify.py", *arguments.split(), folder=tmp_path)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not (tmp_path / "runs").exists()


def test_a_resumed_training_keeps_its_options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(RuntimeError, match="enough"):
        train(replace(SMALL, name="kept"), stop_at_once)
    options = ["--resume", "runs/classify/kept"]
    done = run("classify.py", "train", *options, "--epochs", 15, folder=folder)  # which is the default
    assert done.returncode == 2 and "--resume with --epochs 15: this training was started with 4" in done.stderr
    assert "only --device and --workers can be changed" in done.stderr
    done = run("classify.py", "train", *options, "--workers", 1, folder=folder)
    assert done.returncode == 0, done.stderr


def stop_at_once(end: EpochEnd) -> bool:
    raise RuntimeError("enough")


def test_class_names_may_hold_anything(folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("a$_$", "b %s", "x")):
        for index in range(4):
            (tmp_path / "odd" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "odd" / name / f"{index}.png").symlink_to(
                folder / "set" / "train" / list(COLOURS)[number] / f"{index}.png"
            )
    options = "--data odd --width 0.1 --img-size 32 --epochs 1 --batch-size 4 --workers 0".split()
    done = run("classify.py", "train", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "classify" / "exp" / "confusion.png").is_file()


def test_images_that_cannot_be_read_are_no_accuracy_of_0(folder: Path, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        for name in ("a", "b"):
            (tmp_path / "d" / part / name).mkdir(parents=True)
            for index in range(4):
                source = folder / "set" / "train" / "red" / f"{index}.png"
                content = source.read_bytes() if part == "train" else b"no image"
                (tmp_path / "d" / part / name / f"{index}.png").write_bytes(content)
    options = "--data d --width 0.1 --img-size 32 --epochs 1 --batch-size 4 --workers 0".split()
    done = run("classify.py", "train", *options, folder=tmp_path)
    assert done.returncode == 2 and "d: none of 8 validation images can be read" in done.stderr


def test_damaged_weights_are_refused(trained: Path, tmp_path: Path, folder: Path) -> None:
    content = torch.load(trained / "best.pt", weights_only=True)
    for name, change, message in (
        (
            "nan.pt",
            {"model": {**content["model"], "squeeze.1.bias": torch.full((96,), torch.nan)}},
            "not finite numbers",
        ),
        ("names.pt", {"names": []}, "expected class names, got none"),
        ("wide.pt", {"cfg": content["cfg"].replace("width_mult=0.1", "width_mult=60")}, "expected at most 4 times"),
    ):
        torch.save({**content, **change}, tmp_path / name)
        done = run("classify.py", "predict", "--weights", tmp_path / name, "--source", "set/valid/red", folder=folder)
        assert done.returncode == 2 and message in done.stderr, done.stderr


@pytest.mark.parametrize("variant", ["paper", "v2"])
def test_the_other_variants_train(variant: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, on a CPU."""
    monkeypatch.chdir(folder)
    result = train(replace(SMALL, variant=variant, epochs=1, amp="bf16", name=variant))
    assert load_classifier(result.folder / "best.pt").variant == variant


def test_predicting_leaves_its_caller_alone(trained: Path, folder: Path) -> None:
    options = PredictOptions(str(trained / "best.pt"), str(folder / "set" / "valid" / "red"))
    next(results := predict(options))
    assert not torch.is_inference_mode_enabled()
    results.close()
    with pytest.raises(WeightsError, match="no such file"):
        predict(replace(options, weights="none.pt"))
