"""Darknet's sections that change a map's size by itself: pools, upsampling, space to depth.

Semantics follow AlexeyAB/darknet; each docstring names the source function.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import CfgError
from utils.network.cfg import DARKNET_ONLY, Options, option
from utils.network.channels import ChannelBook, Labels
from utils.network.registry import Block, Stride, block, same_labels


@dataclass(frozen=True)
class MaxPoolOptions(Options):
    """[maxpool]: `size` defaults to `stride`, `padding` (both sides together) to size - 1."""

    REFUSED: ClassVar[dict[str, str]] = {
        "maxpool_depth": "pooling over channels is not built",
        "antialiasing": "blurred subsampling is not built",
    }
    INERT: ClassVar[dict[str, str]] = {
        **Options.INERT,
        "out_channels": "Darknet's maxpool_depth, which is not built",
        "maxpool_zero_nonmax": DARKNET_ONLY,
    }
    size: int | None = option(None, minimum=1)
    stride: int = option(1, minimum=1)
    stride_x: int | None = option(None, minimum=1, rare=True)
    stride_y: int | None = option(None, minimum=1, rare=True)
    padding: int | None = option(None, minimum=0, rare=True)

    @property
    def window(self) -> tuple[int, tuple[int, int], int]:
        """(size, (stride_y, stride_x), padding of both sides together), defaults applied."""
        size = self.size or self.stride
        padding = size - 1 if self.padding is None else self.padding
        return size, (self.stride_y or self.stride, self.stride_x or self.stride), padding

    def validate(self) -> None:
        size, _, padding = self.window
        if padding > 2 * size - 2:
            raise CfgError(f"padding={padding}: expected at most {2 * size - 2} for size={size}, more pools nothing")


class MaxPool(Block):
    """Max pool: out = (w + padding - size) / stride + 1 cells, the window starting at -(padding / 2), -inf outside.

    Source: darknet src/maxpool_layer.c. Where PyTorch's own padding cannot be had, edges are repeated: each window that
    reaches outside has the edge inside, too, so the greatest value is the same; -inf would be the end of quantisation.
    """

    def __init__(self, options: MaxPoolOptions, channels: int) -> None:
        super().__init__()
        size, self.step, padding = options.window
        self.out_channels = channels
        before, after = padding // 2, padding - padding // 2
        self.pad: nn.Module | None = None
        if before == after and before <= size // 2:
            self.pool = nn.MaxPool2d(size, self.step, padding=before)
        elif size == 2 and padding == 1 and min(self.step) > 1:  # only an odd size ever needs the extra cell
            self.pool = nn.MaxPool2d(size, self.step, ceil_mode=True)
        else:
            self.pad = nn.ReplicationPad2d((before, after, before, after))  # see the docstring
            self.pool = nn.MaxPool2d(size, self.step)

    label = same_labels

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.pool(inputs[0] if self.pad is None else self.pad(inputs[0]))


@block("maxpool", "max", options=MaxPoolOptions)
def build_maxpool(options: MaxPoolOptions, in_channels: tuple[int, ...]) -> Block:
    return MaxPool(options, in_channels[0])


@dataclass(frozen=True)
class LocalAvgPoolOptions(MaxPoolOptions):
    """[local_avgpool]: the keys of [maxpool]."""


class LocalAvgPool(Block):
    """Average over the cells of the window that lie inside the map; sizes as in [maxpool].

    Source: darknet src/maxpool_layer.c: forward_local_avgpool_layer.
    """

    def __init__(self, options: LocalAvgPoolOptions, channels: int) -> None:
        super().__init__()
        self.size, self.stride, padding = options.window
        self.step = self.stride
        self.out_channels = channels
        self.padding = (padding // 2, padding - padding // 2) * 2

    label = same_labels

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        inside = F.pad(torch.ones_like(x[:1, :1]), self.padding)
        mean = F.avg_pool2d(F.pad(x, self.padding), self.size, self.stride)
        return mean / F.avg_pool2d(inside, self.size, self.stride)


@block("local_avgpool", "local_avg", options=LocalAvgPoolOptions)
def build_local_avgpool(options: LocalAvgPoolOptions, in_channels: tuple[int, ...]) -> Block:
    return LocalAvgPool(options, in_channels[0])


@dataclass(frozen=True)
class AvgPoolOptions(Options):
    """[avgpool]: no keys."""


class AvgPool(Block):
    """Average over the whole map: (B, C, H, W) -> (B, C, 1, 1). Source: darknet src/avgpool_layer.c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.pool = nn.AdaptiveAvgPool2d(1)

    label = same_labels

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.pool(inputs[0])

    def out_stride(self, strides: tuple[Stride, ...]) -> Stride:
        """A single cell."""
        return None


@block("avgpool", "avg", options=AvgPoolOptions)
def build_avgpool(options: AvgPoolOptions, in_channels: tuple[int, ...]) -> Block:
    return AvgPool(in_channels[0])


# ---- Other resolutions -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpsampleOptions(Options):
    """[upsample]: nearest neighbour, times `scale`."""

    stride: int = option(2, minimum=1)
    scale: float = option(1.0, rare=True)


class UpsampleBlock(Block):
    """Nearest-neighbour upsampling: (B, C, H, W) -> (B, C, stride*H, stride*W), times scale.

    Source: darknet src/upsample_layer.c, src/blas.c: upsample_cpu.
    """

    def __init__(self, options: UpsampleOptions, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.step = (Fraction(1, options.stride), Fraction(1, options.stride))
        self.upsample = nn.Upsample(scale_factor=options.stride, mode="nearest")
        self.scale = options.scale

    label = same_labels

    def forward(self, *inputs: Tensor) -> Tensor:
        x = self.upsample(inputs[0])
        return x if self.scale == 1 else x * self.scale


@block("upsample", options=UpsampleOptions)
def build_upsample(options: UpsampleOptions, in_channels: tuple[int, ...]) -> Block:
    return UpsampleBlock(options, in_channels[0])


@dataclass(frozen=True)
class Reorg3dOptions(Options):
    """[reorg3d]."""

    REFUSED: ClassVar[dict[str, str]] = {"reverse": "depth-to-space is not built"}
    stride: int = option(1, minimum=1)


class Reorg3d(Block):
    """Space to depth, block-major: output channel (dy*s + dx)*C + c (not `nn.PixelUnshuffle`'s order).

    Source: darknet src/blas.c: reorg_cpu as src/reorg_layer.c calls it. H and W must be divisible by the stride.
    """

    def __init__(self, options: Reorg3dOptions, channels: int) -> None:
        super().__init__()
        self.out_channels = channels * options.stride**2
        self.step = (options.stride, options.stride)

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of the input, once for each cell of a block."""
        return np.tile(inputs[0], int(self.step[0]) ** 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        x, s = inputs[0], int(self.step[0])
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // s, s, width // s, s)
        return x.permute(0, 3, 5, 1, 2, 4).reshape(batch, s * s * channels, height // s, width // s)


@block("reorg3d", options=Reorg3dOptions)
def build_reorg3d(options: Reorg3dOptions, in_channels: tuple[int, ...]) -> Block:
    return Reorg3d(options, in_channels[0])
