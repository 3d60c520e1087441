"""Blocks written as CONTRIBUTING says, with and without a `label` of their own: costs, pruning, and the proof."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.flop_counter import FlopCounterMode

from models import Darknet
from tests.conftest import randomise
from tests.pruning.test_apply import assert_same_as_masked, cut
from utils.network.cfg import Options, option
from utils.network.chains import chain_of
from utils.network.channels import ChannelBook, Labels
from utils.network.graph import parse_graph
from utils.network.registry import KINDS, Block, batch_norm, block, conv_unit
from utils.pruning.cost import Costs
from utils.pruning.groups import ChannelGroups

CONV = "[convolutional]\nfilters=16\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n"
HEAD = "[convolutional]\nfilters=16\n[yolo]\nanchors=4,4,8,8\nnum=2\nclasses=3\n"


def unit(channels: int, filters: int, size: int, stride: int = 1, act: str = "leaky", groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, filters, size, stride, size // 2, groups=groups, bias=False)
    return conv_unit(conv, True, act)


@dataclass(frozen=True)
class NewOptions(Options):
    """Of all blocks here."""

    filters: int = option(16, minimum=1)
    hidden: int = option(24, minimum=1)


class NewBlock(Block):
    """What each block here begins with."""

    def __init__(self, options: NewOptions, channels: int) -> None:
        super().__init__()
        self.out_channels = options.filters
        self.make(channels, options.hidden, options.filters)

    def make(self, channels: int, hidden: int, filters: int) -> None:
        raise NotImplementedError


class Chain(NewBlock):
    """Inverted bottleneck: wide, depthwise, narrow; then a convolution of as many outputs as inputs, with a bias.

    Sigmoids, which are not 0 at 0, show whether removed channels are.
    """

    def make(self, channels: int, hidden: int, filters: int) -> None:
        self.wide, self.deep = unit(channels, hidden, 1, act="logistic"), unit(hidden, hidden, 3, groups=hidden)
        self.narrow = nn.Sequential(unit(hidden, filters, 1), nn.Conv2d(filters, filters, 1), nn.Sigmoid())

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.narrow(self.deep(self.wide(inputs[0])))


class Straight(Chain):
    """Without the last convolution."""

    def make(self, channels: int, hidden: int, filters: int) -> None:
        super().make(channels, hidden, filters)
        self.narrow = unit(hidden, filters, 1, act="logistic")


class Separable(Chain):
    """Normalisation first, then depthwise on the input, then pointwise."""

    def make(self, channels: int, hidden: int, filters: int) -> None:
        self.wide = nn.Sequential(batch_norm(channels), nn.Sigmoid())
        self.deep = unit(channels, channels, 3, groups=channels, act="logistic")
        self.narrow = unit(channels, filters, 1)


class Halved(Chain):
    """Its inner width hangs on the number of inputs, its output's on a rounding of `filters`."""

    def make(self, channels: int, hidden: int, filters: int) -> None:
        self.out_channels = max(8, filters)
        self.wide, self.deep = unit(channels, channels // 2, 1), unit(channels // 2, hidden, 3)
        self.narrow = unit(hidden, self.out_channels, 1)


class Rep(NewBlock):
    """RepVGG: a 3x3 and a 1x1 convolution, added (Ding et al., CVPR 2021)."""

    def make(self, channels: int, hidden: int, filters: int) -> None:
        self.square, self.point = unit(channels, filters, 3, act="linear"), unit(channels, filters, 1, act="linear")

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.relu(self.square(inputs[0]) + self.point(inputs[0]))


class LabelledRep(Rep):
    """As in CONTRIBUTING."""

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        square, point = (book.conv(unit.conv, unit.bn, inputs[0]) for unit in self.units())
        book.tie(square, point)
        book.count(filters=square)
        return square


class Residual(Chain):
    """A chain whose input is added in place: its modules and numbers of channels are a chain's."""

    def make(self, channels: int, hidden: int, filters: int) -> None:
        self.out_channels = channels
        self.wide, self.narrow = unit(channels, hidden, 1), unit(hidden, channels, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.narrow(self.wide(inputs[0]))
        y += inputs[0]
        return y


class Twice(Chain):
    """One convolution, used twice."""

    def make(self, channels: int, hidden: int, filters: int) -> None:
        self.wide, self.deep, self.narrow = unit(channels, hidden, 1), unit(hidden, hidden, 3), unit(hidden, filters, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.narrow(self.deep(self.deep(self.wide(inputs[0]))))


BLOCKS: tuple[type[NewBlock], ...] = (Chain, Straight, Separable, Halved, Rep, LabelledRep, Residual, Twice)
CHAINS = {Chain, Straight, Separable, Halved}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The blocks of this file are kinds while a test runs."""
    known = dict(KINDS)
    for each in BLOCKS:
        block(each.__name__.lower(), options=NewOptions)(
            lambda options, channels, each=each: each(options, channels[0])
        )
    yield
    KINDS.clear()
    KINDS.update(known)


def network(kind: type[NewBlock]) -> Darknet:
    """Two such blocks between convolutions."""
    section = f"[{kind.__name__.lower()}]\n"
    model = Darknet(parse_graph(f"[net]\nwidth=32\nheight=32\n{CONV}{section}{CONV}{section}{HEAD}")).eval()
    randomise(model)
    return model


def all_kinds(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)(test)


@all_kinds
def test_chains_are_told_from_what_only_looks_like_one(kind: type[NewBlock]) -> None:
    modules = chain_of(network(kind).blocks[1])
    assert (modules is not None) == (kind in CHAINS)
    if kind is Straight:
        assert modules is not None
        names = ["Conv2d", "BatchNorm2d", "Sigmoid", "Conv2d", "BatchNorm2d", "LeakyReLU", "Conv2d", "BatchNorm2d"]
        assert [type(module).__name__ for module in modules] == [*names, "Sigmoid"]


@pytest.mark.parametrize(
    ("way", "chain"),
    [
        (lambda parts, x: parts[1](parts[0](x)), True),
        (lambda parts, x: (parts[0](x), parts[1](x))[1], False),  # the first is not read
        (lambda parts, x: (parts[1](parts[0](x)),), False),
        (lambda parts, x: torch.relu(parts[0](x)), False),
        (lambda parts, x: parts[0](x[:, 0]), False),
        (lambda parts, x: parts[0](torch.sum(x, 0)), False),
        (lambda parts, x: parts[0](x) if x.sum() > 0 else parts[1](x), False),
        (lambda parts, x: parts[0](x).add_(1), False),
        (lambda parts, x: x, False),
    ],
)
def test_a_chain_is_modules_alone(way: Callable[..., Tensor], chain: bool) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.ReLU(), nn.Tanh()])

        def forward(self, x: Tensor) -> Tensor:
            return way(self.parts, x)

    assert (chain_of(Small()) is not None) == chain


@all_kinds
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_costs_are_those_of_the_network_that_is_built(kind: type[NewBlock], share: float) -> None:
    """FLOPs are counted by PyTorch, operation by operation."""
    model = network(kind)
    _, labels, compact = cut(model, share)
    groups = ChannelGroups.of(model)
    keep = np.zeros(groups.count, bool)
    keep[groups.of_label[labels]] = True
    costs = Costs(model, groups, (32, 32))
    assert costs.parameters(keep) == len(parameters_to_vector(compact.parameters()))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compact.raw(torch.zeros(1, 3, 32, 32))
    assert costs.gflops(keep) * 1e9 == pytest.approx(counter.get_total_flops(), rel=1e-12)


@all_kinds
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_pruned_it_computes_what_the_masked_one_does(kind: type[NewBlock], share: float) -> None:
    model = network(kind)
    compact = assert_same_as_masked(model, share)
    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (model, compact)]
    assert sizes[0] > sizes[1] or kind in {Rep, Residual, Twice}, sizes


@pytest.mark.parametrize(
    ("kind", "free"),
    [
        (Chain, (True, True, True)),
        (Straight, (True, True, True)),
        (Separable, (True, None, True)),
        (Halved, (False, True, False)),
        (Rep, (False, None, False)),
        (LabelledRep, (True, None, True)),
        (Residual, (False, None, False)),
        (Twice, (False, None, False)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_may_go(kind: type[NewBlock], free: tuple[bool | None, ...]) -> None:
    """Inputs, `hidden`, and outputs of a block."""
    groups = ChannelGroups.of(network(kind))
    counts = groups.book.counts.get(1, {})
    found = [~groups.fixed[groups.of_label[labels]] for labels in (groups.book.maps[0], groups.book.maps[1])]
    hidden = counts.get("hidden")
    assert (found[0].all(), found[1].all()) == (free[0], free[2]) and found[0].any() == free[0]
    assert (hidden is not None) == bool(free[1])
    assert hidden is None or not groups.fixed[groups.of_label[hidden]].any()


def test_labelling_draws_no_random_numbers() -> None:
    """Smaller blocks are built to see whether they fit; a training's random numbers stay the same."""
    model = network(Straight)
    before = torch.get_rng_state()
    ChannelGroups.of(model)
    assert torch.equal(before, torch.get_rng_state())
