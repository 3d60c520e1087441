"""How well a classifier does: the classes it gives, top-1 and top-5 accuracy, each class's figures, the confusion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.data.classification import Batch, normalize
from utils.log import progress
from utils.network.fuse import fuse

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
class ClassMetrics:
    """Shares of the images whose class is the first guess, or among the first five; cross-entropy in nats."""

    top1: float
    top5: float
    loss: float
    images: int
    classes: dict[str, ClassScores]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClassMetrics":
        """From what `dataclasses.asdict` made of one."""
        return cls(**{**values, "classes": {name: ClassScores(**one) for name, one in values["classes"].items()}})

    def __str__(self) -> str:
        return f"top-1 {self.top1:.3f}, top-5 {self.top5:.3f}"

    def table(self) -> str:
        """The numbers as text, a line a class."""
        width = max(12, *(len(name) for name in self.classes))
        lines = [f"{'class':{width}} {'images':>8} {'P':>8} {'R':>8} {'F1':>8}"]
        for name, one in self.classes.items():
            cells = ("-" if value is None else f"{value:.3f}" for value in (one.precision, one.recall, one.f1))
            lines.append(f"{name:{width}} {one.images:8,} " + " ".join(f"{cell:>8}" for cell in cells))
        return "\n".join(lines)


@dataclass(frozen=True)
class Guesses:
    """Of N images: probabilities (N, C) float32, the true classes (N,), and which samples they are (N,)."""

    probabilities: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Guesses"]) -> "Guesses":
        """Several as one."""
        columns = zip(*((part.probabilities, part.labels, part.indices) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


def classify(
    model: nn.Module,
    num_classes: int,
    loader: DataLoader[Batch | None],
    dtype: torch.dtype | None,
    description: str,
    check: Callable[[], None] = lambda: None,
) -> Guesses:
    """Run a classifier (in eval mode) over a loader's images that can be read. `check` is called after each batch."""
    device = next(model.parameters()).device
    model = fuse(model)
    parts = [Guesses(np.zeros((0, num_classes), np.float32), np.zeros(0, int), np.zeros(0, int))]
    for batch in progress(loader, description, unit="batch"):
        if batch is not None:
            images, labels, indices = batch
            with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                logits = model(normalize(images.to(device)))
            parts.append(Guesses(logits.float().softmax(1).cpu().numpy(), labels.numpy(), np.array(indices)))
        check()
    return Guesses.joined(parts)


def measure_classes(guesses: Guesses, names: Sequence[str]) -> ClassMetrics:
    """Accuracy over all images, and each class's figures."""
    count = len(guesses.labels)
    if not count:
        return ClassMetrics(0.0, 0.0, 0.0, 0, {name: ClassScores(None, None, 0) for name in names})
    own = guesses.probabilities[np.arange(count), guesses.labels][:, None]
    ranks = (guesses.probabilities > own).sum(axis=1)  # of the true class, 0 is the first
    matrix = confusion(guesses, len(names))
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
    return ClassMetrics(float(right.sum() / count), float((ranks < TOP).mean()), loss, count, classes)


def confusion(guesses: Guesses, num_classes: int) -> np.ndarray:
    """(C, C) counts: rows are the true classes, columns the first guesses."""
    pairs = guesses.labels * num_classes + guesses.probabilities.argmax(axis=1)
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
