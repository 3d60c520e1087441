"""How well a classifier does: the classes it gives, top-1 and top-5 accuracy, each class's figures, the confusion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from utils.data.classification import Batch, normalize
from utils.errors import WeightsError
from utils.log import progress
from utils.network.fuse import fuse
from utils.runtimes.runtime import Runtime

TOP = 5


@dataclass(frozen=True)
class ClassScores:
    """One class, fractions of 1: precision (None where nothing was taken for it), recall (None without images)."""

    precision: float | None
    recall: float | None
    images: int

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both."""
        if self.precision is None or self.recall is None:
            return None
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-12)


@dataclass(frozen=True)
class ClassifierMetrics:
    """Shares of the images whose class is the first guess, or among the first five; cross-entropy in nats."""

    top1: float
    top5: float
    loss: float
    images: int
    classes: dict[str, ClassScores]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClassifierMetrics":
        """From what `dataclasses.asdict` made of one."""
        return cls(**{**values, "classes": {name: ClassScores(**one) for name, one in values["classes"].items()}})

    def __str__(self) -> str:
        top5 = f", top-5 {self.top5:.3f}" if len(self.classes) > TOP else ""  # of five classes it is always 1
        return f"top-1 {self.top1:.3f}{top5}"

    def table(self) -> str:
        """The numbers as text, a line a class."""
        width = max(12, *(len(name) for name in self.classes))
        lines = [f"{'class':{width}} {'images':>8} {'P':>8} {'R':>8} {'F1':>8}"]
        for name, one in self.classes.items():
            cells = ("-" if value is None else f"{value:.3f}" for value in (one.precision, one.recall, one.f1))
            lines.append(f"{name:{width}} {one.images:8,} " + " ".join(f"{cell:>8}" for cell in cells))
        return "\n".join(lines)


@dataclass(frozen=True)
class Predictions:
    """Of N images: probabilities (N, C) float32, the true classes (N,), and which samples they are (N,)."""

    probabilities: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def placed(self, rank: int, world: int) -> "Predictions":
        """With indices into all samples, of which this rank had every `world`th from `rank` on."""
        return Predictions(self.probabilities, self.labels, self.indices * world + rank)

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Several as one."""
        columns = zip(*((part.probabilities, part.labels, part.indices) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


Classifying = nn.Module | Runtime
"""A classifier in PyTorch, in eval mode, or an exported one."""


def probabilities_by(model: Classifying, dtype: torch.dtype | None = None) -> Callable[[Tensor], np.ndarray]:
    """What makes of pictures (B, 3, H, W) uint8 RGB probabilities (B, C) float32; in PyTorch autocast to `dtype`."""
    if isinstance(model, Runtime):
        return lambda images: model.infer(images.permute(0, 2, 3, 1).contiguous().numpy())
    device, network = next(model.parameters()).device, fuse(model)

    def compute(images: Tensor) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = network(normalize(images.to(device)))
        return np.array(logits.float().softmax(1).cpu())

    return compute


def classify(
    model: Classifying,
    num_classes: int,
    loader: DataLoader[Batch | None],
    dtype: torch.dtype | None,
    description: str,
    check: Callable[[], None] = lambda: None,
) -> Predictions:
    """Run a classifier over a loader's images that can be read. `check` is called after each batch."""
    compute = probabilities_by(model, dtype)
    parts = [Predictions(np.zeros((0, num_classes), np.float32), np.zeros(0, int), np.zeros(0, int))]
    for batch in progress(loader, description, unit="batch"):
        if batch is not None:
            images, labels, indices = batch
            probabilities = compute(images)
            if not np.isfinite(probabilities).all():
                raise WeightsError("the network's outputs are not finite numbers: its weights are damaged")
            parts.append(Predictions(probabilities, labels.numpy(), np.array(indices)))
        check()
    return Predictions.joined(parts)


def measure_classes(predictions: Predictions, names: Sequence[str]) -> ClassifierMetrics:
    """Accuracy over all images, and each class's figures."""
    count = len(predictions.labels)
    if not count:
        return ClassifierMetrics(0.0, 0.0, 0.0, 0, {name: ClassScores(None, None, 0) for name in names})
    own = predictions.probabilities[np.arange(count), predictions.labels]
    order = np.argsort(-predictions.probabilities, axis=1, kind="stable")
    ranks = (order == predictions.labels[:, None]).argmax(axis=1)  # of the true class, 0 is the first
    matrix = confusion(predictions, len(names))
    images, taken, right = matrix.sum(axis=1), matrix.sum(axis=0), matrix.diagonal()
    classes = {
        name: ClassScores(
            float(right[i] / taken[i]) if taken[i] else None,
            float(right[i] / images[i]) if images[i] else None,
            int(images[i]),
        )
        for i, name in enumerate(names)
    }
    loss = float(-np.log(np.maximum(own, 1e-12)).mean())
    return ClassifierMetrics(float(right.sum() / count), float((ranks < TOP).mean()), loss, count, classes)


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """(C, C) counts: rows are the true classes, columns the first predictions."""
    pairs = predictions.labels * num_classes + predictions.probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Width:
    """A width multiplier: parameters, multiply-adds and milliseconds an image, and top-1 accuracy."""

    width: float
    parameters: int
    macs: int
    milliseconds: float
    top1: float


def width_table(widths: Sequence[Width]) -> str:
    """As text, a line a width."""
    lines = [f"{'width':>6} {'parameters':>12} {'M mult-adds':>12} {'ms':>8} {'top-1':>8}"]
    for one in widths:
        costs = f"{one.parameters:12,} {one.macs / 1e6:12.2f} {one.milliseconds:8.2f}"
        lines.append(f"{one.width:6g} {costs} {one.top1:8.3f}")
    return "\n".join(lines)
