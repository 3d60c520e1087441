"""Networks with one input channel: images are turned grey as Darknet and OpenCV do it, in every command."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from benchmark import evaluation_speed
from detect import Detector
from export import ExportOptions, export
from models import Darknet, load_model, save_weights
from prune import PruneOptions, prune
from tests.commands import CFG, run
from tests.conftest import randomise
from tests.network.test_opencv import assert_heads_equal
from train import TrainOptions, train
from utils.data.augment import Augmentation
from utils.data.cache import Pictures
from utils.data.dataset import TrainingSet
from utils.data.labels import Sample
from utils.data.sampler import Key
from utils.data.shapes import generate
from utils.deploy.formats import KINDS
from utils.evaluation.speed import EvaluationBenchmark
from utils.letterbox import to_bgr, to_channels
from utils.runtimes.opening import open_exported

SIZE = 96
GREY_CFG = (
    CFG.replace("[net]", "[net]\nchannels=1").replace("classes=1", "classes=3").replace("filters=12", "filters=16")
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured images, the same in grey, a random network with one input channel, as .pt and as .cfg with .weights."""
    folder = tmp_path_factory.mktemp("grey")
    generate(folder / "shapes", train=4, valid=2, size=SIZE)
    (folder / "s.data").write_text("classes=3\ntrain=shapes/images/train\nvalid=shapes/images/valid\n")
    (folder / "grey.cfg").write_text(GREY_CFG)
    model = load_model(folder / "grey.cfg")
    randomise(model)
    for name in ("grey.pt", "grey.weights"):
        save_weights(model, folder / name)
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    cv2.imwrite(str(folder / "colour.png"), noise)
    cv2.imwrite(str(folder / "grey.png"), cv2.cvtColor(noise, cv2.COLOR_BGR2GRAY))
    return folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of all that enters a network."""
    shapes: list[torch.Size] = []
    original = Darknet.raw

    def raw(self: Darknet, images: torch.Tensor) -> Any:
        shapes.append(images.shape)
        return original(self, images)

    monkeypatch.setattr(Darknet, "raw", raw)
    return shapes


def test_grey_is_what_opencv_reads(place: Path) -> None:
    image = cv2.imread(str(place / "colour.png"))
    grey = to_channels(image, 1)
    assert grey.shape == (SIZE, SIZE, 1) and grey.dtype == np.uint8
    blue, green, red = (image[..., plane].astype(float) for plane in range(3))
    assert np.abs(grey[..., 0] - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51
    read = cv2.imread(str(place / "colour.png"), cv2.IMREAD_GRAYSCALE)
    assert np.abs(grey[..., 0].astype(int) - read).max() <= 1  # the PNG reader rounds in another place
    np.testing.assert_array_equal(to_channels(cv2.imread(str(place / "grey.png")), 1), grey)
    unrounded = to_channels(image.astype(np.float32), 1)
    assert unrounded.shape == grey.shape and np.abs(unrounded - grey).max() <= 0.51
    assert to_bgr(grey).shape == image.shape and (to_bgr(grey) == grey).all()
    np.testing.assert_array_equal(to_bgr(to_channels(image, 3)), image)


def test_heads_are_those_of_opencv(place: Path) -> None:
    blob = (cv2.imread(str(place / "colour.png"), cv2.IMREAD_GRAYSCALE) / 255).astype(np.float32)[None, None]
    expanded = run("models.py", "--cfg", "grey.cfg", "--weights", "grey.weights", "--expand-ghost", "plain.cfg",
                   "--save", "plain.weights", folder=place)  # fmt: skip
    assert expanded.returncode == 0, expanded.stderr
    cfg, weights = place / "plain.cfg", place / "plain.weights"
    assert_heads_equal(load_model(cfg, weights), cfg, weights, blob)


def test_detection_sees_no_colour(place: Path) -> None:
    detector = Detector(weights=str(place / "grey.pt"), conf=0.01)
    colour, grey = detector([place / "colour.png", place / "grey.png"])
    assert len(colour) == len(grey) > 0
    np.testing.assert_array_equal(colour.rows(), grey.rows())
    other = Detector(weights=str(place / "grey.pt"), conf=0.01)(np.full((SIZE, SIZE, 3), 90, np.uint8))[0]
    assert len(other) != len(grey) or np.abs(other.scores - grey.scores).max() > 0.01


def test_training_images_are_grey(place: Path) -> None:
    samples = [Sample(place / name, np.zeros((0, 5), np.float32), (SIZE, SIZE)) for name in ("colour.png", "grey.png")]
    dataset = TrainingSet(Pictures(samples, (SIZE, SIZE)), Augmentation(mosaic=0, hue=0, saturation=0), 3, channels=1)
    for place_in_epoch in range(4):  # flipped or not
        keys = [Key(index, 0, place_in_epoch, SIZE, SIZE) for index in (0, 1)]
        colour, grey = (dataset[key][0].numpy().astype(int) for key in keys)
        assert colour.shape == grey.shape == (SIZE, SIZE, 1)
        assert np.abs(colour - grey).mean() < 1 and colour.std() > 10


@pytest.mark.slow
def test_trained_measured_pruned(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[torch.Size]
) -> None:
    monkeypatch.chdir(tmp_path)
    data, weights = str(place / "s.data"), str(place / "grey.pt")
    done = train(TrainOptions(cfg=str(place / "grey.cfg"), data=data, epochs=1, batch_size=2, workers=0, device="cpu"))
    best = load_model(weights=done.folder / "best.pt")
    assert best.graph.net.channels == 1 and best.blocks[0].unit[0].weight.shape[1] == 1
    for name in ("train_batch0.jpg", "predictions.jpg"):
        drawn = cv2.imread(str(done.folder / name))
        assert drawn is not None and drawn.std() > 5
    measured = run("test.py", "--weights", weights, "--data", data, "--workers", 0, folder=tmp_path)
    assert measured.returncode == 0, measured.stderr
    evaluation_speed(EvaluationBenchmark(weights, data=data, rounds=1, device="cpu"))
    pruned = prune(PruneOptions(weights, data=data, percent=0.5, importance="taylor", workers=0, device="cpu"))
    assert pruned.after.gflops < pruned.before.gflops
    assert load_model(weights=pruned.folder / "pruned.pt").graph.net.channels == 1
    assert seen and {shape[1] for shape in seen} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_exported(name: Any, place: Path, tmp_path: Path) -> None:
    """export.py compares with PyTorch by itself; here the file is run once more, from what was written alone."""
    options = {"cfg": str(place / "grey.cfg")} if name == "darknet" else {}
    weights = str(place / ("grey.weights" if name == "darknet" else "grey.pt"))
    (done,) = export(ExportOptions(weights, format=name, data=None, output=str(tmp_path), precision="f32", **options))
    runtime = open_exported(done.path)
    assert runtime.info.channels == 1
    image = to_channels(cv2.imread(str(place / "colour.png")), 1)[None]
    with torch.no_grad():
        expected = load_model(weights=place / "grey.pt")(torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255)
    got = runtime.infer(image)
    atol = 0.02 if name == "darknet" else 1e-3  # OpenCV's batch normalisation adds another epsilon
    np.testing.assert_allclose(got[..., 4:], expected[..., 4:].numpy(), atol=atol)
    found = Detector(weights=str(done.path), conf=0.01)(place / "colour.png")[0]
    own = Detector(weights=str(place / "grey.pt"), conf=0.01)(place / "colour.png")[0]
    assert abs(len(found) - len(own)) <= 2 + len(own) // 20


def test_the_command_tells_and_checks_channels(place: Path, tmp_path: Path) -> None:
    table = run("models.py", "--cfg", "grey.cfg", folder=place)
    assert table.returncode == 0 and "Input size (MB): 0.04" in table.stdout  # 1 x 96 x 96 numbers of 4 bytes
    assert run("models.py", "--cfg", "grey.cfg", "--check", folder=place).returncode == 0
    for count in (2, 4, 0):
        (tmp_path / "x.cfg").write_text(GREY_CFG.replace("channels=1", f"channels={count}"))
        done = run("models.py", "--cfg", "x.cfg", "--check", folder=tmp_path)
        assert done.returncode == 2 and f"x.cfg:2: channels={count}: expected one of 1, 3" in done.stdout
