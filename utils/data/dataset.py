"""Samples as tensors: what the network gets in training and in evaluation, and how batches are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from utils.data.augment import Augmentation, Picture, fit, mosaic, vary
from utils.data.images import read_image
from utils.data.labels import Sample
from utils.errors import DataError
from utils.letterbox import Placement, letterbox, stretch, to_input
from utils.log import warn

KEEP_BYTES = 2**28  # a worker decodes each image once when all of them, scaled to fit, take no more memory than this
MAX_REPLACEMENTS = 10  # how many unreadable images in a row are replaced by another before giving up


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Augmented samples: (3, H, W) uint8 RGB, and (N, 5) class, centre x, y, width, height in 0..1 of the input."""

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int], how: Augmentation | None = None) -> None:
        self.samples = samples
        self.width, self.height = size
        self.how = how or Augmentation()
        self.keep = len(samples) * self.width * self.height * 3 <= KEEP_BYTES
        self.kept: dict[int, Picture] = {}
        self.unreadable: set[int] = set()  # named once each

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        # torch seeds its generator anew per worker and epoch; everything random hangs on it
        rng = np.random.default_rng(int(torch.randint(2**31, (1,)).item()))
        indices = [index, *rng.integers(len(self.samples), size=3).tolist()]
        picture = mosaic([self._read(i, rng) for i in indices], self.width, self.height, rng)
        image, boxes = vary(picture, self.width, self.height, self.how, rng)
        size = np.array([self.width, self.height], np.float32)
        corners = boxes[:, 1:].reshape(-1, 2, 2) / size  # (N, 2 corners, 2)
        labels = np.concatenate((boxes[:, :1], corners.mean(axis=1), corners[:, 1] - corners[:, 0]), axis=1)
        rgb = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))
        return torch.from_numpy(rgb), torch.from_numpy(labels.astype(np.float32))

    def _read(self, index: int, rng: np.random.Generator) -> Picture:
        """A picture scaled to fit, boxes in pixels; one that cannot be decoded is named and replaced by another."""
        for _ in range(MAX_REPLACEMENTS):
            if index in self.kept:
                return self.kept[index]
            sample = self.samples[index]
            try:
                image = read_image(sample.image)
            except DataError as error:
                if index not in self.unreadable:
                    self.unreadable.add(index)
                    warn(f"skipped: {error}")
                index = int(rng.integers(len(self.samples)))
                continue
            boxes = pixel_boxes(sample.labels, image.shape[1], image.shape[0])
            picture = fit((image, boxes), self.width, self.height)
            if self.keep:
                self.kept[index] = picture
            return picture
        raise DataError(f"{MAX_REPLACEMENTS} images in a row could not be read, the last one {sample.image}")


def pixel_boxes(labels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(N, 5) class, cx, cy, w, h in 0..1 -> (N, 5) class, x1, y1, x2, y2 in pixels, clipped to the image."""
    half = labels[:, 3:5] / 2
    corners = np.concatenate((labels[:, 1:3] - half, labels[:, 1:3] + half), axis=1).clip(0, 1)
    return np.concatenate((labels[:, :1], corners * np.array([width, height] * 2, np.float32)), axis=1)


def collate_training(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) uint8 and targets (M, 6): index in the batch, class, cx, cy, w, h."""
    images, labels = zip(*items, strict=True)
    targets = [torch.cat((torch.full((len(rows), 1), float(i)), rows), dim=1) for i, rows in enumerate(labels)]
    return torch.stack(images), torch.cat(targets)


@dataclass(frozen=True)
class EvaluationItem:
    """One image as the network gets it, (3, H, W) float32 in 0..1, how it was placed, and which sample it is."""

    image: Tensor
    placement: Placement
    index: int


class EvaluationSet(Dataset[EvaluationItem | None]):
    """Samples as they are, letterboxed or stretched; None for an image that cannot be decoded (it is named)."""

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int], stretched: bool = False) -> None:
        self.samples = samples
        self.width, self.height = size
        self.place = stretch if stretched else letterbox

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> EvaluationItem | None:
        try:
            image = read_image(self.samples[index].image)
        except DataError as error:
            warn(f"skipped: {error}")
            return None
        picture, placement = self.place(image, self.width, self.height)
        return EvaluationItem(torch.from_numpy(to_input(picture)), placement, index)


def collate_evaluation(items: Sequence[EvaluationItem | None]) -> list[EvaluationItem]:
    """The readable ones."""
    return [item for item in items if item is not None]


def make_loader(dataset: Dataset[Any], batch_size: int, workers: int, train: bool, seed: int = 0) -> DataLoader[Any]:
    """Batches: in order, or for training shuffled and without a last partial one (unless there is no whole one)."""
    length = len(dataset)  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_size=min(batch_size, length),
        shuffle=train,
        drop_last=train,
        num_workers=workers,
        collate_fn=collate_training if train else collate_evaluation,
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
