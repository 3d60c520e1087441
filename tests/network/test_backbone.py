"""A classifier's weights in a detector: which tensors, what for, and files that do not fit."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from models import load_model
from tests.conftest import randomise
from utils.errors import WeightsError
from utils.letterbox import IMAGENET_MEAN, IMAGENET_STD
from utils.network.backbone import load_backbone


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published network's file, with random weights."""
    network = timm.create_model("ghostnet_100", num_classes=5)
    randomise(network)
    path = tmp_path_factory.mktemp("published") / "ghostnet.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("form", ["pth", "state_dict", "safetensors"])
def test_a_published_network_becomes_the_backbone(published: Path, form: str, tmp_path: Path) -> None:
    """Layer by layer timm's own maps of the normalised image; borders aside, which the stem sees in black."""
    state, path = torch.load(published, weights_only=True), published
    if form == "state_dict":
        path = tmp_path / "x.pth.tar"
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, path)
    if form == "safetensors":
        path = tmp_path / "x.safetensors"
        safetensors.torch.save_file(state, path)
    network = timm.create_model("ghostnet_100", num_classes=5).eval()
    network.load_state_dict(state)
    model = load_model("ghostnet-yolov3-tiny.cfg")
    said = load_backbone(model.graph, list(model.blocks), path)
    assert "layers 0 to 16), 16 of its 16 bottlenecks" in said
    images = torch.rand(1, 3, 96, 96)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        theirs = network.act1(network.bn1(network.conv_stem((images - mean) / std)))
        ours = model.blocks[0](images)
        torch.testing.assert_close(ours[..., 1:, 1:], theirs[..., 1:, 1:], rtol=1e-4, atol=1e-4)
        stages = [block for stage in network.blocks[:-1] for block in stage]
        for block, stage in zip(model.blocks[1:17], stages, strict=True):
            maps = torch.rand(1, stage.ghost1.primary_conv[0].in_channels, 12, 12)
            expected = stage(maps)
            assert (block(maps) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_files_that_do_not_fit_change_nothing(published: Path, tmp_path: Path) -> None:
    half = load_model("ghostnet-yolov3-nano.cfg")
    before = {name: tensor.clone() for name, tensor in half.state_dict().items()}
    tiny = load_model("yolov3-tiny.cfg")
    (tmp_path / "x.safetensors").write_bytes(b"no such file")
    whole = load_model("ghostnet-yolov3-tiny.cfg")
    state = torch.load(published, weights_only=True)
    grey = timm.create_model("ghostnet_100", num_classes=5, in_chans=1).state_dict()
    bad = {**state, "blocks.0.0.ghost1.primary_conv.0.weight": torch.full((8, 16, 1, 1), torch.nan)}
    torch.save(grey, tmp_path / "grey.pt")
    torch.save(timm.create_model("ghostnetv2_100", num_classes=5).state_dict(), tmp_path / "v2.pt")
    torch.save({name: tensor for name, tensor in state.items() if "stem" not in name}, tmp_path / "stemless.pt")
    torch.save(bad, tmp_path / "nan.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a.weight": torch.zeros(1)}, tmp_path / "other.pt")
    for model, path, message in (
        (half, published, r"features.0.0.weight: expected the shape \(8, 3, 3, 3\), .*another width or variant"),
        (whole, tmp_path / "grey.pt", r"expected the shape \(16, 3, 3, 3\), .*got the shape \(16, 1, 3, 3\)"),
        (whole, tmp_path / "v2.pt", r"features.3.conv.0.attention.0.0.weight: expected none, .*got the shape"),
        (whole, tmp_path / "stemless.pt", r"features.0.0.weight: expected the shape .*got none"),
        (whole, tmp_path / "nan.pt", r"features.1.conv.0.primary_conv.0.weight: damaged: some values are not finite"),
        (tiny, published, r"yolov3-tiny.cfg: expected a \[convolutional\] and then \[ghost_bottleneck\]"),
        (half, tmp_path / "x.safetensors", "damaged, or no safetensors file"),
        (half, tmp_path / "list.pt", "expected a checkpoint by classify.py, or a published"),
        (half, tmp_path / "other.pt", "a.weight: expected the tensors of a published GhostNet"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_backbone(model.graph, list(model.blocks), path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in half.state_dict().items())
