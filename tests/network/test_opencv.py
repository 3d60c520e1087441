"""Raw head maps equal those of OpenCV's Darknet importer, an independent implementation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models import Darknet, load_model, save_weights
from tests.conftest import PROJECT, randomise
from utils.data.images import read_image
from utils.letterbox import stretch, to_input
from utils.network.expand import expand
from utils.network.graph import load_graph

OPENCV_EPS = 1e-6  # what OpenCV's importer effectively uses; the product keeps Darknet's 1e-5
CFGS = sorted(path.name for path in (PROJECT / "cfg").glob("*.cfg"))
NO_DARKNET_FORM = {name for name in CFGS if name.startswith("ghostnet-")}  # squeeze and excitation with a clamp

pytestmark = pytest.mark.skipif(
    not hasattr(cv2.dnn, "readNetFromDarknet"), reason=f"OpenCV {cv2.__version__} has no Darknet importer (4.x has)"
)


def opencv_heads(cfg: Path, weights: Path, blob: np.ndarray, model: Darknet) -> list[np.ndarray]:
    """The maps before each [yolo], from OpenCV."""
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.enableFusion(False)
    net.setInput(blob)
    names = set(net.getLayerNames())
    wanted = []
    for head in model.graph.heads():
        source = head.sources[0]
        choices = [f"{kind}_{source}" for kind in ("linear", "logistic", "sigmoid", "bn", "conv")]
        wanted.append(next(name for name in choices if name in names))
    return list(net.forward(wanted))


def assert_heads_equal(model: Darknet, cfg: Path, weights: Path, blob: np.ndarray) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = OPENCV_EPS
    with torch.no_grad():
        ours = [head.numpy() for head in model.heads(torch.from_numpy(blob))]
    theirs = opencv_heads(cfg, weights, blob, model)
    assert len(ours) == len(theirs) > 0
    for own, other in zip(ours, theirs, strict=True):
        assert own.shape == other.shape
        assert np.abs(own - other).max() / np.abs(other).max() < 1e-5


@pytest.mark.parametrize("picture", ["dog", "eagle", "giraffe", "horses", "person"])
def test_real_weights(shared: Path, picture: str) -> None:
    folder = shared / "models" / "yolo-fastest-1.1"
    cfg, weights = folder / "yolo-fastest-1.1.cfg", folder / "yolo-fastest-1.1.weights"
    image, _ = stretch(read_image(shared / "images" / f"{picture}.jpg"), 320, 320)
    assert_heads_equal(load_model(cfg, weights), cfg, weights, to_input(image)[None])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CFGS if name not in NO_DARKNET_FORM])
def test_random_weights(name: str, tmp_path: Path) -> None:
    """Every shipped cfg; the ghost ones written out in Darknet's sections. At 160 px, to be quick."""
    assert_written_out_equal(load_model(name), tmp_path)


@pytest.mark.parametrize("name", sorted(NO_DARKNET_FORM))
def test_ghost_bottlenecks_without_squeeze_and_excitation(name: str, tmp_path: Path) -> None:
    graph = load_graph(name)
    changes = {node.index: {"se": 0} for node in graph.nodes if node.kind == "ghost_bottleneck"}
    assert len(changes) == 16
    assert_written_out_equal(Darknet(graph.with_options(changes)).eval(), tmp_path)


BASE = """[net]
width=96
height=96
[convolutional]
filters=8
size=3
stride=4
pad=1
batch_normalize=1
activation=leaky
[convolutional]
filters=16
size=3
stride=4
pad=1
batch_normalize=1
activation=leaky
[convolutional]
filters=16
size=1
activation=linear
[yolo]
mask=0,1
anchors=20,20,40,40
num=2
classes=3
"""


@pytest.mark.parametrize(
    ("old", "new", "as_it_is"),
    [  # what OpenCV refuses or reads in another way is compared as this project writes it
        ("[net]\n", "[net]\nbatch=1\nbatch=64\n", True),
        ("filters=8\n", "filters=8.0\n", True),
        ("pad=1\n", "pad=2\n", True),
        ("anchors=20,20", "anchors=0,3", True),
        ("batch_normalize=1\n", "batch_normalize=2\n", False),
        ("num=2", "num=9", False),
        ("40,40\n", "40,40,80,80\n", False),
        ("num=2\n", "", False),
        ("mask=0,1\n", "", False),
        ("filters=16\nsize=1", "filters=1  6\nsize=1", False),
    ],
)
def test_cfgs_from_the_wild(old: str, new: str, as_it_is: bool, tmp_path: Path) -> None:
    """The same network as without the oddity."""
    assert old in BASE
    plain, cfg, weights = tmp_path / "plain.cfg", tmp_path / "x.cfg", tmp_path / "x.weights"
    plain.write_text(BASE)
    cfg.write_text(BASE.replace(old, new, 1))
    model = load_model(cfg)
    randomise(model)
    save_weights(model, weights)
    blob = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    if not as_it_is:
        cfg.write_text(model.graph.to_cfg())
    assert_heads_equal(model, cfg, weights, blob)
    assert_heads_equal(load_model(plain, weights), cfg, weights, blob)


def assert_written_out_equal(model: Darknet, folder: Path) -> None:
    randomise(model)
    model = _expanded(model)
    assert not {node.kind for node in model.graph.nodes} & {"ghost", "ghost_bottleneck", "se"}
    cfg, weights = folder / "x.cfg", folder / "x.weights"
    cfg.write_text(model.graph.to_cfg())
    save_weights(model, weights)
    blob = np.random.default_rng(0).random((1, 3, 160, 160), dtype=np.float32)
    assert_heads_equal(model, cfg, weights, blob)


def _expanded(model: Darknet) -> Darknet:
    expanded = Darknet(expand(model.graph, model.blocks)).eval()
    tensors = dict(zip(expanded.state_dict(), model.state_dict().values(), strict=True))
    expanded.load_state_dict(tensors)
    return expanded
