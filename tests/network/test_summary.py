"""The table of layers: the golden files, and torchsummary itself."""

import contextlib
import io

import pytest
import torch
import torchsummary
from torch import nn

from models import load_model
from tests.conftest import SHARED
from utils.network.summary import format_table, gflops, trace


def table(cfg: str) -> list[str]:
    shape = (3, 416, 416)
    return format_table(trace(load_model(cfg), torch.zeros(1, *shape)), shape).splitlines()


@pytest.mark.parametrize("name", ["yolov3-tiny", "ghost-yolov3-tiny"])
def test_golden(shared: object, name: str) -> None:
    golden = (SHARED / "golden" / f"{name}-summary.txt").read_text().rstrip("\n").splitlines()
    ours = table(f"{name}.cfg")
    assert ours[-1].startswith("GFLOPs: ")
    assert [line.replace("ReplicationPad2d", "       ZeroPad2d") for line in ours[:-1]] == golden


@pytest.mark.parametrize(
    ("cfg", "parameters", "billions"),
    [("yolov3-tiny.cfg", 8_852_366, 5.565), ("ghost-yolov3-tiny.cfg", 9_402_422, 4.121)],
)
def test_known_references(cfg: str, parameters: int, billions: float) -> None:
    rows = trace(load_model(cfg), torch.zeros(1, 3, 416, 416))
    assert sum(row.parameters for row in rows) == parameters
    assert round(gflops(rows), 3) == billions


def test_lite_is_small() -> None:
    rows = trace(load_model("ghost-yolov3-tiny-lite.cfg"), torch.zeros(1, 3, 416, 416))
    assert sum(row.parameters for row in rows) < 2_600_000
    assert gflops(rows) < 2.0


def test_same_text_as_torchsummary() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    captured = io.StringIO()
    with contextlib.redirect_stdout(captured):
        torchsummary.summary(network, (3, 32, 32), device="cpu")
    ours = format_table(trace(network, torch.zeros(1, 3, 32, 32)), (3, 32, 32)).splitlines()
    assert ours[:-1] == captured.getvalue().rstrip("\n").splitlines()
    macs = 8 * 32 * 32 * 27
    assert ours[-1] == f"GFLOPs: {2 * macs / 1e9:.3f}"
