"""Darknet's sections that name the layers they read: route, shortcut, scale_channels, sam.

Semantics follow AlexeyAB/darknet; each docstring names the source.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import CfgError
from utils.network.cfg import Options, inert, option
from utils.network.channels import ChannelBook, Labels
from utils.network.registry import (
    ACTIVATION_NAMES,
    Block,
    Stride,
    activation,
    block,
    expect_channels,
    stack,
    stride_words,
)


@dataclass(frozen=True)
class RouteOptions(Options):
    """[route]: `groups`/`group_id` take the same slice of each listed layer before concatenation."""

    INERT: ClassVar[dict[str, str]] = {
        **Options.INERT,
        **inert("stream wait_stream", "Darknet's GPU handling"),
    }
    layers: tuple[int, ...] = option((), reference="source")
    groups: int = option(1, minimum=1, rare=True)
    group_id: int = option(0, minimum=0, rare=True)

    def validate(self) -> None:
        if not self.layers:
            raise CfgError("expected the key layers")
        if self.group_id >= self.groups:
            raise CfgError(f"group_id={self.group_id}: expected 0 to {self.groups - 1} for groups={self.groups}")


class Route(Block):
    """Concatenation over channels, of one slice of each input. Source: darknet src/route_layer.c."""

    summary_row = False

    def __init__(self, options: RouteOptions, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.groups, self.group_id = options.groups, options.group_id
        for channels in in_channels:
            if channels % self.groups:
                raise CfgError(f"groups={self.groups}: expected a divisor of the input's {channels} channels")
        self.out_channels = sum(in_channels) // self.groups

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of the slices; as many must stay in each slice of an input."""
        if self.groups > 1:
            for labels in inputs:
                book.same_counts(labels, self.groups)
        return np.concatenate([np.split(labels, self.groups)[self.group_id] for labels in inputs])

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.groups > 1:
            inputs = tuple(x.chunk(self.groups, dim=1)[self.group_id] for x in inputs)
        return stack(inputs)


@block("route", options=RouteOptions, reads="listed")
def build_route(options: RouteOptions, in_channels: tuple[int, ...]) -> Block:
    return Route(options, in_channels)


@dataclass(frozen=True)
class ShortcutOptions(Options):
    """[shortcut]: the previous layer plus one or several others, each optionally with learned weights."""

    from_: tuple[int, ...] = option((), reference="source")
    weights_type: str = option("none", choices=("none", "per_feature", "per_layer", "per_channel"), rare=True)
    weights_normalization: str = option("none", choices=("none", "relu", "avg_relu", "softmax"), rare=True)
    activation: str = option("linear", choices=ACTIVATION_NAMES)

    def validate(self) -> None:
        if not self.from_:
            raise CfgError("expected the key from")
        if self.weights_type != "none" and self.weights_normalization == "none":
            raise CfgError(f"weights_type={self.weights_type}: expected weights_normalization=relu or softmax with it")


class Shortcut(Block):
    """Sum of the inputs in the shape of the first: the first min(C) channels of each are added, then the activation.

    Weighted (`weights_type`): each input times a scalar or a scalar per channel, normalised over the inputs:
    relu: max(w, .001) / (sum + 1e-4); softmax: exp(w - max) / (sum + 1e-4).
    Source: darknet src/shortcut_layer.c, src/network.c: fuse_conv_batchnorm, and src/blas_kernels.cu
    (src/blas.c: shortcut_multilayer_cpu has max(w, 0) instead).
    """

    def __init__(self, options: ShortcutOptions, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.out_channels = in_channels[0]
        self.normalization = options.weights_normalization
        self.activation = activation(options.activation)
        self.weights: nn.Parameter | None = None
        if options.weights_type != "none":
            per_channel = in_channels[0] if options.weights_type == "per_channel" else 1
            self.weights = nn.Parameter(torch.ones(len(in_channels), per_channel))

    def _factors(self) -> Tensor:
        """The normalised weights, (inputs, 1 or C)."""
        assert self.weights is not None
        if self.normalization == "softmax":
            positive = (self.weights - self.weights.amax(dim=0, keepdim=True)).exp()
        else:
            positive = self.weights.clamp(min=0.001)
        return positive / (positive.sum(dim=0, keepdim=True) + 1e-4)

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of the first input, tied to the others'."""
        for labels in inputs[1:]:
            book.tie_shortcut(inputs[0], labels)
        if self.weights is not None and self.weights.shape[1] > 1:
            book.tensor(self.weights, inputs[0])
        return inputs[0]

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.weights is not None:
            factors = self._factors().expand(-1, self.out_channels)[..., None, None]  # (inputs, C, 1, 1)
            inputs = tuple(x[:, : self.out_channels] * f[: x.shape[1]] for x, f in zip(inputs, factors, strict=True))
        total = inputs[0]
        for other in inputs[1:]:
            total = _add_first_channels(total, other)
        return total if self.activation is None else self.activation(total)

    def darknet_tensors(self) -> Iterator[Tensor]:
        """The input weights, input-major."""
        if self.weights is not None:
            yield self.weights


def _add_first_channels(x: Tensor, other: Tensor) -> Tensor:
    """X + other over the channels that both have; the rest of x unchanged."""
    common = min(x.shape[1], other.shape[1])
    if x.shape[1] == common:
        return x + other[:, :common]
    return torch.cat((x[:, :common] + other, x[:, common:]), dim=1)


@block("shortcut", options=ShortcutOptions, reads="both")
def build_shortcut(options: ShortcutOptions, in_channels: tuple[int, ...]) -> Block:
    return Shortcut(options, in_channels)


@dataclass(frozen=True)
class ScaleChannelsOptions(Options):
    """[scale_channels]: the layer `from`, scaled by the previous layer."""

    from_: int | None = option(None, reference="source")
    scale_wh: bool = option(False, rare=True)
    activation: str = option("linear", choices=ACTIVATION_NAMES)

    def validate(self) -> None:
        if self.from_ is None:
            raise CfgError("expected the key from")


class ScaleChannels(Block):
    """`from` (B, C, H, W) times the previous layer, (B, C, 1, 1) or with scale_wh (B, 1, H, W); then the activation.

    Source: darknet src/scale_channels_layer.c.
    """

    def __init__(self, options: ScaleChannelsOptions, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        scale, target = in_channels
        expect_channels(
            "scale_channels with scale_wh" if options.scale_wh else "scale_channels",
            scale,
            1 if options.scale_wh else target,
        )
        self.scale_wh = options.scale_wh
        self.out_channels = target
        self.activation = activation(options.activation)

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of `from`, tied to the scale's; a scale of one channel stays."""
        scale, target = inputs
        if self.scale_wh:
            book.keep([scale], "a map of weights")
        else:
            book.tie(scale, target)
        return target

    def forward(self, *inputs: Tensor) -> Tensor:
        scale, target = inputs
        y = target * scale
        return y if self.activation is None else self.activation(y)

    def out_stride(self, strides: tuple[Stride, ...]) -> Stride:
        """That of `from`; the scale must be a single cell, or with scale_wh of the same size."""
        scale, target = strides
        if scale != (target if self.scale_wh else None):
            wanted = "the size of `from`" if self.scale_wh else "a single cell ([avgpool] before it)"
            raise CfgError(f"the previous layer: expected {wanted}, got {stride_words(scale)}")
        return target


@block("scale_channels", options=ScaleChannelsOptions, reads="both")
def build_scale_channels(options: ScaleChannelsOptions, in_channels: tuple[int, ...]) -> Block:
    return ScaleChannels(options, in_channels)


@dataclass(frozen=True)
class SamOptions(Options):
    """[sam]: the previous layer times the layer `from`."""

    from_: int | None = option(None, reference="source")
    activation: str = option("linear", choices=ACTIVATION_NAMES)

    def validate(self) -> None:
        if self.from_ is None:
            raise CfgError("expected the key from")


class Sam(Block):
    """Elementwise product of the previous layer and `from`, then the activation. Source: darknet src/sam_layer.c."""

    def __init__(self, options: SamOptions, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        expect_channels("the layer `from`", in_channels[1], in_channels[0])
        self.out_channels = in_channels[0]
        self.activation = activation(options.activation)

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of both inputs, which are tied."""
        book.tie(inputs[0], inputs[1])
        return inputs[0]

    def forward(self, *inputs: Tensor) -> Tensor:
        y = inputs[0] * inputs[1]
        return y if self.activation is None else self.activation(y)


@block("sam", options=SamOptions, reads="both")
def build_sam(options: SamOptions, in_channels: tuple[int, ...]) -> Block:
    return Sam(options, in_channels)
