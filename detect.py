"""Find objects in images and videos: `python detect.py --weights runs/train/exp/best.pt --source photo.jpg`."""

import csv
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import load_model
from utils.data.datafile import load_data
from utils.data.sources import Frame, open_source
from utils.draw import draw_boxes
from utils.errors import InputError
from utils.files import new_run_folder, whole_file, write_text
from utils.inference.predictor import Predictor
from utils.inference.result import Result
from utils.inference.writer import Writer
from utils.log import counted, say
from utils.names import pick_classes, read_names
from utils.network.fuse import fuse
from utils.options import check_thresholds, choose_device, parse_size, run_command
from utils.precision import half_precision


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.py."""

    weights: str
    """Weights, .weights or .pt; a bare name is found in weights/."""
    source: str
    """An image, a folder, a glob pattern (in quotes) or a video file."""
    cfg: str | None = None
    """Network, a Darknet .cfg (default: the one inside the .pt)."""
    names: str | None = None
    """File with class names, one a line."""
    data: str | None = None
    """Data set to take the class names from, a Darknet .data or a .yaml."""
    conf: float = 0.25
    """Least score of a box that is kept."""
    iou: float = 0.45
    """IoU over which NMS takes two boxes for the same object."""
    stretch: bool = False
    """Stretch images to the network's size, as Darknet does by default, instead of letterboxing."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    max_det: int = 300
    """Boxes a picture that are kept, the best."""
    classes: str | None = None
    """Find only these classes, by name or number: `0,2` or `cat,dog`."""
    agnostic_nms: bool = False
    """NMS over all classes together, so that an object has one label."""
    half: bool = False
    """Compute in bfloat16 or float16, where the device has it natively."""
    save_json: bool = False
    """Also write detections.json."""
    save_csv: bool = False
    """Also write detections.csv, a box a line."""
    save_txt: bool = False
    """Also write labels/NAME.txt, a box a line: class, centre x, y, width, height (0 to 1), score."""
    save_crop: bool = False
    """Also write what is inside each box, crops/CLASS/NAME_N.jpg."""
    nosave: bool = False
    """Write no annotated pictures."""
    hide_labels: bool = False
    """Draw the boxes alone."""
    hide_conf: bool = False
    """Leave the scores out of the labels."""
    line_thickness: int | None = None
    """Pixels (default: what suits the picture's size)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    name: str = "exp"
    """Results go to runs/detect/NAME (NAME-2 ... where it exists)."""


@dataclass(frozen=True)
class Detected:
    """Where the annotated copies are, and (source path, Result) of each picture in order."""

    folder: Path
    results: list[tuple[Path, Result]]


def detect(options: DetectOptions) -> Detected:
    """Detect in every image and video frame and write annotated copies. Raises InputError for bad input."""
    device = choose_device(options.device)
    check_thresholds(options.conf, options.iou)
    for flag, number in (("--max-det", options.max_det), ("--line-thickness", options.line_thickness)):
        if number is not None and number < 1:
            raise InputError(f"{flag} {number}: expected at least 1")
    dtype = half_precision(device) if options.half else None
    source = open_source(options.source)
    model = load_model(options.cfg, options.weights, device=device, names=given_names(options))
    size = parse_size(options.img_size) or (model.graph.net.width, model.graph.net.height)
    model.check_size(*size)
    model.to(memory_format=torch.channels_last)
    chosen = None if options.classes is None else pick_classes(options.classes, model.names)
    limits = options.conf, options.iou, options.stretch, options.max_det, options.agnostic_nms, chosen, dtype
    predictor = Predictor(fuse(model), model.names, size, *limits)
    predictor(np.zeros((size[1], size[0], 3), np.uint8))  # the first run of a network is slow; it is not timed
    frames = source.frames()
    first = next(frames)  # nothing readable is an error before anything is written
    folder = new_run_folder("runs/detect", options.name)
    results: list[tuple[Path, Result]] = []
    rows: list[dict[str, Any]] = []
    with Writer(folder) as writer:
        for frame in itertools.chain([first], frames):
            result = predictor(frame.image)
            results.append((frame.path, result))
            rows.append(describe(frame, result))
            where = f"{frame.path}" + ("" if frame.index is None else f" frame {frame.index}")
            say(f"{where}: {result.width}x{result.height}, {result.counts()}, {result.milliseconds:.1f} ms")
            if not options.nosave:
                writer.write(frame, annotated(frame, result, options))
            if options.save_txt:
                writer.write_labels(frame, result)
            if options.save_crop:
                writer.write_crops(frame, result)
    if options.save_json:
        write_text(folder / "detections.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    if options.save_csv:
        write_csv(folder / "detections.csv", rows)
    boxes = sum(len(result.boxes) for _, result in results)
    say(
        f"{counted(boxes, 'box', 'boxes')} in {counted(len(results), 'picture')} "
        f"({'stretch' if options.stretch else 'letterbox'} to {size[0]}x{size[1]}); results in {folder}"
    )
    return Detected(folder, results)


def given_names(options: DetectOptions) -> tuple[str, ...] | None:
    """The class names of --names or --data, None where neither is given."""
    if options.names is not None:
        return read_names(options.names)
    return load_data(options.data).names if options.data is not None else None


def annotated(frame: Frame, result: Result, options: DetectOptions) -> np.ndarray:
    """The picture with its boxes, and what --hide-labels and --hide-conf leave of their labels."""
    labels = [box.name + ("" if options.hide_conf else f" {box.score:.2f}") for box in result.boxes]
    if options.hide_labels:
        labels = [""] * len(labels)
    classes = [box.class_index for box in result.boxes]
    return draw_boxes(frame.image, result.corners(), labels, classes, options.line_thickness)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A line for each box; `frame` is empty for images."""
    keys = ("x1", "y1", "x2", "y2", "score", "class", "name")
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "frame", *keys])
        for row in rows:
            writer.writerows([row["path"], row.get("frame", ""), *(box[key] for key in keys)] for box in row["boxes"])


def describe(frame: Frame, result: Result) -> dict[str, Any]:
    """One entry of detections.json; video frames also have their index."""
    boxes = [box.to_dict() for box in result.boxes]
    row: dict[str, Any] = {"path": str(frame.path), "width": result.width, "height": result.height, "boxes": boxes}
    return row if frame.index is None else {**row, "frame": frame.index}


if __name__ == "__main__":
    run_command(detect, DetectOptions, "Find objects in images and videos.")
