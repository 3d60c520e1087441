"""What the sections [ghost], [ghost_bottleneck] and [se] say, and the same in Darknet's. `ghost.py` builds them.

Squeeze and excitation with its clamp, and the attention of version 2, have no Darknet form: expanding them is refused.
"""

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from utils.errors import CfgError
from utils.network.blocks import ConvolutionalOptions
from utils.network.cfg import NetOptions, Options, format_section, option, parse_cfg, typed
from utils.network.joins import RouteOptions, ShortcutOptions
from utils.network.registry import ACTIVATION_NAMES, INPUT, Part
from utils.options import MAX_SIZE

Variant = Literal["paper", "release", "v2"]
"""Of GhostNet as a whole, see `ghost.GhostNet`."""
LEAST_WIDTH, MOST_WIDTH = 0.05, 4.0  # multipliers of a classifier that is read from a file


@dataclass(frozen=True)
class GhostOptions(Options):
    """[ghost]: filters/ratio maps from a convolution, and the rest of `filters` depthwise from these.

    `version=2` weighs them by DFC attention.
    """

    filters: int = option(2, minimum=1)
    size: int = option(1, minimum=1)
    stride: int = option(1, minimum=1)
    pad: bool = option(False)
    ratio: int = option(2, minimum=2)
    cheap_size: int = option(3, minimum=1)
    batch_normalize: bool = option(False)
    version: int = option(1, minimum=1, rare=True)
    activation: str = option("logistic", choices=ACTIVATION_NAMES)

    def validate(self) -> None:
        """`filters` is a multiple of `ratio`, and the cheap kernels are odd, so that the map keeps its size."""
        if self.filters % self.ratio:
            raise CfgError(f"filters={self.filters}: expected a multiple of ratio={self.ratio}")
        if self.cheap_size % 2 == 0:
            raise CfgError(f"cheap_size={self.cheap_size}: expected an odd size")
        _check_version(self.version)


def _check_version(version: int) -> None:
    if version > 2:
        raise CfgError(f"version={version}: expected 1, or 2 for GhostNetV2's attention")


def expand_ghost(options: GhostOptions, in_channels: tuple[int, ...]) -> list[Part]:
    """The same block in Darknet's sections: convolution, grouped convolution, route; the weight stream is the same."""
    if options.version == 2:
        raise CfgError("version=2 has no Darknet form")
    conv = ConvolutionalOptions(
        filters=options.filters,
        size=options.size,
        stride=options.stride,
        pad=options.pad,
        batch_normalize=options.batch_normalize,
        activation=options.activation,
    )
    return _ghost_parts(conv, options.ratio, options.cheap_size, 0)


def _ghost_parts(conv: ConvolutionalOptions, ratio: int, cheap_size: int, first: int) -> list[Part]:
    """A ghost module instead of the convolution, as parts `first` and on."""
    primary = conv.filters // ratio
    cheap = replace(
        conv, filters=conv.filters - primary, size=cheap_size, stride=1, pad=True, padding=0, groups=primary
    )
    return [
        Part("convolutional", replace(conv, filters=primary)),
        Part("convolutional", cheap),
        Part("route", RouteOptions(layers=(first, first + 1))),
    ]


@dataclass(frozen=True)
class GhostBottleneckOptions(Options):
    """[ghost_bottleneck]: a ghost module to `expansion` maps, with `stride` above 1 a depthwise convolution of `size`,
    with `se` above 0 squeeze and excitation by `se` maps, a linear ghost module to `filters`; the input is added,
    by two convolutions where the shape changes or `projection` is set.
    """

    filters: int = option(2, minimum=2)
    expansion: int = option(2, minimum=2)
    se: int = option(0, minimum=0)
    size: int = option(3, minimum=1)
    stride: int = option(1, minimum=1)
    version: int = option(1, minimum=1, rare=True)
    projection: bool = option(False, rare=True)
    activation: str = option("relu", choices=ACTIVATION_NAMES)

    def validate(self) -> None:
        """Both ghost modules have as many ghosts as primary maps; kernels are odd, so that both ways meet."""
        for key, value in (("filters", self.filters), ("expansion", self.expansion)):
            if value % 2:
                raise CfgError(f"{key}={value}: expected an even number, half of them ghosts")
        if self.size % 2 == 0:
            raise CfgError(f"size={self.size}: expected an odd size")
        _check_version(self.version)


def expand_bottleneck(options: GhostBottleneckOptions, in_channels: tuple[int, ...]) -> list[Part]:
    """The same block in Darknet's sections, with the same weight stream."""
    if options.version == 2:
        raise CfgError("version=2 has no Darknet form")
    if options.se:
        raise CfgError(f"se={options.se}: squeeze and excitation with a clamp has no Darknet form")
    point = ConvolutionalOptions(filters=options.expansion, pad=True, batch_normalize=True, activation="linear")
    depthwise = replace(point, size=options.size, stride=options.stride)
    parts = _ghost_parts(replace(point, activation=options.activation), 2, 3, 0)
    if options.stride > 1:
        parts.append(Part("convolutional", replace(depthwise, groups=options.expansion)))
    parts += _ghost_parts(replace(point, filters=options.filters), 2, 3, len(parts))
    added, narrowed = INPUT, len(parts) - 1
    if options.projection or options.stride > 1 or in_channels[0] != options.filters:
        parts += [
            Part("route", RouteOptions(layers=(INPUT,))),
            Part("convolutional", replace(depthwise, filters=in_channels[0], groups=in_channels[0])),
            Part("convolutional", replace(point, filters=options.filters)),
        ]
        added = narrowed
    return [*parts, Part("shortcut", ShortcutOptions(from_=(added,), activation="linear"))]


@dataclass(frozen=True)
class SEOptions(Options):
    """[se]: squeeze and excitation by `squeezed` maps."""

    squeezed: int = option(1, minimum=1)


def refuse_se(options: SEOptions, in_channels: tuple[int, ...]) -> list[Part]:
    """Raise CfgError."""
    raise CfgError("squeeze and excitation with a clamp has no Darknet form")


# ---- The classifier, as a checkpoint describes it ------------------------------------------------------------------


@dataclass(frozen=True)
class GhostNetOptions(Options):
    """[ghostnet]: a whole classifier, which is no part of a detector."""

    variant: str = option("release", choices=get_args(Variant))
    width_mult: float = option(1.0, minimum=LEAST_WIDTH)
    classes: int = option(1000, minimum=1)


def classifier_cfg(variant: str, width_mult: float, classes: int, size: int) -> str:
    """A classifier for inputs of size x size pixels as cfg text."""
    net = NetOptions(width=size, height=size)
    kind = GhostNetOptions(variant, width_mult, classes)
    return format_section("net", net, ()) + "\n" + format_section("ghostnet", kind, ())


def parse_classifier(text: str, path: str) -> tuple[Variant, float, int]:
    """Its variant, width multiplier and input side. Raises CfgError, also for a detector."""
    sections = parse_cfg(text, path)
    if [section.kind for section in sections] != ["net", "ghostnet"]:
        raise CfgError(f"{path}: expected a classifier; this is a detector, for test.py and detect.py")
    kind, net = typed(sections[1], GhostNetOptions, [])[0], typed(sections[0], NetOptions, [])[0]
    if kind.width_mult > MOST_WIDTH or net.width > MAX_SIZE:
        raise CfgError(f"{path}: expected at most {MOST_WIDTH:g} times the width, and inputs of {MAX_SIZE} pixels")
    return cast(Variant, kind.variant), kind.width_mult, net.width
