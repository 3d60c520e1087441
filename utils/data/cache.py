"""Training pictures decoded and scaled to fit: read anew each time, or kept in memory or in a file beside the data.

Kept ones lie in one flat array that all worker processes share; it is filled before training and never changes.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from utils.data.augment import Picture, fit
from utils.data.images import read_image
from utils.data.labels import THREADS, Sample, pixel_boxes
from utils.errors import DataError, InputError
from utils.files import whole_file
from utils.log import progress, say
from utils.memory import available_bytes, check_memory, size_words

CacheMode = Literal["auto", "off", "ram", "disk"]
AUTO_BYTES = 2 * 10**9  # `auto` keeps pictures in memory up to this, and up to a quarter of what is free
MAGIC = "pictures 1"
NO_BOXES = np.zeros((0, 5), np.float32)


class Pictures:
    """`read(i)`: picture i scaled to fit (width, height), with its boxes in pixels."""

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int]) -> None:
        self.samples, self.size = samples, size
        self.store: Tensor | None = None  # (bytes,) uint8
        self.shapes = np.zeros((len(samples), 2), np.int64)  # height, width of the kept ones; 0: cannot be read
        self.offsets = np.zeros(len(samples), np.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Picture:
        """Raises DataError, naming the file, when the image cannot be decoded."""
        sample = self.samples[index]
        if self.store is None or not self.shapes[index].any():
            image, _ = fit((read_image(sample.image), NO_BOXES), *self.size)
        else:
            height, width = self.shapes[index]
            start = self.offsets[index]
            image = self.store[start : start + height * width * 3].view(height, width, 3).numpy()
        height, width = image.shape[:2]
        return image, pixel_boxes(sample.labels, width, height)  # the same to the bit, kept or not


def fitted_shapes(sizes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 2) height and width of pictures of these sizes, (N, 2: width, height), once scaled to fit `size`."""
    ratio = (np.array(size) / sizes).min(axis=1, keepdims=True)
    return np.maximum(1, np.round(sizes * ratio)).astype(np.int64)[:, ::-1]


def keep_pictures(
    samples: Sequence[Sample], size: tuple[int, int], mode: CacheMode, data_file: Path, processes: int = 1
) -> Pictures:
    """Pictures, kept as `mode` says; how much room they take is checked first, for `processes` on this machine.

    `disk` writes `DATA.WxH.pictures` beside the data file, and takes it again as long as the images are unchanged.
    Raises InputError when memory or disk has too little room.
    """
    pictures = Pictures(samples, size)
    shapes = fitted_shapes(np.array([sample.size for sample in samples]), size)
    needed = int(shapes.prod(axis=1).sum() * 3)
    if mode == "auto":
        mode = "ram" if needed * processes <= min(AUTO_BYTES, available_bytes() / 4) else "off"
    if mode == "off":
        return pictures
    pictures.offsets = np.concatenate(([0], np.cumsum(shapes.prod(axis=1) * 3)[:-1]))
    if mode == "ram":
        advice = "take --cache disk or off, or a smaller --img-size"
        check_memory(needed * processes, f"--cache ram: {len(samples):,} pictures", advice)
        pictures.store = torch.empty(needed, dtype=torch.uint8)
        pictures.shapes = _fill(pictures, shapes, pictures.store.numpy())
        say(f"{len(samples):,} pictures kept in memory, {size_words(needed)}")
    else:
        path = data_file.with_name(f"{data_file.name}.{size[0]}x{size[1]}.pictures")
        _keep_on_disk(pictures, shapes, needed, path)
        say(f"{len(samples):,} pictures kept in {path}, {size_words(needed)}")
    return pictures


def _fill(pictures: Pictures, shapes: np.ndarray, store: np.ndarray) -> np.ndarray:
    """Decode all pictures into `store`; their shapes, 0 for those that cannot be read (they are met later)."""
    plain = Pictures(pictures.samples, pictures.size)

    def load(index: int) -> np.ndarray:
        try:
            image, _ = plain.read(index)
        except DataError:
            return np.zeros(2, np.int64)
        if image.shape[:2] != tuple(shapes[index]):  # changed since its header was read
            return np.zeros(2, np.int64)
        start = pictures.offsets[index]
        store[start : start + image.size] = image.reshape(-1)
        return shapes[index]

    with ThreadPoolExecutor(THREADS) as pool:
        loaded = pool.map(load, range(len(pictures)))
        found = list(progress(loaded, "decoding pictures", unit="image", total=len(pictures)))
    return np.stack(found)


def _keep_on_disk(pictures: Pictures, shapes: np.ndarray, needed: int, path: Path) -> None:
    """Map `path` into memory; it is written first unless it is there, whole and up to date."""
    header = f"{MAGIC} {_fingerprint(pictures.samples, pictures.size)}\n".encode()
    start, count = len(header), len(pictures)
    total = start + count + needed  # the header, whether each picture could be read, the pixels
    if not (path.is_file() and path.stat().st_size == total and _first_bytes(path, start) == header):
        free = shutil.disk_usage(path.parent).free
        if total > free:
            raise InputError(f"--cache disk: {path} needs {size_words(total)}, {size_words(free)} are free")
        with whole_file(path) as partial:
            with partial.open("wb") as empty:
                if hasattr(os, "posix_fallocate"):  # a full disk is then an error here, not a crash in the middle
                    os.posix_fallocate(empty.fileno(), 0, total)
                empty.truncate(total)
            file = np.memmap(partial, np.uint8, "r+", shape=total)
            file[:start] = np.frombuffer(header, np.uint8)
            file[start : start + count] = _fill(pictures, shapes, file[start + count :]).any(axis=1)
            file.flush()
            del file
    # Mapped privately (copy on write): torch wants writable memory, the file stays as it is.
    mapped = torch.from_numpy(np.memmap(path, np.uint8, "c", shape=total))
    readable = mapped[start : start + count].numpy().astype(bool)
    pictures.shapes = np.where(readable[:, None], shapes, 0)
    pictures.store = mapped[start + count :]


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _fingerprint(samples: Sequence[Sample], size: tuple[int, int]) -> str:
    """A digest of the size, and of each image's path, length and time of change."""
    digest = hashlib.sha256(f"{size}".encode())
    for sample in samples:
        status = sample.image.stat()
        digest.update(f"{sample.image}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()
