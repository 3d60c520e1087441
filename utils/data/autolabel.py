"""`python -m utils.data.autolabel runs/detect/exp/detections.json DST --conf 0.5`: detections as labels to correct.

First `python detect.py --source FOLDER --save-json`. DST becomes a data set: the images linked to, and a label file
for each with the boxes above the confidence, for a person to correct before anything is trained on it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from utils.data.annotations import Annotations, Box, check_class_name
from utils.data.formats import finish
from utils.data.remap import numbered_name
from utils.errors import DataError
from utils.files import check_empty, find_file
from utils.log import counted, warn
from utils.names import read_names
from utils.options import check_types, run_command


@dataclass(frozen=True)
class AutolabelOptions:
    """Which detections become labels."""

    detections: tyro.conf.Positional[str]
    """detections.json, as `detect.py --save-json` writes it."""
    destination: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to make."""
    conf: float = 0.5
    """Least score of a box that becomes a label."""
    names: Path | None = None
    """File of the network's class names, one a line (default: the names of the classes that were found)."""
    copy: bool = False
    """Copy the images instead of linking to them."""


def autolabel(options: AutolabelOptions) -> None:
    """Write the data set. Raises `DataError` for bad input."""
    check_types(options)
    check_empty(options.destination)
    file = find_file(options.detections, "runs/detect", DataError)
    annotations, found, frames = Annotations(), dict[int, str](), 0
    for row in _rows(file):
        try:
            for box in row["boxes"]:
                label, name = int(box["class"]), check_class_name(str(box["name"]))
                if found.setdefault(label, name) != name or list(found.values()).count(name) > 1:
                    raise ValueError(f"expected one name a class, got {name!r} for {label} and another")
            if "frame" in row:
                frames += 1
                continue
            image = Path(row["path"])
            picture = annotations.add_picture(image, numbered_name(image, len(annotations.pictures)), None, file)
            for box in row["boxes"] if picture is not None else ():
                if box["score"] >= options.conf:
                    edges = (float(box[key]) for key in ("x1", "y1", "x2", "y2"))
                    assert picture is not None
                    annotations.add_box(picture, Box(found[int(box["class"])], *edges), file, f"in {image.name}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{file}: not what detect.py --save-json writes ({error!r})") from None
    if frames:
        warn(f"{counted(frames, 'video frame')} left out: only images can be labelled")
    if not annotations.pictures:
        raise DataError(
            f"{file}: no image in it can be read; it has them by their paths, as seen from where detect ran"
        )
    names = read_names(options.names) if options.names is not None else tuple(found[label] for label in sorted(found))
    unknown = sorted(set(found.values()) - set(names))
    if unknown:
        raise DataError(f"{options.names}: expected the network's classes, {', '.join(unknown)} is not among them")
    if not names:
        raise DataError(f"{file}: nothing was found in any image; expected --names FILE then")
    finish(options.destination, {"train": annotations}, names, options.copy)


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not a JSON file ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: expected a list of pictures, as detect.py --save-json writes it")
    return rows


if __name__ == "__main__":
    run_command(autolabel, AutolabelOptions, "Make label files of detections, for a person to correct.")
