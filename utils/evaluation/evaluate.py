"""Run a network over labelled images and measure it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from utils.data.dataset import EvaluationItem, EvaluationSet, make_loader, pixel_boxes
from utils.data.labels import Sample
from utils.evaluation.metrics import ImageResult, Metrics, measure
from utils.inference.postprocess import detections
from utils.log import progress


@dataclass(frozen=True)
class EvaluationSettings:
    """How detections are made for AP. `size` is the network's input, (width, height)."""

    size: tuple[int, int]
    confidence: float = 0.001
    iou: float = 0.6
    stretched: bool = False
    batch_size: int = 16
    workers: int = 2


def evaluate(
    model: nn.Module, samples: Sequence[Sample], names: Sequence[str], settings: EvaluationSettings, description: str
) -> Metrics:
    """AP of a network in eval mode (predictions (B, N, 5+C)) on labelled images; every (box, class) pair counts."""
    dataset = EvaluationSet(samples, settings.size, settings.stretched)
    loader = make_loader(dataset, settings.batch_size, settings.workers, train=False)
    device = next(model.parameters()).device
    results: list[ImageResult] = []
    for items in progress(loader, description, unit="batch"):
        if not items:
            continue
        images = torch.stack([item.image for item in items]).to(device, memory_format=torch.channels_last)
        with torch.inference_mode():
            found = detections(model(images), settings.confidence, settings.iou, multi_label=True)
        results += [_result(item, rows.cpu(), samples) for item, rows in zip(items, found, strict=True)]
    return measure(results, names)


def _result(item: EvaluationItem, rows: torch.Tensor, samples: Sequence[Sample]) -> ImageResult:
    """Truth and detections in the image's own pixels."""
    place = item.placement
    found = rows.numpy()
    found[:, :4] = place.to_image(found[:, :4])
    truth = pixel_boxes(samples[item.index].labels, place.image_width, place.image_height)
    return ImageResult(place.image_width, place.image_height, truth, found)
