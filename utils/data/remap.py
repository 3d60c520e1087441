"""`python -m utils.data.remap DATA DST car=vehicle truck=vehicle dog=`: rename, merge and drop classes.

DST becomes a data set of its own, with the training and validation images linked to; what it was made of stays.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import tyro

from utils.data.annotations import Annotations, Box, Picture
from utils.data.datafile import load_data
from utils.data.formats import finish
from utils.data.labels import Remark, Sample, load_samples, pixel_boxes, report
from utils.errors import DataError
from utils.files import check_empty
from utils.options import check_types, run_command


@dataclass(frozen=True)
class RemapOptions:
    """What to change."""

    data: tyro.conf.Positional[str]
    """The .data or .yaml file."""
    destination: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to make."""
    changes: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="OLD=NEW ...")]
    """OLD=NEW renames a class, or merges it into one of that name; OLD= drops its boxes."""
    copy: bool = False
    """Copy the images instead of linking to them."""


def new_names(names: tuple[str, ...], changes: tuple[str, ...]) -> dict[str, str]:
    """Each class's new name, "" for a dropped one. Raises `DataError` for a change that cannot be made."""
    wanted = {name: name for name in names}
    changed = set()
    for change in changes:
        old, equals, new = (part.strip() for part in change.partition("="))
        if not equals or old not in wanted:
            raise DataError(f"{change}: expected OLD=NEW or OLD=, OLD one of {', '.join(names)}")
        if old in changed:
            raise DataError(f"{change}: {old} was changed before")
        changed.add(old)
        wanted[old] = new
    if not any(wanted.values()):
        raise DataError("expected some class to be left")
    return wanted


def remap(options: RemapOptions) -> None:
    """Write the data set. Raises `DataError` for bad input."""
    check_types(options)
    check_empty(options.destination)
    spec = load_data(options.data)
    if not options.changes:
        raise DataError("expected changes, such as car=vehicle")
    wanted = new_names(spec.names, options.changes)
    lists = {"train": spec.train or spec.valid}
    if spec.train and spec.valid and spec.valid != spec.train:
        lists["valid"] = spec.valid
    splits = {}
    for split, images in lists.items():
        samples, problems = load_samples(images, spec.num_classes, split)
        pictures = [_picture(sample, number, spec.names, wanted) for number, sample in enumerate(samples)]
        report([problem for problem in problems if isinstance(problem, Remark)])
        splits[split] = Annotations(pictures, [problem for problem in problems if not isinstance(problem, Remark)])
    left = tuple(dict.fromkeys(name for name in wanted.values() if name))
    finish(options.destination, splits, left, options.copy)


def _picture(sample: Sample, number: int, names: tuple[str, ...], wanted: dict[str, str]) -> Picture:
    width, height = sample.size
    boxes = [
        Box(wanted[names[int(label)]], x1, y1, x2, y2)
        for label, x1, y1, x2, y2 in pixel_boxes(sample.labels, width, height).tolist()
        if wanted[names[int(label)]]
    ]
    # two classes that become one may have had the same box
    return Picture(sample.image, numbered_name(sample.image, number), width, height, list(dict.fromkeys(boxes)))


def numbered_name(image: Path, number: int) -> PurePosixPath:
    """A file name that no other image of the data set has, whatever folders they come from."""
    return PurePosixPath(f"{number:06d}_{image.name}")


if __name__ == "__main__":
    run_command(remap, RemapOptions, "Rename, merge and drop classes of a data set.")
