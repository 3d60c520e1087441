"""Samples as tensors: what the network gets in training and in evaluation, and how batches are made of them."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from utils.data.augment import Augmentation, Picture, colour, compose, cutmix, fit, flip, mixup
from utils.data.cache import Pictures
from utils.data.images import read_image
from utils.data.labels import Sample
from utils.data.sampler import Key, StepSampler
from utils.data.shared_memory import fitting_workers
from utils.errors import DataError
from utils.letterbox import Placement, letterbox, stretch, to_channels
from utils.log import warn

START = "fork" if sys.platform == "linux" else None  # workers then share kept pictures instead of copying them
MAX_REPLACEMENTS = 10  # how many unreadable images in a row are replaced by another before giving up


Item = tuple[Tensor, Tensor, list[int]]
"""(H, W, C) uint8, RGB or grey; (N, 5) class or IGNORED, centre x, y, width, height in 0..1; the images in it."""

Batch = tuple[Tensor, Tensor, list[int]]
"""(B, C, H, W) uint8, channels last; (M, 6) index in the batch, class, cx, cy, w, h; the pictures it is made of."""


class Skipped:
    """Names each image that cannot be decoded once, whichever of the loading processes meets it first."""

    def __init__(self, count: int) -> None:
        self.known = torch.zeros(count, dtype=torch.bool)
        with contextlib.suppress(RuntimeError):  # no shared memory: then there are no loading processes
            self.known.share_memory_()

    def report(self, index: int, error: DataError) -> None:
        """Say it, unless it was said before."""
        if not self.known[index]:
            self.known[index] = True
            warn(f"skipped: {error}", every_rank=True)


class TrainingSet(Dataset[Item]):
    """Augmented samples.

    An item depends on its key and the seed alone, so it is the same in any worker and after a resumed training. From
    epoch `close_mosaic` on (counted from 0) pictures are neither joined nor mixed. `channels`: 3 for RGB, 1 for grey.
    """

    def __init__(
        self,
        pictures: Pictures,
        how: Augmentation,
        seed: int = 0,
        close_mosaic: int | None = None,
        channels: int = 3,
    ) -> None:
        self.pictures, self.how, self.seed, self.close_mosaic = pictures, how, seed, close_mosaic
        self.channels = channels
        self.skipped = Skipped(len(pictures))

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def samples(self) -> Sequence[Sample]:
        """Those that the pictures are of."""
        return self.pictures.samples

    def __getitem__(self, key: Key) -> Item:
        rng = np.random.default_rng([self.seed, key.epoch, key.position])
        closed = self.close_mosaic is not None and key.epoch >= self.close_mosaic
        used: list[int] = []
        picture = self._picture(key.index, key, closed, rng, used)
        for chance, mix in ((self.how.mixup, mixup), (self.how.cutmix, cutmix)):
            if rng.random() < chance and not closed:
                other = self._picture(int(rng.integers(len(self))), key, closed, rng, used)
                picture = mix(picture, other, rng)
        image = colour(picture[0], self.how, rng)
        left_right, up_down = rng.random(2) < (self.how.flip_lr, self.how.flip_ud)
        image, boxes = flip((image, picture[1]), left_right, up_down)
        corners = boxes[:, 1:].reshape(-1, 2, 2) / np.array([key.width, key.height], np.float32)  # (N, 2 corners, 2)
        labels = np.concatenate((boxes[:, :1], corners.mean(axis=1), corners[:, 1] - corners[:, 0]), axis=1)
        image = to_channels(image, self.channels)
        return torch.from_numpy(image), torch.from_numpy(labels.astype(np.float32)), used

    def _picture(self, index: int, key: Key, closed: bool, rng: np.random.Generator, used: list[int]) -> Picture:
        """One picture or a mosaic of four, warped to the key's size; `used` notes which."""
        indices = [index]
        if rng.random() < self.how.mosaic and not closed:
            indices += rng.integers(len(self), size=3).tolist()
        pictures = [self._read(i, key, rng, used) for i in indices]
        return compose(pictures, key.width, key.height, self.how, rng)

    def _read(self, index: int, key: Key, rng: np.random.Generator, used: list[int]) -> Picture:
        """A picture scaled to fit, boxes in pixels; one that cannot be decoded is named and replaced by another.

        `used` notes which it is.
        """
        for _ in range(MAX_REPLACEMENTS):
            try:
                picture = self.pictures.read(index)
            except DataError as error:
                self.skipped.report(index, error)
                index = int(rng.integers(len(self)))
                continue
            used.append(index)
            return picture if (key.width, key.height) == self.pictures.size else fit(picture, key.width, key.height)
        name = self.pictures.samples[index].image
        raise DataError(f"{MAX_REPLACEMENTS} images in a row could not be read, the last one {name}")


def collate_training(items: Sequence[Item]) -> Batch:
    """Items as a batch."""
    images, labels, used = zip(*items, strict=True)
    targets = [torch.cat((torch.full((len(rows), 1), float(i)), rows), dim=1) for i, rows in enumerate(labels)]
    # default_collate stacks in the memory that processes share; a copy of its own would stay in the worker's heap
    stacked: Tensor = default_collate(list(images))  # (B, H, W, C)
    return stacked.permute(0, 3, 1, 2), torch.cat(targets), [index for each in used for index in each]


@dataclass(frozen=True)
class EvaluationItem:
    """One image as the network gets it, (H, W, C), RGB or grey, 0..255, how it was placed, and which sample it is.

    uint8, or float32 where it was stretched (Darknet does not round).
    """

    image: Tensor
    placement: Placement
    index: int


@dataclass(frozen=True)
class EvaluationBatch:
    """The readable ones of a batch of items: images (B, C, H, W), channels last, and a placement and index each."""

    images: Tensor
    placements: list[Placement]
    indices: list[int]


class EvaluationSet(Dataset[Any]):
    """Samples as they are, letterboxed or stretched; None for an image that cannot be decoded (it is named).

    `size` is (width, height), of all or of each (N, 2); `channels`: 3 for RGB, 1 for grey.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: tuple[int, int] | np.ndarray,
        stretched: bool = False,
        channels: int = 3,
    ) -> None:
        self.samples = samples
        self.sizes = np.broadcast_to(np.array(size), (len(samples), 2))
        self.place = stretch if stretched else letterbox
        self.channels = channels
        self.skipped = Skipped(len(samples))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> EvaluationItem | None:
        try:
            image = read_image(self.samples[index].image)
        except DataError as error:
            self.skipped.report(index, error)
            return None
        picture, placement = self.prepare(image, index)
        return EvaluationItem(torch.from_numpy(picture), placement, index)

    def prepare(self, image: np.ndarray, index: int = 0) -> tuple[np.ndarray, Placement]:
        """An (H, W, 3) BGR image as the network gets that sample, (H', W', C), and how it was placed."""
        width, height = self.sizes[index].tolist()
        picture, placement = self.place(image, width, height)
        return to_channels(picture, self.channels), placement


def letterboxed(samples: Sequence[Sample], size: tuple[int, int], channels: int = 3) -> list[np.ndarray]:
    """The images that can be read, as a network with this input (width, height) gets them: (H, W, channels) uint8.

    Raises DataError where there is none.
    """
    dataset = EvaluationSet(samples, size, channels=channels)
    items = [dataset[index] for index in range(len(dataset))]
    pictures = [item.image.numpy() for item in items if item is not None]
    if not pictures:
        raise DataError(f"{samples[0].image}: expected images that can be read")
    return pictures


def collate_evaluation(items: Sequence[EvaluationItem | None]) -> EvaluationBatch | None:
    """The items that could be read, None where none could. One tensor: each costs the processes an open file."""
    readable = [item for item in items if item is not None]
    if not readable:
        return None
    images: Tensor = default_collate([item.image for item in readable])
    placements = [item.placement for item in readable]
    return EvaluationBatch(images.permute(0, 3, 1, 2), placements, [item.index for item in readable])


def make_training_loader(
    dataset: TrainingSet, sampler: StepSampler, workers: int, pin: bool = False
) -> DataLoader[Item]:
    """Batches as the sampler says."""
    return batch_loader(dataset, sampler, collate_training, workers, pin)


def make_evaluation_loader(dataset: EvaluationSet, batch_size: int, workers: int) -> DataLoader[EvaluationBatch | None]:
    """Batches in order, but those of one size together."""
    order = np.lexsort((dataset.sizes[:, 0], dataset.sizes[:, 1]))  # stable
    ends = np.flatnonzero(np.diff(dataset.sizes[order], axis=0).any(axis=1)) + 1
    groups = [group for group in np.split(order, ends) if len(group)]
    batches = [g[first : first + batch_size].tolist() for g in groups for first in range(0, len(g), batch_size)]
    return batch_loader(dataset, batches, collate_evaluation, workers)


def batch_loader(
    dataset: Dataset[Any], batches: Iterable[list[Any]], collate: Callable[[Any], Any], workers: int, pin: bool = False
) -> DataLoader[Any]:
    """Batches of these keys or indices, made by `workers` processes, or by as many as shared memory has room for.

    It can be used many times.
    """
    workers = fitting_workers(workers, lambda: collate([dataset[key] for key in next(iter(batches), [])]))
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        multiprocessing_context=START if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=pin,
        generator=torch.Generator(),  # else its first pass draws from the global one, and a resumed run has two
    )


def _start_worker(_: int) -> None:
    """One thread each; a signal to the whole group (Ctrl-C, `timeout`, torchrun) is the main process's to heed."""
    cv2.setNumThreads(0)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
