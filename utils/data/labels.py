"""Label files: one box a line, `class cx cy w h`, the numbers relative to the image (0..1).

Nothing is cached: labels are read afresh each time, so they can never be out of date. A bad line never stops a
run and never passes unseen: it is left out, and comes back as a `Problem` that says where it is and what is wrong.
Lines that say a box in another way (polygons) or nearly right are read, and come back as a `Remark`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
LABEL_FOLDERS = {"images": "labels", "JPEGImages": "labels", "raw": "labels", "Images": "Labels", "img": "label"}
"""Where the labels of a folder's images are, beside it, as Darknet and others have it."""
OUTSIDE = 0.01  # how far outside 0..1 a coordinate is clipped; one further outside is a mistake

CLIPPED = "coordinates up to 1 % outside 0..1, clipped"
POLYGON = "a polygon, read as the box around it"
ORIENTED = "an oriented box of four points, read as the upright box around it"
CONFIDENCE = "a sixth column, taken for a confidence and ignored"


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


@dataclass(frozen=True)
class Remark(Problem):
    """Lines of one file that were read, though not as they are written; `line` is the first, `message` the kind."""

    count: int = 1


def label_places(image: Path) -> list[Path]:
    """Where an image's label file is looked for: by `LABEL_FOLDERS`, the last such folder first, then beside it."""
    parts = image.parts
    folders = [index for index in range(len(parts) - 2, -1, -1) if parts[index] in LABEL_FOLDERS]
    mirrored = [Path(*parts[:index], LABEL_FOLDERS[parts[index]], *parts[index + 1 :]) for index in folders]
    return [place.with_suffix(".txt") for place in (*mirrored, image)]


def label_path(image: Path) -> Path:
    """The label file of an image, or where it would be beside it."""
    places = label_places(image)
    return next((place for place in places if place.is_file()), places[-1])


def read_labels(path: Path, num_classes: int) -> tuple[np.ndarray, list[Problem]]:
    """Read a label file: (N, 5) float32 (class, cx, cy, w, h in 0..1), a problem for each line left out, and remarks.

    A missing file means an image without objects. Raises nothing for bad content.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        return _table([]), [Problem(path, None, f"unreadable label file: {getattr(error, 'strerror', 'not text')}")]

    rows: dict[tuple[float, ...], int] = {}  # box -> its line
    problems: list[Problem] = []
    remarks: dict[str, list[int]] = defaultdict(list)  # kind -> lines
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row, kinds = _parse_line(line, num_classes)
            if row in rows:
                raise DataError(f"duplicate box: the same as line {rows[row]}")
        except DataError as error:
            problems.append(Problem(path, number, str(error)))
        else:
            rows[row] = number
            for kind in kinds:
                remarks[kind].append(number)
    problems += [Remark(path, lines[0], kind, len(lines)) for kind, lines in remarks.items()]
    return _table(list(rows)), problems


def _table(rows: list[tuple[float, ...]]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 5)


def _parse_line(line: str, num_classes: int) -> tuple[tuple[float, ...], list[str]]:
    """One label line as (class, cx, cy, w, h), and what there is to remark.

    Raises `DataError` with what was expected and what came.
    """
    fields = line.split()
    columns = len(fields)
    if columns == 7:
        raise DataError(
            "seven columns: expected 5 (class cx cy w h), or a class and at least four points, got 7, which may be a "
            "triangle, or a box with confidence and track number"
        )
    if columns < 5 or (columns > 6 and columns % 2 == 0):
        raise DataError(f"wrong number of columns: expected 5 (class cx cy w h), or a class and points, got {columns}")
    try:
        label, *numbers = map(float, fields)
    except ValueError:
        raise DataError(f"not a number: expected class cx cy w h, got {line.strip()!r}") from None
    if not all(map(math.isfinite, (label, *numbers))):
        raise DataError(f"not a number: expected class cx cy w h, got {line.strip()!r}")
    if label != int(label):
        raise DataError(f"class is not an integer: got {fields[0]}")
    if not 0 <= label < num_classes:
        raise DataError(f"class out of range: expected 0..{num_classes - 1}, got {fields[0]}")
    remarks = []
    if columns == 6:
        if not 0 <= numbers.pop() <= 1:
            raise DataError(f"wrong number of columns: expected 5, or a confidence of 0..1 as sixth, got {fields[5]}")
        remarks.append(CONFIDENCE)
    if not all(0 <= number <= 1 for number in numbers):
        if not all(-OUTSIDE <= number <= 1 + OUTSIDE for number in numbers):
            raise DataError(f"coordinates outside 0..1: got {' '.join(fields[1:])}")
        numbers = [min(max(number, 0.0), 1.0) for number in numbers]
        remarks.append(CLIPPED)
    if columns > 6:
        left, right, top, bottom = min(numbers[::2]), max(numbers[::2]), min(numbers[1::2]), max(numbers[1::2])
        numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        remarks.append(ORIENTED if columns == 9 else POLYGON)
    if numbers[2] == 0 or numbers[3] == 0:
        raise DataError(f"box of zero size: got {' '.join(fields[1:])}")
    return (label, *numbers), remarks


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

    def load(image: Path) -> tuple[Sample | None, Path, list[Problem]]:
        file = label_path(image)
        try:
            size = image_size(image)
        except DataError as error:
            return None, file, [unreadable_image(image, error)]
        labels, problems = read_labels(file, num_classes)
        return Sample(image, labels, size), file, problems

    with ThreadPoolExecutor(THREADS) as pool:
        loaded = list(progress(pool.map(load, images), description, unit="image", total=len(images)))
    samples = [sample for sample, _, _ in loaded if sample is not None]
    problems = [problem for _, _, found in loaded for problem in found]
    if images and not samples:
        raise DataError(f"{description}: none of the {len(images)} images can be read; the first: {problems[0]}")
    problems += label_file_problems({sample.image: file for sample, file, _ in loaded if sample is not None})
    return samples, problems


def label_file_problems(files: Mapping[Path, Path]) -> list[Problem]:
    """What is odd about the label files of a list of images, which need not be there.

    No file means a background; none for all images, or for all of one folder, may be a mistake. So may be one file of
    two images.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for image in files:
        folders[image.parent].append(image)
    there = {image for image, file in files.items() if file.is_file()}
    without = [images for images in folders.values() if there.isdisjoint(images)]
    if without and len(without) == len(folders):
        first = without[0][0]
        return [Problem(first, None, f"no label file for any image: looked for {_looked(first)}")]
    problems = [
        Problem(images[0].parent, None, f"no label file for any image of a folder: looked for {_looked(images[0])}")
        for images in without
    ]
    owners: dict[Path, Path] = {}
    for image, file in files.items():
        if image in there and (other := owners.setdefault(file, image)) != image:
            problems.append(Problem(image, None, f"two images with one label file: {other} has {file}, too"))
    return problems


def _looked(image: Path) -> str:
    return " and ".join(map(str, label_places(image)))


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

    One line for each kind of remark. Silent without any.
    """
    remarks: dict[str, list[Remark]] = defaultdict(list)
    faults = []
    for problem in problems:
        if isinstance(problem, Remark):
            remarks[problem.message].append(problem)
        else:
            faults.append(problem)
    for fault in faults[:limit]:
        warn(str(fault))
    if limit is not None and len(faults) > limit:
        warn(f"... and {len(faults) - limit:,} more; {all_in} lists all")
    if faults:
        kinds = Counter(fault.kind for fault in faults)
        counts = ", ".join(f"{kind} ({number:,})" for kind, number in kinds.most_common())
        warn(f"{counted(len(faults), 'problem')} in the data: {counts}")
    for kind, same in remarks.items():
        lines = counted(sum(remark.count for remark in same), "label line")
        warn(f"{lines} with {kind}; the first: {same[0].path}:{same[0].line}")
