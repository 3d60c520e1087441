"""Which images come in which step. Everything follows from (seed, epoch, step), so a training can go on anywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

MULTI_SCALE = 0.5  # multi-scale inputs are 1-this .. 1+this times the size


def rect_sizes(images: Sequence[tuple[int, int]], size: tuple[int, int], stride: int) -> np.ndarray:
    """(N, 2) the smallest input, width and height in multiples of the stride, that each image (of these sizes, scaled
    to fit `size`) fits into.
    """
    sizes = np.array(images)
    fitted = sizes * (np.array(size) / sizes).min(axis=1, keepdims=True)
    return (np.ceil((fitted / stride).round(6)) * stride).astype(int)


@dataclass(frozen=True)
class Key:
    """One item to load: its place in the data set, the epoch and place in it (the seeds of chance), the input size."""

    index: int
    epoch: int
    position: int
    width: int
    height: int


class StepSampler(Sampler[list[Key]]):
    """Batches of keys for one epoch: shuffled by seed and epoch, each rank its share, equally many for every rank.

    `epoch` and `start` (the first step) are set before each pass. The images left over after whole batches wait for
    the next shuffle; fewer images than one batch make one smaller batch. With `sizes`, (N, 2) width and height of each
    image's own input, batches are made of images of one shape (rectangular training). With `multiple`, every batch
    is scaled by a chance factor and rounded to a multiple of it (multi-scale).
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        size: tuple[int, int],
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        sizes: np.ndarray | None = None,
        multiple: int | None = None,
    ) -> None:
        assert length >= world
        self.length, self.size, self.seed = length, size, seed
        self.rank, self.world = rank, world
        self.batch_size = min(batch_size, length // world)  # per rank
        self.sizes, self.multiple = sizes, multiple
        self.epoch = self.start = 0

    @property
    def steps(self) -> int:
        """Batches in a whole epoch."""
        return self.length // (self.batch_size * self.world)

    @property
    def largest(self) -> tuple[int, int]:
        """Width and height of the largest input that may come, `size` unless `multiple` is given."""
        return self.size if self.multiple is None else self._scaled(*self.size, 1 + MULTI_SCALE)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.length)
        together = self.batch_size * self.world
        if self.sizes is not None:
            shapes = self.sizes[order]
            order = order[np.lexsort((shapes[:, 0], shapes[:, 1]))]
        batches = order[: self.steps * together].reshape(self.steps, together)
        if self.sizes is not None:
            batches = batches[rng.permutation(self.steps)]
        factors = rng.uniform(1 - MULTI_SCALE, 1 + MULTI_SCALE, self.steps)
        for step in range(self.start, self.steps):
            width, height = self._size(batches[step], factors[step])
            mine = batches[step].reshape(self.world, self.batch_size)[self.rank]
            first = step * together + self.rank * self.batch_size
            yield [Key(int(i), self.epoch, first + n, width, height) for n, i in enumerate(mine)]

    def _size(self, indices: Sequence[int] | np.ndarray, factor: float) -> tuple[int, int]:
        width, height = self.size if self.sizes is None else self.sizes[indices].max(axis=0)
        return (int(width), int(height)) if self.multiple is None else self._scaled(width, height, factor)

    def _scaled(self, width: int, height: int, factor: float) -> tuple[int, int]:
        """Both sides times the factor, rounded to the multiple."""
        assert self.multiple is not None
        wide, high = (max(1, round(side * factor / self.multiple)) * self.multiple for side in (width, height))
        return int(wide), int(high)
