"""int8: what is stored in bytes, which layers stay in float32, and that AP decides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import export as command
from export import ExportOptions, export
from models import load_model, save_weights
from tests.commands import CFG
from tests.conftest import randomise
from utils.deploy.network import Job
from utils.deploy.quantize import eight_bits, layer_errors, loosen
from utils.errors import InputError
from utils.evaluation.metrics import Metrics
from utils.runtimes.opening import open_exported
from utils.runtimes.pytorch import describe


@pytest.fixture
def weights(tmp_path: Path) -> str:
    (tmp_path / "x.cfg").write_text(CFG)
    model = load_model(tmp_path / "x.cfg")
    randomise(model)
    save_weights(model, tmp_path / "x.pt")
    return str(tmp_path / "x.pt")


@pytest.fixture
def data_file(data: Path) -> str:
    """The shapes as objects of one class."""
    (data / "one.names").write_text("shape\n")
    (data / "one.data").write_text("classes=1\ntrain=shapes/images/train\nvalid=shapes/images/valid\nnames=one.names\n")
    return str(data / "one.data")


def as_if(monkeypatch: pytest.MonkeyPatch, aps: Sequence[float]) -> None:
    """What measuring AP gives, one after the other."""
    left = iter(aps)
    monkeypatch.setattr(
        command.Subject, "average_precision", lambda *_: Metrics(next(left), 0.0, 1, 1, {})
    )  # fmt: skip


def in_bytes(path: Path, format: str) -> set[int]:
    """The layers of the cfg whose weights are stored in eight bits, and the distinct weights of a channel allow it."""
    if format == "onnx":
        onnx = pytest.importorskip("onnx")
        model = onnx.load(str(path))
        made = {name: node for node in model.graph.node for name in node.output}
        convs = [node for node in model.graph.node if node.op_type == "Conv"]
        names = [node.name for node in convs if made.get(node.input[1], node).op_type == "DequantizeLinear"]
    else:
        ov = pytest.importorskip("openvino")
        model = ov.Core().read_model(str(path / "model.xml"))
        names = []
        for operation in model.get_ordered_ops():
            if operation.get_type_name() in {"Convolution", "GroupConvolution"}:
                source, seen = operation.input_value(1).get_node(), set()
                while source.get_type_name() != "Constant":
                    seen.add(source.get_type_name())
                    source = source.input_value(0).get_node()
                if source.get_element_type().get_type_name() in {"i8", "u8"}:
                    names.append(operation.get_friendly_name())
    return {int(name.split("/")[0].removeprefix("layer_")) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_layers_stay_in_float_as_far_as_ap_asks_for_it(
    format: Any, weights: str, data_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = layer_errors(_job(weights), np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8))
    assert set(errors) == {0, 1, 2}
    other = min((0, 1), key=lambda index: errors[index])  # 2 is the head
    options = ExportOptions(
        weights, format=format, int8=True, data=data_file, output=str(tmp_path / "out"), precision="f32"
    )
    as_if(monkeypatch, [0.5, 0.499])
    (done,) = export(options)
    assert in_bytes(done.path, format) == {0, 1}
    images = np.random.default_rng(1).integers(0, 256, (1, 96, 96, 3), np.uint8)
    with torch.no_grad():
        right = load_model(weights=weights)(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).numpy()
    change = np.abs(open_exported(done.path).infer(images)[..., 4:] - right[..., 4:]).max()
    assert 1e-5 < change < 0.1
    as_if(monkeypatch, [0.5, 0.4, 0.499])
    (done,) = export(options)
    assert in_bytes(done.path, format) == {other} and open_exported(done.path).info.precision == "int8"
    as_if(monkeypatch, [0.5, 0.4, 0.4, 0.4, 0.4])
    with pytest.raises(InputError, match="nothing was written"):
        export(options)
    assert in_bytes(done.path, format) == {other}  # the last good one


@pytest.mark.parametrize(("ap", "allowed"), [(0.0, 0.0), (0.0, 0.005), (0.004, 0.005), (0.3, 0.3)])
def test_an_ap_that_cannot_fall_decides_nothing(
    ap: float, allowed: float, weights: str, data_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if(monkeypatch, [ap])  # of the network itself; nothing is measured after it
    out = tmp_path / "out"
    options = ExportOptions(weights, int8=True, data=data_file, max_map_drop=allowed, output=str(out))
    with pytest.raises(InputError, match=f"^--max-map-drop {allowed:g}: expected less than {ap:.3f}, the AP@.5:.95 of"):
        export(options)
    assert not out.exists()


def _job(weights: str) -> Job:
    model = load_model(weights=weights)
    return Job(model, describe(model))


def test_the_most_sensitive_layers_are_let_off_first() -> None:
    tried: list[frozenset[int]] = []

    def good_enough(floats: frozenset[int]) -> bool:
        tried.append(floats)
        return {4, 7} <= floats

    order = [7, 2, 4, 3, 9, 1]  # 3 is a head
    assert loosen([3], lambda: order, good_enough) == {3, 7, 2, 4, 9}
    assert tried == [{3}, {3, 7}, {3, 7, 2}, {3, 7, 2, 4, 9}]
    assert loosen([3], lambda: order, lambda floats: False) is None
    assert loosen([3], lambda: order, lambda floats: len(floats) == 6) == {7, 2, 4, 9, 1, 3}


def test_errors_are_those_of_eight_bits() -> None:
    """A convolution of one weight a channel: what rounding to 255 and 256 levels does can be worked out."""
    conv = nn.Conv2d(1, 2, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0, 0.3], [0.0, 0.0]]], [[[0.0, 0.0], [0.1, 0.0333]]]]))
        images = torch.tensor([[[[0.0, 0.2], [1.02, 0.5]]]])
        with eight_bits([conv]):
            got = conv(images).flatten()
        one, two = round(0.3 * 127) / 127, round(0.333 * 127) / 127 * 0.1
        rounded = [round(value / 0.004) * 0.004 for value in (0.0, 0.2, 1.02, 0.5)]
        expected = [rounded[0] + one * rounded[1], 0.1 * rounded[2] + two * rounded[3]]
        torch.testing.assert_close(got, torch.tensor(expected))
        torch.testing.assert_close(conv(images).flatten(), torch.tensor([0.06, 0.102 + 0.01665]))
