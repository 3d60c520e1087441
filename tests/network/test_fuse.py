"""A fused network gives the outputs of the one with batch normalisation, and has none left after a convolution."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import Darknet, load_model
from tests.conftest import PROJECT, randomise
from utils.network.fuse import fuse

SHARED_CONV = (
    "[net]\nwidth=64\nheight=64\n"
    + "[convolutional]\nfilters=8\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n" * 2
    + "[convolutional]\nfilters=8\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\nshare_index=1\n"
    + "[convolutional]\nfilters=16\nsize=3\npad=1\ngroups=4\nbatch_normalize=1\nactivation=mish\n"
    + "[convolutional]\nfilters=7\nactivation=linear\n[yolo]\nmask=0\nanchors=10,10\nclasses=2\nnum=1\n"
)


def assert_same_outputs(model: Darknet, size: int) -> None:
    """In float64, where rounding cannot hide a wrong term; the model itself stays as it was."""
    randomise(model)
    model = model.double().eval()
    before: dict[str, Tensor] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.rand(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fused = fuse(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        for own, other in zip(fused.raw(images), model.raw(images), strict=True):
            assert (own - other).abs().max() < 1e-9 * other.abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["yolov3-tiny", "yolov4-tiny", "ghost-yolov3-tiny", "ghost-yolov3-tiny-lite", "ghostnet-yolov3"]
)
def test_fused_outputs(name: str) -> None:
    assert_same_outputs(load_model(PROJECT / "cfg" / f"{name}.cfg"), 96)


def test_shared_and_grouped_convolutions(tmp_path: Path) -> None:
    cfg = tmp_path / "shared.cfg"
    cfg.write_text(SHARED_CONV)
    assert_same_outputs(load_model(cfg), 64)
