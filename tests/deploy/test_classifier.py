"""Exported classifiers give the probabilities that the network in PyTorch gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classify import Classifier, ClassValOptions, PredictOptions, load_classifier, predict, save_classifier, validate
from export import ExportOptions, export
from tests.commands import assert_refused, run
from tests.conftest import randomise
from utils.deploy.classifier import ExportedClassifier
from utils.runtimes.opening import open_exported

FORMATS = "onnx,openvino,torchscript,ncnn"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier, and a few pictures of each class."""
    place = tmp_path_factory.mktemp("classifier")
    model = Classifier(["circle", "square", "triangle"], 0.25, img_size=64)
    randomise(model)
    save_classifier(model.eval(), place / "c.pt")
    values = np.random.default_rng(0)
    for part in ("train", "valid"):
        for name in model.names:
            (place / "data" / part / name).mkdir(parents=True)
            for index in range(3):
                picture = values.integers(0, 256, (80, 100, 3), np.uint8)
                Image.fromarray(picture).save(place / "data" / part / name / f"{index}.png")
    return place


@pytest.fixture(scope="module")
def exported(folder: Path) -> list[ExportedClassifier]:
    done = export(ExportOptions(str(folder / "c.pt"), format=FORMATS, output=str(folder / "out"), precision="f32"))
    return [each for each in done if isinstance(each, ExportedClassifier)]


def by_torch(folder: Path, images: np.ndarray) -> np.ndarray:
    """(B, H, W, 3) RGB uint8 -> probabilities, written out: the network as it was trained, nothing folded."""
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    planes = (planes - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        return np.array(load_classifier(folder / "c.pt").double()(planes).softmax(1))


def test_every_format_gives_the_same_probabilities(folder: Path, exported: list[ExportedClassifier]) -> None:
    assert [each.format for each in exported] == FORMATS.split(",")
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    expected = by_torch(folder, images)
    assert np.ptp(expected) > 0.1  # not all alike
    for each in exported:
        runtime = open_exported(each.path, precision="f32")
        assert np.abs(runtime.infer(images) - expected).max() < 1e-4, each.format
        assert runtime.info.names == ("circle", "square", "triangle") and runtime.info.task == "classify"


@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript"])
def test_any_number_and_size_of_images(format: str, folder: Path, tmp_path: Path) -> None:
    (done,) = export(
        ExportOptions(str(folder / "c.pt"), format=format, dynamic=True, output=str(tmp_path), precision="f32")
    )
    runtime = open_exported(done.path, precision="f32")
    for shape in ((3, 64, 64, 3), (1, 96, 128, 3)):
        images = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
        assert np.abs(runtime.infer(images) - by_torch(folder, images)).max() < 1e-4


def test_classify_takes_exported_files(
    folder: Path, exported: list[ExportedClassifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, data = str(folder / "data" / "valid" / "circle"), str(folder / "data")
    own = list(predict(PredictOptions(str(folder / "c.pt"), source)))
    metrics = validate(ClassValOptions(str(folder / "c.pt"), data, workers=0))
    assert len(own) == 3 and metrics.images == 9
    for each in exported[:3]:
        for (path, best), (other, its) in zip(own, predict(PredictOptions(str(each.path), source)), strict=True):
            assert path == other and [name for name, _ in best] == [name for name, _ in its]
            assert [value for _, value in best] == pytest.approx([value for _, value in its], abs=1e-4)
        found = validate(ClassValOptions(str(each.path), data, workers=0))
        assert (found.top1, found.images) == (metrics.top1, 9) and found.loss == pytest.approx(metrics.loss, abs=1e-4)


def test_accuracy_is_measured_with_data(folder: Path, tmp_path: Path) -> None:
    options = ExportOptions(str(folder / "c.pt"), format="onnx", data=str(folder / "data"), output=str(tmp_path))
    (done,) = export(options)
    assert isinstance(done, ExportedClassifier) and done.metrics is not None and done.metrics.images == 9


def test_bad_input(folder: Path, exported: list[ExportedClassifier], tmp_path: Path) -> None:
    weights, onnx = folder / "c.pt", exported[0].path
    cases = [
        (["export.py", "--weights", weights, "--format", "onnx,darknet"], "--format darknet: expected a detector"),
        (["export.py", "--weights", weights, "--nms"], f"--nms: expected a detector; {weights} is a classifier"),
        (["export.py", "--weights", weights, "--int8", "--data", "shapes"], "--int8: expected a detector"),
        (["export.py", "--weights", weights, "--img-size", "64,96"], "--img-size 64,96: expected one number"),
        (
            ["detect.py", "--weights", onnx, "--source", folder / "data" / "valid" / "circle"],
            "expected a network to detect with",
        ),
        (["test.py", "--weights", onnx, "--data", "shapes.data"], "expected a network to detect with"),
        (["classify.py", "predict", "--weights", onnx, "--source", "x", "--device", "cuda"], "--device cuda"),
    ]
    for (script, *arguments), message in cases:
        assert_refused(run(str(script), *arguments, folder=tmp_path), message, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["c.pt", "data", "out"]
