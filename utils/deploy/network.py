"""A network as exporters want it: batch normalisation folded in, decoding inside, nothing else around it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.data.classification import normalize
from utils.network.fuse import fuse
from utils.runtimes.runtime import NetworkInfo


class Exportable(nn.Module):
    """(B, C, H, W) RGB or grey in 0..1, float32 -> predictions (B, N, 5+C) float32, as the network's own in eval mode.

    With `half` the network, but not its decoding, computes in float16.
    """

    def __init__(self, model: Any, size: tuple[int, int], half: bool = False) -> None:
        super().__init__()
        self.network = fuse(model).cpu().float()
        width, height = size
        with torch.inference_mode():
            heads = self.network.heads(torch.zeros(1, model.graph.net.channels, height, width))
        self.strides = [(width / head.shape[3], height / head.shape[2]) for head in heads]
        self.half_inside = half
        if half:
            self.network.half()
            for layer in self.network.yolo_layers:
                layer.float()  # anchors, too, are decoding

    def heads(self, images: Tensor) -> list[Tensor]:
        """The maps that enter decoding, (B, A*(5+C), H, W) each."""
        found: list[Tensor] = self.network.heads(images.half() if self.half_inside else images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """The predictions."""
        layers = zip(self.network.yolo_layers, self.heads(images), self.strides, strict=True)
        return torch.cat([layer.decode_map(head.float(), stride) for layer, head, stride in layers], dim=1)


class ExportableClassifier(nn.Module):
    """(B, 3, H, W) RGB in 0..1, float32 -> probabilities (B, C) float32; with `half` the network is in float16."""

    def __init__(self, model: nn.Module, half: bool = False) -> None:
        super().__init__()
        self.network = fuse(model).cpu().float()
        self.half_inside = half
        if half:
            self.network.half()

    def forward(self, images: Tensor) -> Tensor:
        """The probabilities."""
        normal = normalize(images * 255)
        logits: Tensor = self.network(normal.half() if self.half_inside else normal)
        return logits.float().softmax(1)


@dataclass(frozen=True)
class Calibration:
    """What int8 needs: pictures to take ranges of values from, and the layers of the cfg that stay in float32."""

    pictures: Sequence[np.ndarray]
    """(H, W, C) uint8, RGB or grey, of the network's input size."""
    floats: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Job:
    """What is exported, and as what."""

    model: Any
    """The detector, on the CPU, in eval mode."""
    info: NetworkInfo
    """What is said of it in the file."""
    simplify: bool = False
    """Whether ONNX graphs pass onnxslim."""
    calibration: Calibration | None = None
    """For int8."""
    fold_bn: bool = False
    """Whether Darknet files have batch normalisation folded in."""

    def in_float32(self) -> "Job":
        """The same, before weights are stored in fewer bits."""
        return replace(self, info=replace(self.info, precision="float32"))

    @property
    def layers(self) -> int:
        """Of the cfg; a classifier has no cfg whose layers could be told apart."""
        return 0 if self.info.task == "classify" else len(self.model.graph.nodes)

    def module(self) -> nn.Module:
        """The network, ready for an exporter."""
        half = self.info.precision == "float16"
        if self.info.task == "classify":
            return ExportableClassifier(self.model, half).eval()
        return Exportable(self.model, self.info.size, half).eval()

    def example(self) -> Tensor:
        """An input, (1, C, H, W), grey."""
        width, height = self.info.size
        return torch.full((1, self.info.channels, height, width), 0.5)
