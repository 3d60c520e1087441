"""How long one image takes, stage by stage, and what a smaller or larger input costs and brings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from utils.clock import now
from utils.data.dataset import EvaluationSet
from utils.data.images import read_image
from utils.data.labels import Sample
from utils.evaluation.evaluate import EvaluationSettings, predict
from utils.figure import new_figure, save_figure
from utils.log import progress
from utils.network.fuse import fuse
from utils.runtimes.runtime import Runtime

TIMED = 40  # images
WARM_UP = 5  # runs that are not timed


@dataclass(frozen=True)
class EvaluationBenchmark:
    """Time the stages of test.py for an image, and its evaluator."""

    weights: str
    """Weights, .weights or .pt; a bare name is found in weights/."""
    cfg: str | None = None
    """Network (default: the one inside the .pt)."""
    data: str = "shapes.data"
    """Data set whose validation images are taken."""
    batch_size: int = 16
    """Images per step."""
    conf: float = 0.001
    """Confidence over which every (box, class) pair counts."""
    max_nms: int | None = None
    """Candidates of each class that enter NMS, the best (default: all)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    rounds: int = 3
    """Rounds over all images; medians are shown."""


@dataclass(frozen=True)
class Speed:
    """Medians over images, one at a time, in milliseconds: resize, network with decoding, threshold and NMS."""

    preprocess: float
    inference: float
    nms: float

    @property
    def total(self) -> float:
        """All three."""
        return self.preprocess + self.inference + self.nms


def time_stages(model: nn.Module | Runtime, samples: Sequence[Sample], settings: EvaluationSettings) -> Speed:
    """Time a network in eval mode on the first images, which are decoded before; again and again where they are few."""
    device = torch.device("cpu") if isinstance(model, Runtime) else next(model.parameters()).device
    model = model if isinstance(model, Runtime) else fuse(model)
    dataset = EvaluationSet(samples[:TIMED], settings.size, settings.stretched, settings.channels)
    pictures = [read_image(sample.image) for sample in dataset.samples]
    times = []
    for turn in progress(range(WARM_UP + TIMED), f"timing {settings.size[0]}x{settings.size[1]}", unit="image"):
        start = now(device)
        picture = dataset.prepare(pictures[turn % len(pictures)])[0]
        images = torch.from_numpy(picture)[None].permute(0, 3, 1, 2)
        ready = now(device)
        predictions = predict(model, images, settings)
        done = now(device)
        settings.detections(predictions, model)
        times.append((ready - start, done - ready, now(device) - done))
    preprocess, inference, nms = (np.median(times[WARM_UP:], axis=0) * 1000).tolist()
    return Speed(preprocess, inference, nms)


def study_sizes(size: tuple[int, int], stride: int) -> list[tuple[int, int]]:
    """Inputs of half to one and a half times a (width, height), in steps of an eighth, multiples of the stride."""

    def scaled(eighths: int) -> tuple[int, int]:
        width, height = (max(1, round(side * eighths / 8 / stride)) * stride for side in size)
        return width, height

    return sorted({scaled(eighths) for eighths in range(4, 13)})


@dataclass(frozen=True)
class StudyPoint:
    """One input size (width, height) with its AP and time."""

    size: tuple[int, int]
    ap50: float
    ap: float
    speed: Speed


def draw_study(path: Path, points: Sequence[StudyPoint], title: str) -> None:
    """AP over milliseconds an image, a point for each size."""
    figure, axes = new_figure((8, 6), 1, 1)
    milliseconds = [point.speed.total for point in points]
    for key, label in (("ap50", "AP@.5"), ("ap", "AP@.5:.95")):
        axes.plot(milliseconds, [getattr(point, key) for point in points], marker="o", label=label)
    for point, x in zip(points, milliseconds, strict=True):
        side = f"{point.size[0]}" if point.size[0] == point.size[1] else f"{point.size[0]}x{point.size[1]}"
        axes.annotate(side, (x, point.ap50), textcoords="offset points", xytext=(0, 8), ha="center")
    axes.set(title=title, xlabel="milliseconds an image (batch 1)", xlim=(0, None), ylim=(0, 1))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    save_figure(figure, path)
