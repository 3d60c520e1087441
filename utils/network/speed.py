"""How long ghost blocks and plain convolutions take in inference, and what they cost on paper."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from utils.clock import duration
from utils.log import progress, warn
from utils.network.fuse import fuse
from utils.network.summary import trace

SAMPLE = 0.02  # seconds that a timed run of calls takes at least: many times the clock's grain
BUSY = 1.3  # medians so many times the best sample are no longer what the machine can do
K = TypeVar("K")
Builder = Callable[[], nn.Module]
Shape = tuple[int, int, int, int]
"""(B, C, H, W) of a block's input."""


@dataclass(frozen=True)
class Cost:
    """A block's parameters as they are trained, and its FLOPs for one image: 2 per multiply-add of a convolution."""

    parameters: int
    flops: int


def cost(build: Builder, shape: Shape) -> Cost:
    """Count what `build` makes, on inputs of that shape; nothing is computed, and no memory taken for it."""
    with torch.device("meta"):
        rows = trace(build(), torch.empty(shape))
    return Cost(sum(row.parameters for row in rows), 2 * sum(row.macs for row in rows))


@dataclass(frozen=True)
class Rivals:
    """What builds a convolution of kernel x kernel, `channels` in and out, and what builds a ghost block in its place.

    Both get one map of size x size pixels.
    """

    kernel: int
    channels: int
    size: int
    plain: Builder
    ghost: Builder

    @property
    def shape(self) -> Shape:
        """Of the input of both."""
        return 1, self.channels, self.size, self.size

    @cached_property
    def costs(self) -> tuple[Cost, Cost]:
        """Of the convolution and of the ghost block."""
        return cost(self.plain, self.shape), cost(self.ghost, self.shape)


@dataclass(frozen=True)
class Times:
    """Median milliseconds of one pass."""

    plain: float
    ghost: float

    @property
    def ratio(self) -> float:
        """Ghost / plain: below 1 the ghost block is faster."""
        return self.ghost / self.plain


@dataclass(frozen=True)
class Measured:
    """Rivals that have been timed; `milliseconds` goes by the numbers computed with, "float32" or "bfloat16"."""

    kernel: int
    channels: int
    size: int
    plain: Cost
    ghost: Cost
    milliseconds: dict[str, Times]


def time_rivals(
    rivals: Sequence[Rivals], dtypes: Sequence[torch.dtype], device: torch.device, rounds: int
) -> list[Measured]:
    """Time all of them in each type of numbers."""
    passes = {}
    for pair in rivals:
        for dtype in dtypes:
            for build in (pair.plain, pair.ghost):
                passes[build, pair, dtype] = inference_pass(build(), pair.shape, device, dtype)
    took = time_in_turns(passes, device, rounds)
    rows = []
    for pair in rivals:
        times = [Times(took[pair.plain, pair, dtype], took[pair.ghost, pair, dtype]) for dtype in dtypes]
        names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
        rows.append(Measured(pair.kernel, pair.channels, pair.size, *pair.costs, dict(zip(names, times, strict=True))))
    return rows


def inference_pass(block: nn.Module, shape: Shape, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    """One pass of noise through a block as detection runs it: in eval mode, normalisation folded in, channels last."""
    block = fuse(block.eval()).to(device, dtype).to(memory_format=torch.channels_last)
    maps = torch.randn(shape).to(device, dtype, memory_format=torch.channels_last)
    return lambda: block(maps)


def time_in_turns(
    works: Mapping[K, Callable[[], Any]], device: torch.device, rounds: int, told: bool = True
) -> dict[K, float]:
    """Milliseconds of one call of each, medians over rounds.

    All take turns in each round, so that what else the machine does for a while is in some samples of each and not in
    all samples of some. A first round, not counted, warms up. `told`: behind a bar, with a warning when
    the machine was busy most of the time.
    """
    clocks = {key: _Clock(work, device) for key, work in works.items()}
    with torch.inference_mode():
        turns = range(1 + rounds)
        for _ in progress(turns, "timing", unit="round") if told else turns:
            for clock in clocks.values():
                clock.sample()
    medians = {key: statistics.median(clock.seconds[1:]) * 1000 for key, clock in clocks.items()}
    excess = statistics.median(medians[key] / min(clock.seconds) / 1000 for key, clock in clocks.items())
    if told and excess > BUSY:
        warn(f"warning: the machine was busy: the medians are about {excess:.1f} times the best; time it again")
    return medians


class _Clock:
    """A piece of work, how many calls of it fill a sample, and the seconds of a call in each sample so far."""

    def __init__(self, work: Callable[[], Any], device: torch.device) -> None:
        self.work, self.device = work, device
        self.calls = 1
        self.seconds: list[float] = []

    def sample(self) -> None:
        """Time as many calls as it takes."""
        self.work()  # puts into the caches what the work before has driven out
        while (taken := duration(self.work, self.calls, self.device)) < SAMPLE:
            self.calls *= 2
        self.seconds.append(taken / self.calls)
