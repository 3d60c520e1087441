"""GhostNet and what it is made of (Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020).

A convolution makes many feature maps that resemble each other. A ghost module computes only a part of them, the
primary maps Y' = f' * X (Eq. 2), and derives the others, the ghosts, by a cheap depthwise convolution of each primary
map, y_ij = Phi_ij(y'_i) (Eq. 3). For n output maps of h x w cells from c input maps, kernels of k x k, cheap kernels of
d x d and ratio s, n/s maps are primary and (s - 1) n/s are ghosts. In multiply-adds (Eq. 4), where d is about k:

    convolution    n h w c k^2
    ghost module   n/s h w c k^2 + (s - 1) n/s h w d^2
    saving         c k^2 s / (c k^2 + (s - 1) d^2), about s c / (s + c - 1), about s

The parameters, without batch normalisation, are the same terms without h w. Shapes below are (B, channels, H, W).
The second version (Tang et al., "GhostNetV2: Enhance Cheap Operation with Long-Range Attention", NeurIPS 2022) lets
each position look along its row and its column, by decoupled fully connected attention (DFC).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import WeightsError
from utils.network.channels import ChannelBook, Labels
from utils.network.ghosts import (
    LEAST_WIDTH,
    MOST_WIDTH,
    GhostBottleneckOptions,
    GhostOptions,
    SEOptions,
    Variant,
    expand_bottleneck,
    expand_ghost,
    refuse_se,
)
from utils.network.registry import ACTIVATIONS, BN_MOMENTUM, Block, block, conv_units
from utils.network.released import from_released
from utils.network.weights import load_tensors

Activation = Callable[[], nn.Module] | None

# ---- The ghost module ----------------------------------------------------------------------------------------------


class GhostModule(nn.Module):
    """(B, in_channels, H, W) -> (B, out_channels, H', W'): primary maps first, then their ghosts.

    `ratio` is s of the paper, `kernel_size` k, `dw_size` d; `activation` is a constructor such as nn.ReLU, or None.
    There are ceil(out_channels / ratio) primary maps; ghosts past out_channels are cut off.
    `padding` is kernel_size // 2 unless given; `version` 2 multiplies the maps by their DFC attention.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        ratio: int = 2,
        dw_size: int = 3,
        stride: int = 1,
        activation: Activation = nn.ReLU,
        batch_normalize: bool = True,
        padding: int | None = None,
        version: int = 1,
    ) -> None:
        super().__init__()
        if ratio < 2:
            raise ValueError(f"ratio={ratio}: expected at least 2, since 1 leaves no ghosts")
        primary = math.ceil(out_channels / ratio)
        cheap = primary * (ratio - 1)
        self.out_channels = out_channels
        padding = kernel_size // 2 if padding is None else padding
        bias = not batch_normalize
        self.primary_conv = _unit(nn.Conv2d(in_channels, primary, kernel_size, stride, padding, bias=bias), activation)
        self.cheap_operation = _unit(
            nn.Conv2d(primary, cheap, dw_size, 1, dw_size // 2, groups=primary, bias=bias), activation
        )
        if version == 2:
            self.attention = DFCAttention(in_channels, out_channels, kernel_size, stride, batch_normalize)

    def forward(self, x: Tensor) -> Tensor:
        """Primary maps and ghosts, concatenated."""
        primary = self.primary_conv(x)
        ghosts = self.cheap_operation(primary)
        maps = torch.cat((primary, ghosts), dim=1)[:, : self.out_channels]
        return maps * self.attention(x, maps.shape[2:]) if hasattr(self, "attention") else maps

    def output_bias(self) -> list[Tensor]:
        """See `Block.output_bias`: of the primary maps, then of their ghosts."""
        primary, cheap = (next(conv_units(part)).bias for part in (self.primary_conv, self.cheap_operation))
        return [primary, cheap[: self.out_channels - len(primary)]]

    def label(self, book: ChannelBook, inputs: Labels) -> Labels:
        """Fresh labels for the primary maps, and the same again for their ghosts."""
        primary = _label(book, self.primary_conv, inputs)
        labels = np.concatenate((primary, _label(book, self.cheap_operation, primary)))[: self.out_channels]
        if hasattr(self, "attention"):
            for unit in self.attention.children():
                assert isinstance(unit, nn.Sequential)
                inputs = _label(book, unit, inputs, gate=True)
            book.tie(inputs, labels)
        return labels


class DFCAttention(nn.Sequential):
    """Weights 0..1 for a ghost module's maps, (B, out_channels, H', W'), from its input (GhostNetV2, Eq. 4 and 5).

    At half the resolution, where it costs a quarter: a convolution like the module's, then a depthwise one along each
    row (1 x 5) and one along each column (5 x 1).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, batch_normalize: bool = True
    ) -> None:
        bias = not batch_normalize
        super().__init__(
            _unit(nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)),
            _unit(nn.Conv2d(out_channels, out_channels, (1, 5), 1, (0, 2), groups=out_channels, bias=bias)),
            _unit(nn.Conv2d(out_channels, out_channels, (5, 1), 1, (2, 0), groups=out_channels, bias=bias)),
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """The weights at `size`, (H', W')."""
        half = F.avg_pool2d(x, 2) if min(x.shape[2:]) > 1 else x
        return F.interpolate(torch.sigmoid(super().forward(half)), size=size, mode="nearest")


def _label(book: ChannelBook, unit: nn.Sequential, inputs: Labels, gate: bool = False) -> Labels:
    """The labels of a `_unit`'s outputs."""
    conv, bn = unit[0], unit[1]
    assert isinstance(conv, nn.Conv2d)
    return book.conv(conv, bn if isinstance(bn, nn.BatchNorm2d) else None, inputs, unit, gate)


def _unit(conv: nn.Conv2d, activation: Activation = None) -> nn.Sequential:
    """Convolution, batch normalisation where it has no bias, activation (an empty Sequential where there is none)."""
    norm = [nn.BatchNorm2d(conv.out_channels)] if conv.bias is None else []
    act = nn.Sequential() if activation is None else activation()
    if isinstance(getattr(act, "inplace", None), bool):
        act.inplace = True  # type: ignore[assignment]
    return nn.Sequential(conv, *norm, act)


# ---- The bottleneck ------------------------------------------------------------------------------------------------


class SELayer(nn.Module):
    """Squeeze and excitation: (B, C, H, W) times a gate for each map, clamp(W2 relu(W1 mean(x) + b1) + b2, 0, 1).

    `squeezed` maps lie between W1 and W2, by default channel // reduction. Gates start about a half, where they learn
    (b2 = .5): shut ones would not.
    """

    def __init__(self, channel: int, reduction: int = 4, squeezed: int | None = None) -> None:
        super().__init__()
        squeezed = max(1, channel // reduction) if squeezed is None else squeezed
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(channel, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channel))
        nn.init.constant_(self.fc[2].bias, 0.5)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The maps, each weighed."""
        gates = self.fc(self.avg_pool(x).flatten(1)).clamp(0, 1)  # (B, C)
        return x * gates[..., None, None]

    def label(self, book: ChannelBook, inputs: Labels) -> Labels:
        """Labels of the squeezed maps; each gate has that of its map."""
        first, act, second = self.fc
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        squeezed = book.conv(first, None, inputs, act)
        book.tie(book.conv(second, None, squeezed, gate=True), inputs)
        return squeezed


class GhostBottleneck(nn.Module):
    """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride): Figure 3 of the paper.

    A ghost module expands to `hidden_channels`, with `stride` above 1 a depthwise convolution of `kernel_size` follows,
    with `se_channels` above 0 an SELayer with so many squeezed maps; a ghost module without activation narrows to
    `out_channels`. The input is added: as it is, or by a depthwise and a pointwise convolution where the shape changes
    or `projection` asks for them.
    `version` 2 has DFC attention in the expanding module.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        se_channels: int = 0,
        activation: Activation = nn.ReLU,
        version: int = 1,
        projection: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            GhostModule(in_channels, hidden_channels, activation=activation, version=version),
            _depthwise(hidden_channels, kernel_size, stride) if stride > 1 else nn.Sequential(),
            SELayer(hidden_channels, squeezed=se_channels) if se_channels else nn.Sequential(),
            GhostModule(hidden_channels, out_channels, activation=None),
        )
        self.shortcut = nn.Sequential()
        if projection or stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                _depthwise(in_channels, kernel_size, stride),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Both ways, added."""
        return self.conv(x) + self.shortcut(x)

    def label(self, book: ChannelBook, inputs: Labels) -> tuple[Labels, Labels, Labels]:
        """Labels of the expanded maps, of those squeezed (or none), and of the output, tied to what is added to it."""
        expand, down, se, narrow = self.conv
        assert isinstance(expand, GhostModule) and isinstance(narrow, GhostModule)
        hidden = expand.label(book, inputs)
        if len(down):  # type: ignore[arg-type]
            _label(book, down, hidden)  # type: ignore[arg-type]
        squeezed = se.label(book, hidden) if isinstance(se, SELayer) else hidden[:0]
        outputs, added = narrow.label(book, hidden), inputs
        if len(self.shortcut):
            depthwise, pointwise, norm = self.shortcut
            assert isinstance(pointwise, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            _label(book, depthwise, inputs)  # type: ignore[arg-type]
            added = book.conv(pointwise, norm, inputs)
        book.tie_shortcut(outputs, added)
        return hidden, squeezed, outputs


def _depthwise(channels: int, kernel_size: int, stride: int) -> nn.Sequential:
    return _unit(nn.Conv2d(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=False))


# ---- The network ---------------------------------------------------------------------------------------------------

BOTTLENECKS = (  # Table 1: kernel, hidden channels, output channels, with squeeze and excitation, stride
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
)
SQUEEZE, EMBEDDING = 960, 1280  # maps after the last bottleneck, and values that the classes are told from
BISECTIONS = 20  # of a width multiplier, down to 4e-6
PLAIN_BLOCKS = 2  # of version 2: bottlenecks before the first with attention


def make_divisible(value: float, divisor: int = 4) -> int:
    """`value` rounded to a multiple of `divisor`, at least that, and never more than a tenth below `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class GhostNet(nn.Module):
    """The classifier: images (B, 3, H, W) -> logits (B, num_classes). Channels are `width_mult` times the paper's,
    rounded to multiples of 4.

    `variant`: "paper", the first layout; "release", that of the published weights: squeezed maps are multiples of 4,
    the embedding has a bias instead of batch normalisation; "v2", the same with DFC attention. The published
    networks' hard sigmoid, clamp(x / 6 + 1/2, 0, 1), is an SELayer with another scale and bias. Raises ValueError.
    """

    def __init__(
        self, num_classes: int = 1000, width_mult: float = 1.0, variant: Variant = "paper", dropout: float = 0.2
    ) -> None:
        super().__init__()
        if variant not in get_args(Variant):
            raise ValueError(f"variant={variant!r}: expected one of {', '.join(get_args(Variant))}")
        if width_mult <= 0 or num_classes < 1:
            raise ValueError(f"width_mult={width_mult}, num_classes={num_classes}: expected numbers above 0")

        def wide(channels: int) -> int:
            return make_divisible(channels * width_mult)

        channels = wide(16)
        layers: list[nn.Module] = [_unit(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.ReLU)]
        for number, (kernel_size, hidden, out, excited, stride) in enumerate(BOTTLENECKS):
            squeezed = wide(hidden) // 4 if variant == "paper" else make_divisible(wide(hidden) / 4)
            version = 2 if variant == "v2" and number >= PLAIN_BLOCKS else 1
            layers.append(
                GhostBottleneck(
                    channels, wide(hidden), wide(out), kernel_size, stride, squeezed * excited, version=version
                )
            )
            channels = wide(out)
        self.features = nn.Sequential(*layers)
        squeeze = _unit(nn.Conv2d(channels, wide(SQUEEZE), 1, bias=False), nn.ReLU)
        self.squeeze = squeeze.append(nn.AdaptiveAvgPool2d((1, 1)))
        embedding: list[nn.Module] = (
            [nn.Linear(wide(SQUEEZE), EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING)]
            if variant == "paper"
            else [nn.Linear(wide(SQUEEZE), EMBEDDING)]
        )
        self.classifier = nn.Sequential(
            *embedding, nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(EMBEDDING, num_classes)
        )
        self.num_classes, self.width_mult, self.variant = num_classes, width_mult, variant

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        pooled = self.squeeze(self.features(images))  # (B, 960, 1, 1)
        return self.classifier(pooled.flatten(1))


def ghost_net(**kwargs: Any) -> GhostNet:
    """GhostNet with these arguments of its own."""
    return GhostNet(**kwargs)


def released_net(tensors: Mapping[str, Tensor]) -> GhostNet:
    """GhostNet or GhostNetV2 from the state dict of the authors' or of timm's networks; the same function in eval mode.

    Raises WeightsError for tensors that are not such a network's.
    """
    return net_of(from_released(tensors), "the released weights").eval()


def net_of(tensors: Mapping[str, Tensor], path: str | Path) -> GhostNet:
    """The GhostNet, "release" or "v2", whose own tensors these are, from `path`. Raises WeightsError."""
    if not {"squeeze.0.weight", "classifier.3.weight"} <= tensors.keys():
        raise WeightsError(f"{path}: expected a whole GhostNet, with its last convolution and its classifier")
    last, squeeze = tensors["classifier.3.weight"], tensors["squeeze.0.weight"]
    variant: Variant = "v2" if any(".attention." in name for name in tensors) else "release"
    classes, width = len(last) if last.ndim else 0, len(squeeze) / SQUEEZE if squeeze.ndim else 0.0
    if not classes or not LEAST_WIDTH <= width <= MOST_WIDTH:
        expected = f"a GhostNet {LEAST_WIDTH:g} to {MOST_WIDTH:g} times as wide as the paper's"
        raise WeightsError(f"{path}: expected {expected}, got {classes} classes and {width:g} times")
    network = GhostNet(classes, fitting_width(_channels_in(tensors)), variant)
    load_tensors(network, dict(tensors), path)
    return network


def channels_of(width: float) -> list[int]:
    """The channels of a GhostNet's stem, of what its bottlenecks expand to and put out, and of its squeeze stage."""
    paper = [16, *(count for _, hidden, out, *_ in BOTTLENECKS for count in (hidden, out)), SQUEEZE]
    return [make_divisible(count * width) for count in paper]


def _channels_in(tensors: Mapping[str, Tensor]) -> list[int]:
    """The same of a state dict; 0 for what is missing."""

    def count(*names: str) -> int:
        return sum(len(tensors[name]) for name in names if name in tensors and tensors[name].ndim)

    found = [count("features.0.0.weight")]
    for number in range(1, len(BOTTLENECKS) + 1):
        for part in (0, 3):
            module = f"features.{number}.conv.{part}"
            found.append(count(f"{module}.primary_conv.0.weight", f"{module}.cheap_operation.0.weight"))
    return [*found, count("squeeze.0.weight")]


def fitting_width(channels: Sequence[int]) -> float:
    """The multiplier whose GhostNet has these channels, see `channels_of`; where none has, that of the last of them.

    One of two decimals where there is such a one, as published networks have.
    """
    guess = round(channels[-1] / SQUEEZE, 2)
    low, high, width = LEAST_WIDTH, MOST_WIDTH, guess
    for _ in range(BISECTIONS):
        own = channels_of(width)
        narrow = any(mine < given for mine, given in zip(own, channels, strict=True))
        wide = any(mine > given for mine, given in zip(own, channels, strict=True))
        if narrow == wide:
            return guess if narrow else width
        low, high = (width, high) if narrow else (low, width)
        width = (low + high) / 2
    return guess


# ---- In cfg files --------------------------------------------------------------------------------------------------


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
            version=options.version,
        )
        _slow_statistics(self)
        self.out_channels = options.filters
        self.step = (options.stride, options.stride)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Primary maps, then ghosts."""
        return self.ghost(inputs[0])

    def output_bias(self) -> list[Tensor]:
        """Biases of the output channels: primary maps, then ghosts."""
        return self.ghost.output_bias()

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Labels of the output channels: primary maps, then ghosts."""
        outputs = self.ghost.label(book, inputs[0])
        book.count(filters=outputs)
        return outputs


@block("ghost", "GhostConv", options=GhostOptions, expand=expand_ghost)
def build_ghost(options: GhostOptions, in_channels: tuple[int, ...]) -> Block:
    """A ghost module as one block."""
    return GhostBlock(options, in_channels[0])


class GhostBottleneckBlock(Block):
    """A [ghost_bottleneck] section."""

    def __init__(self, options: GhostBottleneckOptions, in_channels: int) -> None:
        super().__init__()
        self.bottleneck = GhostBottleneck(
            in_channels,
            options.expansion,
            options.filters,
            options.size,
            options.stride,
            options.se,
            ACTIVATIONS[options.activation],
            options.version,
            options.projection,
        )
        _slow_statistics(self)
        self.out_channels = options.filters
        self.step = (options.stride, options.stride)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Expanded, narrowed, and added to the input."""
        return self.bottleneck(inputs[0])

    def output_bias(self) -> list[Tensor]:
        """Biases of the narrowing ghost module, whose output the input is added to."""
        return self.bottleneck.conv[-1].output_bias()  # type: ignore[operator]

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of the bottleneck; a projection stays, even where the shape no longer changes."""
        hidden, squeezed, outputs = self.bottleneck.label(book, inputs[0])
        book.count(expansion=hidden, se=squeezed, filters=outputs)
        if len(self.bottleneck.shortcut) and self.step == (1, 1):
            book.set(projection=True)
        return outputs


@block("ghost_bottleneck", options=GhostBottleneckOptions, expand=expand_bottleneck)
def build_ghost_bottleneck(options: GhostBottleneckOptions, in_channels: tuple[int, ...]) -> Block:
    """A bottleneck of GhostNet as one block."""
    return GhostBottleneckBlock(options, in_channels[0])


class SEBlock(Block):
    """An [se] section: every map times its gate."""

    def __init__(self, options: SEOptions, in_channels: int) -> None:
        super().__init__()
        self.se = SELayer(in_channels, squeezed=options.squeezed)
        self.out_channels = in_channels

    def forward(self, *inputs: Tensor) -> Tensor:
        """The maps, each weighed."""
        return self.se(inputs[0])

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of the input."""
        book.count(squeezed=self.se.label(book, inputs[0]))
        return inputs[0]


@block("se", options=SEOptions, expand=refuse_se)
def build_se(options: SEOptions, in_channels: tuple[int, ...]) -> Block:
    """Squeeze and excitation as one block."""
    return SEBlock(options, in_channels[0])


def _slow_statistics(module: nn.Module) -> None:
    """Batch normalisation that gathers its statistics as slowly as that of the other sections."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = BN_MOMENTUM
