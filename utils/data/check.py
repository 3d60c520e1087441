"""`python -m utils.data.check DATA`: look at every image and label of a data set, name each problem, count the rest.

Exit code 0: clean; 1: there were problems; 2: the data set could not be read at all.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from utils.data.datafile import load_data
from utils.data.images import decode_image
from utils.data.labels import (
    THREADS,
    Problem,
    Remark,
    label_file_problems,
    label_path,
    read_labels,
    report,
    unreadable_image,
)
from utils.errors import DataError
from utils.log import progress, say
from utils.options import run_command

SMALL, MEDIUM = 32**2, 96**2  # pixels: COCO's bounds between small, medium and large boxes


@dataclass(frozen=True)
class CheckOptions:
    """What to check."""

    data: tyro.conf.Positional[str]
    """The .data or .yaml file."""


@dataclass(frozen=True)
class Checked:
    """An image that was read completely."""

    image: Path
    digest: bytes
    """A hash of the file's content."""
    classes: np.ndarray
    """(N,) int64."""
    sizes_px: np.ndarray
    """(N, 2) float32: width and height of each box in pixels of the image."""
    labels: Path
    """The label file, which need not be there."""


def check(data: str | Path) -> list[Problem]:
    """Check a data set, print its problems and a table of its figures, and return the problems, without remarks.

    Raises `DataError` when the description itself cannot be used.
    """
    spec = load_data(data)
    same = spec.train == spec.valid
    lists = {"train": spec.train} if same else {"train": spec.train, "valid": spec.valid}
    splits: dict[str, list[Checked]] = {}
    problems: list[Problem] = []
    for split, images in lists.items():
        if images:
            splits[split], found = _check_images(images, spec.num_classes, split)
            problems += found
    if len(splits) == 2:
        problems += _shared_images(splits["train"], splits["valid"])
    report(problems, limit=None)
    if same:
        say("valid is the same list as train, so its figures say nothing about new images")
    for line in _table(splits, spec.names):
        say(line)
    return [problem for problem in problems if not isinstance(problem, Remark)]


def _check_images(images: Sequence[Path], num_classes: int, split: str) -> tuple[list[Checked], list[Problem]]:
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda image: _check_image(image, num_classes), images)
        looked = list(progress(results, f"checking {split}", unit="image", total=len(images)))
    problems = [problem for _, found in looked for problem in found]
    checked = [result for result, _ in looked if result is not None]
    return checked, problems + label_file_problems({result.image: result.labels for result in checked})


def _check_image(image: Path, num_classes: int) -> tuple[Checked | None, list[Problem]]:
    file = label_path(image)
    labels, problems = read_labels(file, num_classes)
    try:
        content = np.fromfile(image, np.uint8)
        height, width = decode_image(content, str(image)).shape[:2]
    except (DataError, OSError) as error:
        return None, [unreadable_image(image, error), *problems]
    sizes = labels[:, 3:] * np.array([width, height], np.float32)
    digest = hashlib.blake2b(content.data, digest_size=16).digest()
    return Checked(image, digest, labels[:, 0].astype(np.int64), sizes, file), problems


def _shared_images(train: list[Checked], valid: list[Checked]) -> list[Problem]:
    seen = {checked.digest: checked.image for checked in train}
    return [
        Problem(checked.image, None, f"image in train and valid: the same content as {seen[checked.digest]}")
        for checked in valid
        if checked.digest in seen
    ]


def _table(splits: dict[str, list[Checked]], names: Sequence[str]) -> list[str]:
    """The lines of a table with a column for each split."""
    figures = {split: _figures(checked, names) for split, checked in splits.items()}
    titles = list(next(iter(figures.values())))
    columns = [["", *titles], *([split, *column.values()] for split, column in figures.items())]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for title, *cells in zip(*columns, strict=True):
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([title.ljust(widths[0]), *numbers]))
    return [*lines, "(small < 32x32 px <= medium < 96x96 px <= large; width and height: median, 5 % - 95 %)"]


def _figures(checked: list[Checked], names: Sequence[str]) -> dict[str, str]:
    """The figures of one split, by their title in the table."""
    sizes = np.concatenate([np.empty((0, 2), np.float32), *(image.sizes_px for image in checked)])
    classes = np.concatenate([np.empty(0, np.int64), *(image.classes for image in checked)])
    areas = sizes.prod(axis=1)
    counts = {
        "images": len(checked),
        "  without boxes": sum(not len(image.classes) for image in checked),
        "boxes": len(classes),
        "  small": int((areas < SMALL).sum()),
        "  medium": int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
        "  large": int((areas >= MEDIUM).sum()),
    }
    figures = {title: f"{count:,}" for title, count in counts.items()}
    figures |= {"box width, px": _spread(sizes[:, 0]), "box height, px": _spread(sizes[:, 1])}
    per_class = np.bincount(classes, minlength=len(names))
    return figures | {f"class {i} {name}": f"{per_class[i]:,}" for i, name in enumerate(names)}


def _spread(lengths: np.ndarray) -> str:
    if not len(lengths):
        return "-"
    low, median, high = np.percentile(lengths, [5, 50, 95])
    return f"{median:.0f}, {low:.0f} - {high:.0f}"


def main(argv: list[str] | None = None) -> None:
    """The command line."""

    def command(options: CheckOptions) -> None:
        if check(options.data):
            raise SystemExit(1)

    run_command(command, CheckOptions, "Check every image and label of a data set.", argv)


if __name__ == "__main__":
    main()
