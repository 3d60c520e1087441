"""Run a network over labelled images and measure it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from utils.data.dataset import EvaluationBatch, EvaluationSet, make_evaluation_loader
from utils.data.labels import Sample, pixel_boxes
from utils.data.sampler import rect_sizes
from utils.evaluation.metrics import ImageResult
from utils.inference.torch_postprocess import detections
from utils.letterbox import Placement
from utils.log import progress
from utils.network.fuse import fuse
from utils.runtimes.runtime import Runtime


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
    max_detections: int = 300  # an image
    agnostic: bool = False  # NMS over all classes together
    per_class: int | None = None  # candidates of each class that enter NMS, the best; None: all
    rect: int | None = None  # letterbox into the smallest multiple of this (the network's stride) within `size`
    channels: int = 3  # of the network's input: 3 for RGB, 1 for grey
    vote: bool = True  # box voting after NMS

    def detections(self, predictions: Tensor, model: nn.Module | Runtime) -> list[Tensor]:
        """`torch_postprocess.detections` of what a model gave, with these limits, every (box, class) pair counted."""
        iou, vote = self.iou, self.vote
        if isinstance(model, Runtime):
            iou, vote = model.info.nms_after(iou, vote, self.agnostic)
        limits = self.confidence, iou, True, self.max_detections, self.agnostic
        return detections(predictions, *limits, per_class=self.per_class, vote=vote)


def evaluation_loader(samples: Sequence[Sample], settings: EvaluationSettings) -> DataLoader[EvaluationBatch | None]:
    """The images for `collect`, in order, or with `rect` by their shapes; it can be used many times."""
    sizes: tuple[int, int] | np.ndarray = settings.size
    if settings.rect is not None:
        sizes = rect_sizes([sample.size for sample in samples], settings.size, settings.rect)
    dataset = EvaluationSet(samples, sizes, settings.stretched, settings.channels)
    return make_evaluation_loader(dataset, settings.batch_size, settings.workers)


def collect(
    model: nn.Module | Runtime,
    samples: Sequence[Sample],
    settings: EvaluationSettings,
    description: str,
    loader: DataLoader[EvaluationBatch | None],
    check: Callable[[], None] = lambda: None,
) -> list[ImageResult]:
    """Truth and detections of each image that can be read, in the samples' order.

    `loader` is `evaluation_loader`'s for these samples. `check` is called after each batch, and may end it by an
    exception.
    """
    results: dict[int, ImageResult] = {}
    model = model if isinstance(model, Runtime) else fuse(model)
    for batch in progress(loader, description, unit="batch"):
        if batch is None:
            continue
        found = run_batch(model, batch.images, settings)
        for index, place, rows in zip(batch.indices, batch.placements, found, strict=True):
            results[index] = to_result(samples[index], place, rows)
        check()
    return [results[index] for index in sorted(results)]


def run_batch(model: nn.Module | Runtime, images: Tensor, settings: EvaluationSettings) -> list[np.ndarray]:
    """Images (B, C, H, W) in 0..255 -> each one's (N, 6): x1, y1, x2, y2 in the input's pixels, score, class."""
    return [rows.cpu().numpy() for rows in settings.detections(predict(model, images, settings), model)]


def predict(model: nn.Module | Runtime, images: Tensor, settings: EvaluationSettings) -> Tensor:
    """Images (B, C, H, W) in 0..255 -> predictions (B, N, 5+C)."""
    if isinstance(model, Runtime):
        return torch.from_numpy(model.infer(images.permute(0, 2, 3, 1).numpy()))
    device = next(model.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, settings.dtype, enabled=settings.dtype is not None):
        predictions: Tensor = model(images.to(device).float() / 255)
    return predictions


def to_result(sample: Sample, place: Placement, rows: np.ndarray) -> ImageResult:
    """Truth and detections in the image's own pixels."""
    found = np.concatenate((place.to_image(rows[:, :4]), rows[:, 4:]), axis=1)
    truth = pixel_boxes(sample.labels, place.image_width, place.image_height)
    return ImageResult(place.image_width, place.image_height, truth, found, file=sample.image)
