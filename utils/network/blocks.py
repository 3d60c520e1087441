"""Darknet's sections of one value a cell: convolution, normalisation, activation. Others: `pools`, `joins`, `yolo`.

Semantics follow AlexeyAB/darknet; each docstring names the source function.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from utils.errors import CfgError
from utils.network.cfg import DARKNET_ONLY, Options, inert, option
from utils.network.channels import ChannelBook, Labels
from utils.network.registry import (
    ACTIVATION_NAMES,
    Block,
    Float32Sigmoid,
    activation,
    batch_norm,
    block,
    bn_tensors,
    conv_unit,
)

# ---- Convolution ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvolutionalOptions(Options):
    """[convolutional] (darknet src/parser.c: parse_convolutional). `pad=1` means size/2 and overrides `padding`."""

    INERT: ClassVar[dict[str, str]] = {
        **Options.INERT,
        **inert("grad_centr assisted_excitation dot angle reverse", DARKNET_ONLY),
        **inert("stream wait_stream", "Darknet's GPU handling"),
    }
    REFUSED: ClassVar[dict[str, str]] = {
        "antialiasing": "blurred subsampling is not built",
        "xnor": "binary networks are not built",
        "binary": "binary networks are not built",
        "bin_output": "binary networks are not built",
        "deform": "deformable kernels are not built",
        "stretch": "deformable kernels are not built",
        "sway": "deformable kernels are not built",
        "rotate": "deformable kernels are not built",
        "stretch_sway": "deformable kernels are not built",
        "flipped": "transposed weight files are not read",
        "coordconv": "coordinate channels are not built",
        "cbn": "cross-iteration batch normalisation is not built",
        "dontload": "every layer's weights are read",
        "dontloadscales": "every layer's weights are read",
    }
    filters: int = option(1, minimum=1)
    size: int = option(1, minimum=1)
    stride: int = option(1, minimum=1)
    stride_x: int | None = option(None, minimum=1, rare=True)
    stride_y: int | None = option(None, minimum=1, rare=True)
    pad: bool = False
    padding: int = option(0, minimum=0, rare=True)
    groups: int = option(1, minimum=1, rare=True)
    dilation: int = option(1, minimum=1, rare=True)
    share_index: int | None = option(None, reference="weights", rare=True)
    batch_normalize: bool = False
    activation: str = option("logistic", choices=ACTIVATION_NAMES)


class Convolutional(Block):
    """Convolution, batch normalisation, activation: (B, C, H, W) -> (B, filters, H', W')."""

    def __init__(self, options: ConvolutionalOptions, in_channels: int) -> None:
        super().__init__()
        for name, count in (("input channels", in_channels), ("filters", options.filters)):
            if count % options.groups:
                raise CfgError(f"groups={options.groups}: expected a divisor of the {count} {name}")
        stride_y, stride_x = options.stride_y or options.stride, options.stride_x or options.stride
        dilation = options.dilation if options.size > 1 else 1
        conv = nn.Conv2d(
            in_channels,
            options.filters,
            options.size,
            (stride_y, stride_x),
            padding=(options.size // 2 if options.pad else options.padding) * dilation,
            dilation=dilation,
            groups=options.groups,
            bias=not options.batch_normalize,
        )
        self.unit = conv_unit(conv, options.batch_normalize, options.activation)
        self.out_channels = options.filters
        self.step = (stride_y, stride_x)
        self.shares_weights = options.share_index is not None

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.unit(inputs[0])

    def output_bias(self) -> list[Tensor]:
        """Beta, or the bias."""
        return [next(self.units()).bias]

    def keep_probabilities(self) -> None:
        """Compute a logistic activation in float32: its values are probabilities that a loss takes the logits of."""
        if isinstance(self.unit[-1], nn.Sigmoid):
            self.unit[-1] = Float32Sigmoid()

    def share(self, other: Block) -> None:
        """Use the other convolution's weights, biases and batch normalisation (`share_index`); stride may differ."""
        if not isinstance(other, Convolutional):
            raise CfgError("share_index: expected the index of a [convolutional] section")
        mine, theirs = self.unit[0], other.unit[0]
        assert isinstance(mine, nn.Conv2d) and isinstance(theirs, nn.Conv2d)
        if mine.weight.shape != theirs.weight.shape or (mine.bias is None) != (theirs.bias is None):
            raise CfgError(
                f"share_index: expected a layer with weights {tuple(mine.weight.shape)} and the same batch_normalize, "
                f"got {tuple(theirs.weight.shape)}"
            )
        mine.weight, mine.bias = theirs.weight, theirs.bias
        if mine.bias is None:
            self.unit[1] = other.unit[1]

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Fresh ones, or the input's where the convolution is depthwise."""
        unit = next(self.units())
        outputs = book.conv(unit.conv, unit.bn, inputs[0], self.unit)
        book.count(filters=outputs)
        if book.layers[-1].depthwise:
            book.count(groups=inputs[0])
        return outputs

    def darknet_tensors(self) -> Iterator[Tensor]:
        """Nothing for a layer that uses another's weights: they are in the stream once."""
        return iter(()) if self.shares_weights else super().darknet_tensors()


@block("convolutional", "conv", options=ConvolutionalOptions)
def build_convolutional(options: ConvolutionalOptions, in_channels: tuple[int, ...]) -> Block:
    return Convolutional(options, in_channels[0])


# ---- Normalisation, activation, dropout ----------------------------------------------------------------------------


class PerChannel(Block):
    """One module that keeps channels and size."""

    def __init__(self, module: nn.Module | None, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.module = module
        self.summary_row = False  # the module itself has the row

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] if self.module is None else self.module(inputs[0])

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of the input."""
        if isinstance(self.module, nn.BatchNorm2d):
            book.norm(self.module, inputs[0])
        return inputs[0]

    def output_bias(self) -> list[Tensor]:
        """The batch normalisation's beta where that is what the block is."""
        return [self.module.bias] if isinstance(self.module, nn.BatchNorm2d) else []

    def darknet_tensors(self) -> Iterator[Tensor]:
        """The batch normalisation's tensors where that is what the block is."""
        if isinstance(self.module, nn.BatchNorm2d):
            yield from bn_tensors(self.module)


@dataclass(frozen=True)
class BatchNormOptions(Options):
    """[batchnorm]: no keys."""


@block("batchnorm", options=BatchNormOptions)
def build_batchnorm(options: BatchNormOptions, in_channels: tuple[int, ...]) -> Block:
    """Darknet src/parser.c: parse_batchnorm."""
    return PerChannel(batch_norm(in_channels[0]), in_channels[0])


@dataclass(frozen=True)
class ActivationOptions(Options):
    """[activation]."""

    activation: str = option("linear", choices=ACTIVATION_NAMES)


@block("activation", options=ActivationOptions)
def build_activation(options: ActivationOptions, in_channels: tuple[int, ...]) -> Block:
    """Darknet src/parser.c: parse_activation."""
    return PerChannel(activation(options.activation), in_channels[0])


@dataclass(frozen=True)
class DropoutOptions(Options):
    """[dropout]: identity at inference; train.py drops whole activations with this probability."""

    INERT: ClassVar[dict[str, str]] = {
        **Options.INERT,
        **inert("dropblock dropblock_size_rel dropblock_size_abs", DARKNET_ONLY),
    }
    probability: float = option(0.2, minimum=0, used_by="inert at inference: train.py drops with it")

    def validate(self) -> None:
        if self.probability >= 1:
            raise CfgError(f"probability={self.probability}: expected less than 1")


@block("dropout", options=DropoutOptions)
def build_dropout(options: DropoutOptions, in_channels: tuple[int, ...]) -> Block:
    """Darknet src/dropout_layer.c."""
    return PerChannel(nn.Dropout(options.probability), in_channels[0])
