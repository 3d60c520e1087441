"""What the tests share: the folder of real inputs, random networks, OpenCV's Darknet importer as an oracle."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.commands import CFG, run
from utils.data.shapes import generate
from utils.log import quiet_opencv, terminal_output

PROJECT = Path(__file__).resolve().parent.parent
SHARED = PROJECT.parent / "shared"


@pytest.fixture(autouse=True)
def _messages() -> Iterator[None]:
    """Messages are printed as a command prints them; what Python shows by itself, tests/test_log.py tells."""
    quiet_opencv()
    with terminal_output():
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images, data sets and weights; tests that need it are skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"real inputs are not here: {SHARED} is missing")
    return SHARED


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Random weights and statistics of a trained network's size: outputs neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (1.5 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            if isinstance(module, nn.Linear):  # of squeeze and excitation: neither dead nor saturated
                size = module.weight.shape
                module.weight.copy_(torch.rand(size, generator=generator) / size[1])
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) * 0.2 + 0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
                module.running_mean.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.bias.shape, generator=generator) + 0.5)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set: 24 and 8 images of shapes."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder / "shapes", train=24, valid=8, size=96)
    (folder / "s.names").write_text("circle\nsquare\ntriangle\n")
    (folder / "s.data").write_text("classes=3\ntrain=shapes/images/train\nvalid=shapes/images/valid\nnames=s.names\n")
    (folder / "x.cfg").write_text(CFG)
    return folder


@pytest.fixture(scope="session")
def trained(data: Path) -> Path:
    """A two-epoch training; its run folder."""
    options = [
        "--cfg",
        "x.cfg",
        "--data",
        "s.data",
        "--epochs",
        2,
        "--batch-size",
        8,
        "--workers",
        0,
        "--name",
        "a",
        "--amp",
        "off",
    ]
    done = run("train.py", *options, folder=data)
    assert done.returncode == 0, done.stderr
    assert "x.cfg has 1 class, s.data has 3: heads fitted (filters=16 before [yolo])" in done.stdout
    assert "results in runs/train/a" in done.stdout
    return data / "runs" / "train" / "a"
