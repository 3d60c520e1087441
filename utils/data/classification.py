"""Images for a classifier: augmented in training, cut to a square in evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from utils.data.classes import ClassSample
from utils.data.dataset import MAX_REPLACEMENTS, Skipped, batch_loader
from utils.data.images import read_image
from utils.data.sampler import Key, StepSampler
from utils.errors import DataError
from utils.letterbox import IMAGENET_MEAN, IMAGENET_STD, to_rgb

STRETCH = 1.2  # width to height of what is cut out, at most, and at least one to that
GREY = [round(255 * mean) for mean in IMAGENET_MEAN]  # where a picture turned or moved leaves nothing


@dataclass(frozen=True)
class ClassAugmentation:
    """What happens to a training image. Chances and shares are 0 to 1."""

    area: float = 0.8  # least share of the image's area that is cut out and scaled to the input
    flip_lr: float = 0.5
    flip_ud: float = 0.0
    randaugment: int = 1  # random operations in a row (Cubuk et al., "RandAugment", 2020)
    magnitude: int = 7  # of each of them, 0 to 30
    erasing: float = 0.1  # chance of an erased rectangle (Zhong et al., AAAI 2020)


Item = tuple[Tensor, int, int]
"""(3, size, size) uint8 RGB, the class, which sample it is."""


class ClassTrainingSet(Dataset[Item]):
    """Augmented samples; an item depends on its key and the seed alone."""

    def __init__(self, samples: Sequence[ClassSample], size: int, how: ClassAugmentation, seed: int = 0) -> None:
        self.samples, self.seed = samples, seed
        self.skipped = Skipped(len(samples))
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, (how.area, 1.0), (1 / STRETCH, STRETCH), antialias=True),
                v2.RandomHorizontalFlip(how.flip_lr),
                v2.RandomVerticalFlip(how.flip_ud),
                v2.RandAugment(how.randaugment, how.magnitude, interpolation=InterpolationMode.BILINEAR, fill=GREY),
                v2.RandomErasing(how.erasing),
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Item:
        index = key.index
        seed = np.random.SeedSequence([self.seed, key.epoch, key.position]).generate_state(1, np.uint64)[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))  # of the CPU alone
            for _ in range(MAX_REPLACEMENTS):
                try:
                    image = _read(self.samples[index])
                except DataError as error:
                    self.skipped.report(index, error)
                    index = int(torch.randint(len(self), ()))
                    continue
                return self.transform(image), self.samples[index].label, index
        name = self.samples[index].image
        raise DataError(f"{MAX_REPLACEMENTS} images in a row could not be read, the last one {name}")


class ClassEvaluationSet(Dataset[Any]):
    """Samples as they are, the square in their middle scaled to `size`. None for what cannot be read."""

    def __init__(self, samples: Sequence[ClassSample], size: int) -> None:
        self.samples = samples
        self.size = size
        self.skipped = Skipped(len(samples))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item | None:
        try:
            image = _read(self.samples[index])
        except DataError as error:
            self.skipped.report(index, error)
            return None
        return square(image, self.size), self.samples[index].label, index


def square(image: Tensor, size: int) -> Tensor:
    """(3, H, W) uint8 -> (3, size, size): the square in the middle, scaled."""
    middle = v2.functional.center_crop(image, [min(image.shape[1:])])
    return v2.functional.resize(middle, [size, size], antialias=True)


def _read(sample: ClassSample) -> Tensor:
    return to_planes(read_image(sample.image))


def to_planes(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 BGR -> (3, H, W) uint8 RGB."""
    return torch.from_numpy(to_rgb(image)).permute(2, 0, 1)


def normalize(images: Tensor) -> Tensor:
    """(B, 3, H, W) 0..255 RGB -> as a classifier takes them: each channel less ImageNet's mean, over its deviation."""
    mean, std = (images.new_tensor(each, dtype=torch.float32) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


Batch = tuple[Tensor, Tensor, list[int]]
"""(B, 3, size, size) uint8; (B,) classes; which samples they are."""


def collate(items: Sequence[Item | None]) -> Batch | None:
    """The readable ones of some items as a batch."""
    known = [item for item in items if item is not None]
    if not known:
        return None
    images, labels, indices = zip(*known, strict=True)
    return torch.stack(images), torch.tensor(labels), list(indices)


def class_training_loader(
    dataset: ClassTrainingSet, sampler: StepSampler, workers: int, pin: bool = False
) -> DataLoader[Any]:
    """Batches as the sampler says."""
    return batch_loader(dataset, sampler, collate, workers, pin)


def class_evaluation_loader(dataset: ClassEvaluationSet, batch_size: int, workers: int) -> DataLoader[Batch | None]:
    """Batches in order."""
    indices = range(len(dataset))
    batches = [list(indices[first : first + batch_size]) for first in range(0, len(dataset), batch_size)]
    return batch_loader(dataset, batches, collate, workers)
