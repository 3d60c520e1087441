"""GhostNet against the published module tree, counts and weights (timm's); its cost as counted."""

import random

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ghost import (
    DFCAttention,
    GhostBottleneck,
    GhostModule,
    GhostNet,
    SELayer,
    channels_of,
    fitting_width,
    ghost_net,
    make_divisible,
    net_of,
    released_net,
)
from models import Darknet
from tests.conftest import randomise
from utils.errors import WeightsError
from utils.network.graph import parse_graph
from utils.network.summary import trace

HEAD = "[yolo]\nanchors=1,2\nclasses=1\n"

RELEASED = {"ghostnet_050": 0.5, "ghostnet_100": 1.0, "ghostnet_130": 1.3, "ghostnetv2_100": 1.0, "ghostnetv2_160": 1.6}


def test_the_printed_network_is_the_documents(shared) -> None:
    document = [line.rstrip() for line in (shared / "golden" / "ghostnet-repr.txt").read_text().splitlines()]
    ours = [line.replace(", bias=True, track", ", track") for line in repr(ghost_net()).splitlines()]
    # 31 lines are missing in the document's middle: most of the last bottleneck, which is like the one before the last
    # but one (Table 1: 5x5, 960, 160, SE), and the first of the squeeze stage
    first, following, last = (document.index(f"    ({number}): GhostBottleneck(") for number in (14, 15, 16))
    squeeze = [
        "  )",
        "  (squeeze): Sequential(",
        "    (0): Conv2d(160, 960, kernel_size=(1, 1), stride=(1, 1), bias=False)",
        "    (1): BatchNorm2d(960, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)",
    ]
    rest = document[document.index("    (2): ReLU(inplace=True)") :]
    whole = [*document[: last + 1], *document[first + 1 : following], *squeeze, *rest]
    assert len(whole) == len(document) + 31
    assert ours == whole


def test_widths_are_told_from_channels() -> None:
    for hundredths in range(5, 401):
        assert fitting_width(channels_of(hundredths / 100)) == hundredths / 100
    chance = random.Random(0)
    for width in (chance.uniform(0.05, 4) for _ in range(200)):
        assert channels_of(fitting_width(channels_of(width))) == channels_of(width)
    assert fitting_width([*channels_of(1)[:-1], 480]) == 0.5  # none fits


@pytest.mark.parametrize("width", [0.07, 0.333])
def test_networks_of_other_widths_load(width: float) -> None:
    theirs = timm.models.ghostnet._create_ghostnet("ghostnet_100", width=width, num_classes=5)
    found = released_net(theirs.state_dict())
    assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in theirs.parameters())
    tensors = found.state_dict()
    assert net_of(tensors, "x").width_mult == found.width_mult == pytest.approx(width, abs=0.002)
    tensors["features.3.conv.0.primary_conv.0.weight"] = torch.zeros(6, 8, 1, 1)
    with pytest.raises(WeightsError, match=r"^x: .*expected shape"):
        net_of(tensors, "x")


def test_statistics_follow_as_slowly_as_in_other_sections() -> None:
    """Each batch has 3 % of the running statistics, in the sections as in Darknet-like convolutions."""
    sections = ("convolutional", "ghost", "ghost_bottleneck", "batchnorm")
    more = {"convolutional": "filters=8\nbatch_normalize=1", "ghost": "filters=8\nbatch_normalize=1"}
    more |= {"ghost_bottleneck": "filters=8\nexpansion=12"}
    text = "".join(f"[{name}]\n{more.get(name, '')}\n" for name in sections)
    model = Darknet(parse_graph(f"[net]\nwidth=8\nheight=8\n{text}[convolutional]\nfilters=6\n{HEAD}")).train()
    inputs: dict[nn.Module, torch.Tensor] = {}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, x: inputs.update({module: x[0].detach()}))
    with torch.no_grad():
        model(torch.rand(4, 3, 8, 8))
    assert len(norms) == len(inputs) == 8
    for norm, x in inputs.items():
        torch.testing.assert_close(norm.running_mean, 0.03 * x.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(norm.running_var, 0.97 + 0.03 * x.var((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_parameters_and_multiply_adds() -> None:
    counts = {width: sum(p.numel() for p in GhostNet(width_mult=width).parameters()) for width in (0.5, 1.0, 1.3)}
    assert counts == {0.5: 2_588_232, 1.0: 5_183_016, 1.3: 7_352_622}
    macs = sum(row.macs for row in trace(ghost_net(), torch.zeros(1, 3, 224, 224)))
    assert round(macs / 1e6, 2) == 141.15


@pytest.mark.parametrize("variant", ["paper", "release", "v2"])
@pytest.mark.parametrize("width", [0.1, 0.15, 0.35, 0.77, 1.5, 3.0])
def test_any_width_builds_with_channels_divisible_by_4(variant, width: float) -> None:
    model = GhostNet(7, width, variant).eval()
    assert model(torch.rand(2, 3, 40, 64)).shape == (2, 7)
    for module in model.modules():
        if isinstance(module, GhostModule):
            assert module.out_channels % 4 == 0


def test_make_divisible() -> None:
    for value in (0.5, 1.6, 4.8, 5.9, 6.0, 11.9, 16, 90.3):
        rounded = make_divisible(value)
        assert rounded % 4 == 0 and rounded >= max(4, 0.9 * value) and rounded - value <= 4


@pytest.mark.parametrize("name", RELEASED)
def test_released_networks_compute_what_timm_computes(name: str) -> None:
    """The greatest difference of the logits, relative to the greatest logit."""
    theirs = timm.create_model(name, num_classes=20)
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    randomise(theirs)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1  # statistics as of a trained network: those of the images
    with torch.no_grad():
        theirs.train()(images)
    theirs.eval()
    ours = released_net(theirs.state_dict())
    assert ours.width_mult == pytest.approx(RELEASED[name], abs=0.01)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        expected, got = theirs(images), ours(images)
    assert expected.abs().max() > 1e-3
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_weights_of_other_networks_are_refused() -> None:
    other = timm.create_model("mobilenetv3_small_050", num_classes=2).state_dict()
    with pytest.raises(WeightsError, match="expected the tensors of a published GhostNet"):
        released_net(other)
    half = {
        name: tensor
        for name, tensor in timm.create_model("ghostnet_050").state_dict().items()
        if "classifier" not in name
    }
    with pytest.raises(WeightsError, match="expected a whole GhostNet"):
        released_net(half)


# ---- The pieces, by their definitions ------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "k", "d"), [(2, 1, 3), (2, 3, 3), (3, 3, 5), (4, 1, 3)])
@pytest.mark.parametrize(("c", "n", "h"), [(16, 48, 13), (64, 96, 26)])
def test_costs_are_those_of_the_formula(s: int, k: int, d: int, c: int, n: int, h: int) -> None:
    """Eq. 4: n/s h w c k^2 + (s - 1) n/s h w d^2, counted on the modules that run."""
    images = torch.zeros(1, c, h, h)
    module = GhostModule(c, n, k, ratio=s, dw_size=d)
    rows = trace(module, images)
    macs = sum(row.macs for row in rows)
    assert macs == n // s * h * h * c * k * k + (s - 1) * (n // s) * h * h * d * d
    weights = sum(p.numel() for p in module.parameters() if p.ndim == 4)
    assert weights == n // s * c * k * k + (s - 1) * (n // s) * d * d
    plain = sum(row.macs for row in trace(nn.Conv2d(c, n, k, padding=k // 2), images))
    assert plain / macs == pytest.approx(c * k * k * s / (c * k * k + (s - 1) * d * d))
    if d == k:
        assert plain / macs == pytest.approx(s * c / (s + c - 1))


def test_attention_weighs_rows_and_columns() -> None:
    """Every position's weight depends on what lies in its row and column within reach, and the maps are multiplied."""
    torch.manual_seed(0)
    attention = DFCAttention(2, 4).eval()
    x = torch.rand(1, 2, 12, 16)
    half = F.avg_pool2d(x, 2)
    first, row, column = (unit[0].weight for unit in attention)
    expected = F.conv2d(half, first)
    expected = F.conv2d(F.pad(expected, (2, 2, 0, 0)), row, groups=4)
    expected = F.conv2d(F.pad(expected, (0, 0, 2, 2)), column, groups=4)
    expected = torch.sigmoid(expected / (1 + 1e-5) ** 1.5).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(attention(x, (12, 16)), expected, rtol=1e-4, atol=1e-5)
    module = GhostModule(2, 4, version=2).eval()
    plain = GhostModule(2, 4).eval()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("attention")})
    torch.testing.assert_close(module(x), plain(x) * module.attention(x, (12, 16)))


def test_attention_of_a_single_cell() -> None:
    assert GhostModule(4, 8, version=2).eval()(torch.rand(2, 4, 1, 1)).shape == (2, 8, 1, 1)
    assert GhostModule(4, 8, 3, padding=0, version=2).eval()(torch.rand(2, 4, 4, 4)).shape == (2, 8, 2, 2)


def test_gates_are_clamped() -> None:
    layer = SELayer(8)
    nn.init.zeros_(layer.fc[2].weight)
    biases = torch.tensor([-1, -0.1, 0, 0.25, 0.5, 1, 1.5, 9])
    layer.fc[2].bias.data.copy_(biases)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(layer(x), x * torch.tensor([0, 0, 0, 0.25, 0.5, 1, 1, 1])[None, :, None, None])
    assert layer.fc[0].out_features == 2  # reduction 4


def test_a_bottleneck_adds_its_input() -> None:
    block = GhostBottleneck(8, 16, 8).eval()
    for parameter in block.conv[3].parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x), x)
    assert GhostBottleneck(8, 16, 12, 5, 2, 4).eval()(x).shape == (2, 12, 3, 3)


def test_ghosts_past_the_channels_are_cut_off() -> None:
    assert GhostModule(3, 7, ratio=3).eval()(torch.rand(1, 3, 4, 4)).shape == (1, 7, 4, 4)
    with pytest.raises(ValueError, match="ratio=1: expected at least 2"):
        GhostModule(3, 7, ratio=1)
    with pytest.raises(ValueError, match="variant='V2': expected one of paper, release, v2"):
        GhostNet(variant="V2")
    for arguments in ({"width_mult": 0}, {"num_classes": 0}):
        with pytest.raises(ValueError, match="expected numbers above 0"):
            GhostNet(**arguments)
