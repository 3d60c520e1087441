"""Label files: one box a line, `class cx cy w h`, the numbers relative to the image (0..1).

Nothing is cached: labels are read afresh each time, so they can never be out of date. A bad line never stops a
run and never passes unseen: it is left out, and comes back as a `Problem` that says where it is and what is wrong.
"""

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from utils.data.images import image_size
from utils.errors import DataError
from utils.log import counted, progress, warn

T = TypeVar("T")

THREADS = 8


@dataclass(frozen=True)
class Sample:
    """An image file with its boxes."""

    image: Path
    labels: np.ndarray
    """(N, 5) float32: class, cx, cy, w, h; the coordinates in 0..1 of the image. N = 0 is a background."""
    size: tuple[int, int]
    """(width, height) in pixels, upright."""


@dataclass(frozen=True)
class Problem:
    """Something in the data that was left out or needs a look."""

    path: Path
    line: int | None
    message: str
    """`kind: detail`, the kind being the same words for every problem of its sort."""

    def __str__(self) -> str:
        where = str(self.path) if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.message}"

    @property
    def kind(self) -> str:
        """The sort of problem, for counting."""
        return self.message.partition(":")[0]


def label_path(image: Path) -> Path:
    """The label file of an image: Darknet's `images` -> `labels` rule, else beside the image."""
    beside = image.with_suffix(".txt")
    mirrored = mirrored_label_path(image)
    return mirrored if mirrored is not None and mirrored.is_file() else beside


def mirrored_label_path(image: Path) -> Path | None:
    """`a/images/train/1.jpg` -> `a/labels/train/1.txt`: the last folder named images; None where there is none."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            return Path(*parts).with_suffix(".txt")
    return None


def read_labels(path: Path, num_classes: int) -> tuple[np.ndarray, list[Problem]]:
    """Read a label file: (N, 5) float32 (class, cx, cy, w, h in 0..1), and a problem for each line left out.

    A missing file means an image without objects. Raises nothing for bad content.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        return _table([]), [Problem(path, None, f"unreadable label file: {getattr(error, 'strerror', 'not text')}")]

    rows: dict[tuple[float, ...], int] = {}  # box -> its line
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = _parse_line(line, num_classes)
            if row in rows:
                raise DataError(f"duplicate box: the same as line {rows[row]}")
        except DataError as error:
            problems.append(Problem(path, number, str(error)))
        else:
            rows[row] = number
    return _table(list(rows)), problems


def _table(rows: list[tuple[float, ...]]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 5)


def _parse_line(line: str, num_classes: int) -> tuple[float, ...]:
    """One label line as (class, cx, cy, w, h); raises `DataError` with what was expected and what came."""
    fields = line.split()
    if len(fields) != 5:
        raise DataError(f"wrong number of columns: expected 5 (class cx cy w h), got {len(fields)}")
    try:
        row = tuple(map(float, fields))
    except ValueError:
        raise DataError(f"not a number: expected class cx cy w h, got {line.strip()!r}") from None
    if not all(map(math.isfinite, row)):
        raise DataError(f"not a number: expected class cx cy w h, got {line.strip()!r}")
    label, *box = row
    if label != int(label):
        raise DataError(f"class is not an integer: got {fields[0]}")
    if not 0 <= label < num_classes:
        raise DataError(f"class out of range: expected 0..{num_classes - 1}, got {fields[0]}")
    if not all(0 <= value <= 1 for value in box):
        raise DataError(f"coordinates outside 0..1: got {' '.join(fields[1:])}")
    if box[2] == 0 or box[3] == 0:
        raise DataError(f"box of zero size: got {' '.join(fields[1:])}")
    return row


def pixel_boxes(labels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(N, 5) class, cx, cy, w, h in 0..1 -> (N, 5) class, x1, y1, x2, y2 in pixels, clipped to the image."""
    half = labels[:, 3:5] / 2
    corners = np.concatenate((labels[:, 1:3] - half, labels[:, 1:3] + half), axis=1).clip(0, 1)
    return np.concatenate((labels[:, :1], corners * np.array([width, height] * 2, np.float32)), axis=1)


def spread(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` of them, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count)]


def load_samples(images: Sequence[Path], num_classes: int, description: str) -> tuple[list[Sample], list[Problem]]:
    """Read the labels of all images and check the images' headers, behind a progress bar named `description`.

    Returns the samples in the order given, without images that cannot be read, and all problems.
    Raises `DataError` when not one image can be read.
    """

    def load(image: Path) -> tuple[Sample | None, list[Problem]]:
        try:
            size = image_size(image)
        except DataError as error:
            return None, [unreadable_image(image, error)]
        labels, problems = read_labels(label_path(image), num_classes)
        return Sample(image, labels, size), problems

    with ThreadPoolExecutor(THREADS) as pool:
        loaded = list(progress(pool.map(load, images), description, unit="image", total=len(images)))
    samples = [sample for sample, _ in loaded if sample is not None]
    problems = [problem for _, found in loaded for problem in found]
    if images and not samples:
        raise DataError(f"{description}: none of the {len(images)} images can be read; the first: {problems[0]}")
    if not any(len(sample.labels) for sample in samples):
        problems += no_label_files([sample.image for sample in samples])
    return samples, problems


def no_label_files(images: Sequence[Path]) -> list[Problem]:
    """A problem if there are images and not one has a label file: one missing is a background, all are a mistake."""
    if not images or any(label_path(image).is_file() for image in images):
        return []
    places = [path for path in (mirrored_label_path(images[0]), label_path(images[0])) if path is not None]
    return [Problem(images[0], None, f"no label file for any image: looked for {' and '.join(map(str, places))}")]


def check_boxes(samples: Sequence[Sample], data: Path, decides: str | None = None) -> None:
    """Warn where images that AP is measured on have no box; raise `DataError` where AP `decides` something."""
    if any(len(sample.labels) for sample in samples):
        return
    words = f"{data}: expected labelled images to measure AP on, got no box in {counted(len(samples), 'image')}"
    if decides is not None:
        raise DataError(f"{words}; AP decides {decides}")
    warn(f"warning: {words}: it says nothing")


def unreadable_image(image: Path, error: DataError | OSError) -> Problem:
    """The problem for an image whose reading failed with `error`."""
    reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{image}: ")
    return Problem(image, None, f"unreadable image: {reason.lower()}")


def report(
    problems: Sequence[Problem], limit: int | None = 10, all_in: str = "`python -m utils.data.check DATA`"
) -> None:
    """Warn of each problem (the first `limit`; `all_in` has the others), then one line that counts them by kind.

    Silent without problems.
    """
    for problem in problems[:limit]:
        warn(str(problem))
    if limit is not None and len(problems) > limit:
        warn(f"... and {len(problems) - limit:,} more; {all_in} lists all")
    if problems:
        kinds = Counter(problem.kind for problem in problems)
        counts = ", ".join(f"{kind} ({number:,})" for kind, number in kinds.most_common())
        warn(f"{counted(len(problems), 'problem')} in the data: {counts}")
