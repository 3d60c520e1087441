"""Ghost modules (Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020).

A convolution makes many feature maps that resemble each other. A ghost module computes only a part of them, the
primary maps Y' = f' * X (Eq. 2), and derives the others, the ghosts, by a cheap depthwise convolution of each primary
map, y_ij = Phi_ij(y'_i) (Eq. 3). With n output maps and ratio s, n/s are primary and (s-1)*n/s cheap.

A convolution of size k on c input channels costs n*h*w*c*k^2 multiply-adds; the module with cheap kernels of size d
costs (n/s)*h*w*c*k^2 + (s-1)*(n/s)*h*w*d^2, about s times fewer (Eq. 4).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from utils.errors import CfgError
from utils.network.blocks import ConvolutionalOptions
from utils.network.cfg import Options, option
from utils.network.joins import RouteOptions
from utils.network.registry import ACTIVATION_NAMES, ACTIVATIONS, BN_MOMENTUM, Block, Part, block


class GhostModule(nn.Module):
    """(B, in_channels, H, W) -> (B, out_channels, H', W'): primary maps first, then their ghosts.

    `ratio` is s of the paper, `dw_size` d; `activation` is a constructor such as nn.ReLU, or None for neither.
    There are ceil(out_channels / ratio) primary maps; ghosts past out_channels are cut off.
    `padding` is kernel_size // 2 unless given.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        ratio: int = 2,
        dw_size: int = 3,
        stride: int = 1,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        batch_normalize: bool = True,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        if ratio < 2:
            raise ValueError(f"ratio={ratio}: expected at least 2, since 1 leaves no ghosts")
        primary = math.ceil(out_channels / ratio)
        cheap = primary * (ratio - 1)
        self.out_channels = out_channels
        padding = kernel_size // 2 if padding is None else padding
        self.primary_conv = _unit(
            nn.Conv2d(in_channels, primary, kernel_size, stride, padding, bias=not batch_normalize), activation
        )
        self.cheap_operation = _unit(
            nn.Conv2d(primary, cheap, dw_size, 1, dw_size // 2, groups=primary, bias=not batch_normalize), activation
        )

    def forward(self, x: Tensor) -> Tensor:
        """Primary maps and ghosts, concatenated."""
        primary = self.primary_conv(x)
        ghosts = self.cheap_operation(primary)
        return torch.cat((primary, ghosts), dim=1)[:, : self.out_channels]


def _unit(conv: nn.Conv2d, activation: Callable[[], nn.Module] | None) -> nn.Sequential:
    """Convolution, batch normalisation where it has no bias, activation (an empty Sequential where there is none)."""
    act = nn.Sequential() if activation is None else activation()
    if isinstance(getattr(act, "inplace", None), bool):
        act.inplace = True  # type: ignore[assignment]
    norm = [nn.BatchNorm2d(conv.out_channels)] if conv.bias is None else []
    return nn.Sequential(conv, *norm, act)


@dataclass(frozen=True)
class GhostOptions(Options):
    """[ghost]: filters/ratio maps from a convolution, and the rest of `filters` depthwise from these."""

    filters: int = option(2, minimum=1)
    size: int = option(1, minimum=1)
    stride: int = option(1, minimum=1)
    pad: bool = option(False)
    ratio: int = option(2, minimum=2)
    cheap_size: int = option(3, minimum=1)
    batch_normalize: bool = option(False)
    activation: str = option("logistic", choices=ACTIVATION_NAMES)

    def validate(self) -> None:
        """`filters` is a multiple of `ratio`, and the cheap kernels are odd, so that the map keeps its size."""
        if self.filters % self.ratio:
            raise CfgError(f"filters={self.filters}: expected a multiple of ratio={self.ratio}")
        if self.cheap_size % 2 == 0:
            raise CfgError(f"cheap_size={self.cheap_size}: expected an odd size")


class GhostBlock(Block):
    """A [ghost] section: a ghost module with the section's activation in both halves."""

    def __init__(self, options: GhostOptions, in_channels: int) -> None:
        super().__init__()
        self.ghost = GhostModule(
            in_channels,
            options.filters,
            options.size,
            options.ratio,
            options.cheap_size,
            options.stride,
            ACTIVATIONS[options.activation],
            options.batch_normalize,
            padding=options.size // 2 if options.pad else 0,
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BN_MOMENTUM
        self.out_channels = options.filters
        self.step = (options.stride, options.stride)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Primary maps, then ghosts."""
        return self.ghost(inputs[0])


def expand_ghost(options: GhostOptions) -> list[Part]:
    """The same block in Darknet's sections: convolution, grouped convolution, route; the weight stream is the same."""
    primary = options.filters // options.ratio
    conv = ConvolutionalOptions(
        filters=primary,
        size=options.size,
        stride=options.stride,
        pad=options.pad,
        batch_normalize=options.batch_normalize,
        activation=options.activation,
    )
    cheap = replace(
        conv, filters=options.filters - primary, size=options.cheap_size, stride=1, pad=True, groups=primary
    )
    return [
        Part("convolutional", conv),
        Part("convolutional", cheap),
        Part("route", RouteOptions(layers=(0, 1))),
    ]


@block("ghost", "GhostConv", options=GhostOptions, expand=expand_ghost)
def build_ghost(options: GhostOptions, in_channels: tuple[int, ...]) -> Block:
    """A ghost module as one block."""
    return GhostBlock(options, in_channels[0])
