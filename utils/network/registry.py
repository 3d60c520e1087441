"""The register of block kinds: what a section may say, how it is built, what it reads.

A new kind is one options dataclass and one builder, in one file:

    @block("ghost", options=GhostOptions)
    def build_ghost(options: GhostOptions, in_channels: tuple[int, ...]) -> Block: ...
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import CfgError
from utils.network.cfg import Options
from utils.network.chains import chain_labels
from utils.network.channels import ChannelBook, Labels

Stride = tuple[Fraction, Fraction] | None
"""Input pixels per output cell, (y, x); None when a map has been pooled to one cell."""

BN_EPS = 1e-5  # darknet: sqrt(variance + .00001)
BN_MOMENTUM = 0.03  # the share of a new batch in the running statistics, as in the cfg-based PyTorch lineage


@dataclass(frozen=True)
class ConvUnit:
    """A convolution (or linear layer) with its batch normalisation: what Darknet's weight stream is made of."""

    conv: nn.Conv2d | nn.Linear
    bn: nn.BatchNorm2d | None

    @property
    def bias(self) -> Tensor:
        """What is added to each output: the normalisation's beta, or the convolution's own bias."""
        bias = self.conv.bias if self.bn is None else self.bn.bias
        assert bias is not None
        return bias

    def tensors(self) -> Iterator[Tensor]:
        """In Darknet's order: beta, gamma, mean, variance (or the bias), then the weights."""
        if self.bn is not None:
            yield from bn_tensors(self.bn)
        else:
            assert self.conv.bias is not None
            yield self.conv.bias
        yield self.conv.weight


def bn_tensors(bn: nn.BatchNorm2d) -> Iterator[Tensor]:
    """Beta, gamma, running mean, running variance (darknet src/parser.c: save_convolutional_weights)."""
    assert bn.running_mean is not None and bn.running_var is not None
    yield from (bn.bias, bn.weight, bn.running_mean, bn.running_var)


class Block(nn.Module):
    """One section as a module: feature maps (B, C, H, W) in, one feature map out."""

    out_channels: int
    step: tuple[int | Fraction, int | Fraction] = (1, 1)  # output stride per input stride, (y, x)
    summary_row = True  # whether a block without child modules shows in the summary

    def forward(self, *inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def units(self) -> Iterator[ConvUnit]:
        """The conv units in serialisation order: as they stand in the block."""
        return conv_units(self)

    def darknet_tensors(self) -> Iterator[Tensor]:
        """The block's tensors in the order of Darknet's weight stream."""
        for unit in self.units():
            yield from unit.tensors()

    def output_bias(self) -> list[Tensor]:
        """What the last layer adds to the output's channels, in their order: views of parameters, `out_channels` values
        in all; empty for a block that ends with none, such as a route.
        """
        return []

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """The labels of the output's channels, from the inputs'.

        By default those of a chain of convolutions, see `chain_labels`; where a block is none, its channels and those
        that it reads stay.
        """

        def build(options: Options, channels: int) -> Block:
            options.validate()
            return KINDS[book.kind].build(options, (channels,))

        outputs = chain_labels(self, book, inputs[0], book.options, build) if len(inputs) == 1 else None
        if outputs is None:
            outputs = book.fresh(self.out_channels)
            book.keep([*inputs, outputs], "cannot be pruned")
        return outputs

    def out_stride(self, strides: tuple[Stride, ...]) -> Stride:
        """The output's stride from those of the inputs; CfgError when the inputs' sizes cannot agree."""
        if len(set(strides)) > 1:
            raise CfgError(f"its inputs have different sizes: {', '.join(map(stride_words, strides))}")
        if strides[0] is None:
            return None
        return strides[0][0] * self.step[0], strides[0][1] * self.step[1]


def conv_units(module: nn.Module) -> Iterator[ConvUnit]:
    """Each convolution or linear layer within a module, with the batch normalisation that stands behind it."""
    children = list(module.children())
    for child, following in zip_longest(children, children[1:]):
        if isinstance(child, nn.Conv2d | nn.Linear):
            yield ConvUnit(child, following if isinstance(following, nn.BatchNorm2d) else None)
        else:
            yield from conv_units(child)


def same_labels(block: Block, book: ChannelBook, *inputs: Labels) -> Labels:
    """The `label` of blocks that work on each channel by itself."""
    return inputs[0]


def stride_words(stride: Stride) -> str:
    """`stride 16`, `stride 16x32 (y, x)` or `a single cell`."""
    if stride is None:
        return "a single cell"
    return f"stride {stride[0]}" if stride[0] == stride[1] else f"stride {stride[0]}x{stride[1]} (y, x)"


INPUT = -1  # in an expansion: what the block reads


@dataclass(frozen=True)
class Part:
    """One section of an expansion; its references count the parts before it from 0, or are INPUT."""

    kind: str
    options: Options


Expansion = Callable[[Any, tuple[int, ...]], list[Part]]
"""A block's options and the channels that it reads -> its parts; CfgError where Darknet has no such sections."""


@dataclass(frozen=True)
class BlockKind:
    """A registered section kind."""

    name: str
    options: type[Options]
    build: Callable[[Any, tuple[int, ...]], Block]
    reads: str  # "previous", "listed" (only the layers it names) or "both" (the previous layer, then those it names)
    expand: Expansion | None  # the same network in Darknet's own sections


KINDS: dict[str, BlockKind] = {}
"""Section name (aliases too) -> kind."""


def block(
    *names: str, options: type[Options], reads: str = "previous", expand: Expansion | None = None
) -> Callable[[Callable[[Any, tuple[int, ...]], Block]], Callable[[Any, tuple[int, ...]], Block]]:
    """Register a builder under its name and aliases; the first name is the one that is written."""

    def register(build: Callable[[Any, tuple[int, ...]], Block]) -> Callable[[Any, tuple[int, ...]], Block]:
        kind = BlockKind(names[0], options, build, reads, expand)
        for name in names:
            assert name not in KINDS, f"block kind {name!r} is registered twice"
            KINDS[name] = kind
        return build

    return register


# ---- The pieces that conv-like blocks share ------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[], nn.Module] | None] = {
    "linear": None,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "logistic": nn.Sigmoid,
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
}
ACTIVATION_NAMES = tuple(ACTIVATIONS)


def activation(name: str, inplace: bool = False) -> nn.Module | None:
    """The activation module of that name, or None for "linear". `inplace` where nobody else reads the input."""
    maker = ACTIVATIONS[name]
    if maker is None:
        return None
    module = maker()
    if inplace and hasattr(module, "inplace"):
        module.inplace = True  # type: ignore[assignment]
    return module


class Float32Sigmoid(nn.Sigmoid):
    """The logistic function, of half-precision numbers in float32: bfloat16 has no number between 0.996 and 1."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float() if torch.finfo(input.dtype).bits < 32 else input)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with Darknet's epsilon."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def conv_unit(conv: nn.Conv2d, normalize: bool, activate: str) -> nn.Sequential:
    """Convolution, batch normalisation (if `normalize`), activation, as an `nn.Sequential` of what is there."""
    assert (conv.bias is None) == normalize
    parts: list[nn.Module] = [conv]
    if normalize:
        parts.append(batch_norm(conv.out_channels))
    act = activation(activate, inplace=True)
    return nn.Sequential(*parts, *([act] if act is not None else []))


def expect_channels(what: str, got: int, wanted: int) -> None:
    """Raise CfgError unless the channel counts agree."""
    if got != wanted:
        raise CfgError(f"{what}: expected {wanted} channels, got {got}")


def stack(maps: tuple[Tensor, ...]) -> Tensor:
    """Concatenate feature maps over channels; a single one passes unchanged."""
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
