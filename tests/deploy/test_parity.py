"""The comparison finds what was changed, where it was changed, and nothing where nothing was."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export import ExportOptions, export
from models import load_model, save_weights
from tests.commands import CFG, Done, assert_refused, run
from tests.conftest import randomise
from utils.data.shapes import generate
from utils.deploy.compare import Difference, compare_maps, has_like, relative_difference
from utils.network.weights import read_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two heads and its exports; a few pictures."""
    place = tmp_path_factory.mktemp("parity")
    head = CFG.split("[convolutional]\nfilters=12")[1]
    two = CFG + "[route]\nlayers=0\n[convolutional]\nfilters=12" + head
    (place / "a.cfg").write_text(two)
    model = load_model(place / "a.cfg")
    randomise(model)
    save_weights(model, place / "a.pt")
    export(
        ExportOptions(
            str(place / "a.pt"), format="onnx,openvino,torchscript,ncnn,darknet", fold_bn=True, precision="f32"
        )
    )
    generate(place / "shapes", train=1, valid=4, size=96)
    return place


def compared(folder: Path, b: str, *options: object) -> tuple[Done, dict[str, Any]]:
    arguments = ["--a", "a.pt", "--b", b, "--source", "shapes/images/valid", "--conf", 0.05, "--name", "p", *options]
    done = run("benchmark.py", "parity", *arguments, folder=folder)
    newest = max((folder / "runs" / "benchmark").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert (newest / "parity.png").stat().st_size > 1000
    return done, json.loads((newest / "parity.json").read_text())


@pytest.mark.parametrize(
    ("b", "shown"),
    [
        ("a.onnx", ["layer 0", "layer 1", "layer 2", "layer 5"]),
        ("a_openvino", ["layer 0", "layer 1", "layer 2", "layer 5"]),
        ("a.torchscript", ["head 0", "head 1"]),
        ("a_ncnn", ["head 0", "head 1"]),
        ("a_darknet.cfg", ["layer 0", "layer 1", "layer 2", "layer 3", "layer 4", "layer 6", "layer 7"]),
        ("a.pt", ["layer 0", "layer 1", "layer 2", "layer 4", "layer 5", "head 0", "head 1"]),
    ],
)
def test_one_network_agrees_with_itself_everywhere(b: str, shown: list[str], folder: Path) -> None:
    done, written = compared(folder, b)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written["verdict"] == "they agree"
    names = [stage["name"] for stage in written["stages"]]
    assert set(shown) <= set(names), names
    assert names[-2:] == ["decoding", "NMS"]
    boxes = re.fullmatch(r"(\d+) boxes and (\d+) .* none without their like", written["stages"][-1]["words"])
    assert boxes is not None and int(boxes[1]) == int(boxes[2]) > 10


def test_opencvs_own_normalisation_is_no_disagreement(folder: Path) -> None:
    export(ExportOptions(str(folder / "a.pt"), format="darknet", output=str(folder / "unfolded")))
    done, written = compared(folder, "unfolded/a_darknet.cfg")
    assert done.returncode == 0 and written["verdict"] == "they agree"
    assert max(stage["share"] or 0 for stage in written["stages"]) > 1e-6  # which is not nothing


def test_a_changed_layer_is_found_in_weights(folder: Path) -> None:
    model = load_model(weights=folder / "a.pt")
    with torch.no_grad():
        next(model.blocks[1].parameters())[0] += 0.5
    save_weights(model, folder / "b.pt")
    done, written = compared(folder, "b.pt")
    assert done.returncode == 1
    assert written["verdict"].startswith("they first differ at layer 1: ")
    agrees = {stage["name"]: stage["agrees"] for stage in written["stages"]}
    assert agrees["layer 0"] and not agrees["layer 2"] and not agrees["head 0"] and agrees["head 1"]


def test_a_changed_layer_is_found_in_another_runtime(folder: Path) -> None:
    model = onnx.load(str(folder / "a.onnx"))
    node = next(node for node in model.graph.node if node.name.startswith("layer_5/Conv"))
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.3), bias.name))
    onnx.save(model, str(folder / "b.onnx"))
    done, written = compared(folder, "b.onnx")
    assert done.returncode == 1 and written["verdict"].startswith("they first differ at layer 5: ")
    assert [stage["name"] for stage in written["stages"] if not stage["agrees"]][:2] == ["layer 5", "decoding"]


def test_other_anchors_are_found_before_decoding(folder: Path) -> None:
    text = (folder / "a.cfg").read_text().replace("20,20,40,40", "20,20,40,50", 1)
    (folder / "other.cfg").write_text(text)
    model = load_model(folder / "other.cfg")
    model.load_state_dict({**model.state_dict(), **kept(folder, model.state_dict())})
    save_weights(model, folder / "other.pt")
    done, written = compared(folder, "other.pt")
    assert done.returncode == 1 and written["verdict"] == "they first differ at anchors: not the same anchors"
    agrees = {stage["name"]: stage["agrees"] for stage in written["stages"]}
    assert agrees["head 0"] and agrees["head 1"] and not agrees["decoding"]


def kept(folder: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a.pt but for its anchors."""
    tensors = read_checkpoint(folder / "a.pt").tensors
    return {name: value for name, value in tensors.items() if name in state and "anchor" not in name}


def test_relative_difference() -> None:
    own = np.array([[[[1.0, -4.0]]]])
    assert relative_difference(own, np.add(own, [0.0, 0.2])) == pytest.approx(0.05)
    assert relative_difference(own, own[..., :1]) == float("inf")
    assert np.isnan(relative_difference(own, own * np.nan)) and np.isnan(relative_difference(own * np.inf, own))


def test_a_map_of_no_numbers_is_no_agreement() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    broken = iter([np.full((1, 1, 2, 2), np.nan), np.ones((1, 1, 2, 2))])
    (found,) = compare_maps(
        lambda _: {"layer_0": np.ones((1, 1, 2, 2))}, lambda _: {"layer_0": next(broken)}, [image, image]
    ).values()
    assert np.isnan(found) and not Difference(0, 0, found).within("float32")


def test_has_like() -> None:
    own = np.array([[0, 0, 10, 10, 0.9, 0], [50, 50, 60, 60, 0.8, 1]], float)
    moves = [1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1], [9, 0, 9, 0, 0, 0]
    moved, other_class, far = (np.add(own, move) for move in moves)
    assert has_like(own, moved).all() and not has_like(own, other_class).any() and not has_like(own, far).any()
    assert has_like(own, own[:1]).tolist() == [True, False] and not has_like(own, own[:0]).any()


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    pictures, a = folder / "shapes" / "images" / "valid", folder / "a.pt"
    cases = [
        (["--a", a, "--b", tmp_path / "no.pt", "--source", pictures], "no.pt: no such file"),
        (["--a", a, "--b", a, "--source", tmp_path / "none"], "none"),
        (["--a", a, "--b", folder / "a.onnx", "--source", pictures, "--img-size", "128"], "a.onnx: input 128x128"),
        (["--a", a, "--b", a, "--source", pictures, "--conf", "7"], "--conf 7.0: expected 0 to 1"),
        (["--a", a, "--b", folder / "a.onnx", "--b-cfg", "x.cfg", "--source", pictures], "a-cfg or --b-cfg with"),
    ]
    for arguments, message in cases:
        assert_refused(run("benchmark.py", "parity", *arguments, folder=tmp_path), message, tmp_path)
