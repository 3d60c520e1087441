"""Find objects in images and videos: `python detect.py --weights runs/train/exp/best.pt --source photo.jpg`."""

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
from utils.files import new_run_folder, write_text
from utils.inference.predictor import Predictor
from utils.inference.result import Result
from utils.inference.writer import Writer
from utils.log import counted, say
from utils.names import read_names
from utils.options import check_thresholds, choose_device, parse_size, run_command


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
    save_json: bool = False
    """Also write detections.json."""
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
    source = open_source(options.source)
    model = load_model(options.cfg, options.weights, device=device, names=given_names(options))
    size = parse_size(options.img_size) or (model.graph.net.width, model.graph.net.height)
    model.check_size(*size)
    model.to(memory_format=torch.channels_last)
    predictor = Predictor(model, model.names, size, options.conf, options.iou, options.stretch)
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
            labels = [f"{box.name} {box.score:.2f}" for box in result.boxes]
            classes = [box.class_index for box in result.boxes]
            writer.write(frame, draw_boxes(frame.image, result.corners(), labels, classes))
    if options.save_json:
        write_text(folder / "detections.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
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


def describe(frame: Frame, result: Result) -> dict[str, Any]:
    """One entry of detections.json; video frames also have their index."""
    boxes = [box.to_dict() for box in result.boxes]
    row: dict[str, Any] = {"path": str(frame.path), "width": result.width, "height": result.height, "boxes": boxes}
    return row if frame.index is None else {**row, "frame": frame.index}


if __name__ == "__main__":
    run_command(detect, DetectOptions, "Find objects in images and videos.")
