"""Run a network over labelled images and measure it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.data.dataset import EvaluationItem, EvaluationSet, make_evaluation_loader
from utils.data.labels import Sample, pixel_boxes
from utils.evaluation.metrics import ImageResult, Metrics, measure
from utils.inference.postprocess import detections
from utils.log import progress
from utils.network.fuse import fuse


@dataclass(frozen=True)
class EvaluationSettings:
    """How detections are made for AP. `size` is the network's input, (width, height)."""

    size: tuple[int, int]
    confidence: float = 0.001
    iou: float = 0.6
    stretched: bool = False
    batch_size: int = 16
    workers: int = 2
    dtype: torch.dtype | None = None  # autocast to it; None: float32


def evaluation_loader(samples: Sequence[Sample], settings: EvaluationSettings) -> DataLoader[list[EvaluationItem]]:
    """The images for `evaluate`, in order; it can be used many times."""
    dataset = EvaluationSet(samples, settings.size, settings.stretched)
    return make_evaluation_loader(dataset, settings.batch_size, settings.workers)


def evaluate(
    model: nn.Module, samples: Sequence[Sample], names: Sequence[str], settings: EvaluationSettings, description: str
) -> Metrics:
    """AP of a network in eval mode (predictions (B, N, 5+C)) on labelled images; every (box, class) pair counts."""
    return measure(collect(model, samples, settings, description, evaluation_loader(samples, settings)), names)


def collect(
    model: nn.Module,
    samples: Sequence[Sample],
    settings: EvaluationSettings,
    description: str,
    loader: DataLoader[list[EvaluationItem]],
    check: Callable[[], None] = lambda: None,
) -> list[ImageResult]:
    """Truth and detections of each image that can be read; `loader` is `evaluation_loader`'s for these samples.

    `check` is called after each batch, and may end it by an exception.
    """
    results: list[ImageResult] = []
    model = fuse(model)
    for items in progress(loader, description, unit="batch"):
        if not items:
            continue
        found = run_batch(model, items, settings)
        results += [_result(item, rows, samples) for item, rows in zip(items, found, strict=True)]
        check()
    return results


def run_batch(model: nn.Module, items: Sequence[EvaluationItem], settings: EvaluationSettings) -> list[np.ndarray]:
    """Detections of a batch, (N, 6: x1, y1, x2, y2 in the input's pixels, score, class) each."""
    device = next(model.parameters()).device
    images = torch.stack([item.image for item in items]).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last
    with torch.inference_mode(), torch.autocast(device.type, settings.dtype, enabled=settings.dtype is not None):
        found = detections(model(images.to(device).float() / 255), settings.confidence, settings.iou, multi_label=True)
    return [rows.cpu().numpy() for rows in found]


def _result(item: EvaluationItem, rows: np.ndarray, samples: Sequence[Sample]) -> ImageResult:
    """Truth and detections in the image's own pixels."""
    place = item.placement
    found = np.concatenate((place.to_image(rows[:, :4]), rows[:, 4:]), axis=1)
    truth = pixel_boxes(samples[item.index].labels, place.image_width, place.image_height)
    return ImageResult(place.image_width, place.image_height, truth, found)
