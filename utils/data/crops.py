"""`python -m utils.data.crops DATA DST`: cut the labelled boxes out of a data set's images, a folder a class.

DST gets train/CLASS/ and valid/CLASS/, as classify.py takes them. It is built beside its place and renamed when
complete.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro

from utils.data.datafile import load_data
from utils.data.images import read_image
from utils.data.labels import Sample, load_samples, pixel_boxes, report
from utils.errors import DataError
from utils.files import check_empty, whole_folder
from utils.log import counted, progress, say, warn
from utils.options import check_at_least, check_types, run_command

QUALITY = 95  # of the JPEG files


@dataclass(frozen=True)
class CropOptions:
    """What to cut."""

    data: tyro.conf.Positional[str]
    """The .data or .yaml file."""
    destination: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to make."""
    margin: float = 0.15
    """Room on each side, as a share of the box's longer side."""
    min_side: int = 8
    """Leave out boxes whose longer side has fewer pixels."""


def crop(options: CropOptions) -> None:
    """Run the command. Raises `DataError` for bad input."""
    check_types(options)
    if not 0 <= options.margin <= 2:
        raise DataError(f"--margin {options.margin}: expected 0 to 2")
    check_at_least(1, min_side=options.min_side)
    check_empty(options.destination)
    write_crops(options.data, options.destination, options.margin, options.min_side)


def write_crops(data: str, folder: Path, margin: float = 0.15, min_side: int = 8) -> None:
    """Cut a square about each box, its longer side and `margin` of it on either side, as far as the image has it.

    Raises `DataError` for data that cannot be cut, and `FileExistsError` when `folder` exists and is not empty.
    """
    spec = load_data(data)
    for name in spec.names:
        if Path(name).name != name or name.startswith("."):
            raise DataError(f"{spec.path}: class {name!r}: expected a name that a folder can have")
    if len({name.casefold() for name in spec.names}) < len(spec.names):
        raise DataError(f"{spec.path}: expected class names that differ in more than upper and lower case")
    parts = {"train": spec.train or spec.valid, "valid": spec.valid if spec.train and spec.valid != spec.train else ()}
    counts = dict.fromkeys(parts, 0)
    with whole_folder(folder) as partial:
        for part, images in parts.items():
            if images:
                samples, problems = load_samples(images, spec.num_classes, part)
                report(problems)
                for number, sample in enumerate(progress(samples, f"cutting {part} crops", unit="image")):
                    counts[part] += _cut(sample, number, spec.names, partial / part, margin, min_side)
        if not counts["train"]:
            raise DataError(f"{spec.path}: expected boxes of {min_side} pixels or more, found none")
    say(f"{folder}: " + ", ".join(f"{counted(count, 'crop')} in {part}" for part, count in counts.items() if count))


def _cut(sample: Sample, number: int, names: tuple[str, ...], folder: Path, margin: float, min_side: int) -> int:
    """Write the crops of one image; how many."""
    try:
        image = read_image(sample.image)
    except DataError as error:
        warn(f"skipped: {error}")
        return 0
    height, width = image.shape[:2]
    written = 0
    for index, (label, *box) in enumerate(pixel_boxes(sample.labels, width, height).tolist()):
        corners = np.array(box).reshape(2, 2)
        longer = (corners[1] - corners[0]).max()
        if longer < min_side:
            continue
        centre, half = corners.mean(axis=0), longer * (0.5 + margin)
        x1, y1 = np.rint(centre - half).clip(min=0).astype(int).tolist()
        x2, y2 = np.rint(centre + half).clip(max=(width, height)).astype(int).tolist()
        path = folder / names[int(label)] / f"{number:06d}_{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _, content = cv2.imencode(".jpg", image[y1:y2, x1:x2], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        content.tofile(path)
        written += 1
    return written


if __name__ == "__main__":
    run_command(crop, CropOptions, "Cut the labelled boxes out of the images, a folder a class.")
