"""Measure a detector: `python test.py --weights runs/train/exp/best.pt --data shapes.data`; compare two of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from models import load_model
from utils.data.coco import CocoTruth, read_truth
from utils.data.datafile import DataSpec, load_data
from utils.data.labels import load_samples, report
from utils.errors import DataError, InputError
from utils.evaluation.compare import Comparison, Measurement, compare, draw_comparison
from utils.evaluation.evaluate import EvaluationSettings, collect, evaluation_loader
from utils.evaluation.metrics import ImageResult, Metrics
from utils.evaluation.pictures import draw_beside_labels, draw_worst
from utils.evaluation.plots import draw_confusion, draw_curves
from utils.evaluation.report import make_report
from utils.files import find_file, new_run_folder, write_text
from utils.log import counted, say
from utils.names import pick_classes
from utils.options import check_loading, check_thresholds, choose_device, parse_size, run_command
from utils.precision import half_precision


@dataclass(frozen=True)
class TestOptions:
    """Options of test.py."""

    weights: str | None = None
    """Weights to measure, .weights or .pt; a bare name is found in weights/."""
    cfg: str | None = None
    """Network, a Darknet .cfg (default: the one inside the .pt)."""
    data: str = "shapes.data"
    """Data set whose images are measured on, a Darknet .data or a .yaml."""
    task: Literal["val", "train"] = "val"
    """Its validation or its training images."""
    conf: float = 0.001
    """Confidence over which every (box, class) pair counts."""
    iou: float = 0.6
    """IoU over which NMS takes two boxes for the same object."""
    max_det: int = 300
    """Detections an image that are kept, the best."""
    agnostic_nms: bool = False
    """NMS over all classes together."""
    classes: str | None = None
    """Measure only these classes, by name or number: `0,2` or `cat,dog`."""
    single_cls: bool = False
    """Take all classes as one."""
    stretch: bool = False
    """Stretch images to the network's size, as Darknet does by default, instead of letterboxing."""
    half: bool = False
    """Compute in bfloat16 or float16, where the device has it natively."""
    batch_size: int = 16
    """Images per step."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    save_json: bool = False
    """Also write predictions.json, in the format of COCO results."""
    save_txt: bool = False
    """Also write labels/IMAGE.txt, a detection a line: class, centre x, y, width, height (0 to 1), confidence."""
    compare: tuple[str, str] | None = None
    """Measure nothing; compare the metrics.json of two measurements of the same images instead."""
    name: str = "exp"
    """Results go to runs/test/NAME (NAME-2 ... where it exists)."""


@dataclass(frozen=True)
class TestResult:
    """Where the numbers were written, and the numbers."""

    folder: Path
    metrics: Metrics


def test(options: TestOptions) -> TestResult:
    """Measure AP and what is behind it; write metrics.json and pictures. Raises InputError for bad input."""
    if options.weights is None:
        raise InputError("--weights: expected the weights to measure (or --compare A B)")
    device = choose_device(options.device)
    check_thresholds(options.conf, options.iou)
    check_loading(options.batch_size, options.workers)
    if options.max_det < 1:
        raise InputError(f"--max-det {options.max_det}: expected at least 1")
    dtype = half_precision(device) if options.half else None
    spec = load_data(options.data)
    images, key = (spec.valid, "valid") if options.task == "val" else (spec.train, "train")
    if not images:
        raise DataError(f"{spec.path}: expected the key {key}, which test.py needs")
    model = load_model(options.cfg, options.weights, device=device)
    if model.num_classes != spec.num_classes and not (options.single_cls and model.num_classes == 1):
        raise InputError(
            f"the network has {model.num_classes} classes, {options.data} has {spec.num_classes}: expected the same "
            "(a training on this data leaves a fitted model.cfg beside its weights)"
        )
    chosen = pick_classes(options.classes, spec.names)
    size = parse_size(options.img_size) or (model.graph.net.width, model.graph.net.height)
    model.check_size(*size)
    model.to(memory_format=torch.channels_last)
    samples, problems = load_samples(images, spec.num_classes, "images")
    report(problems)
    limits = options.conf, options.iou, options.stretch, options.batch_size, options.workers, dtype
    settings = EvaluationSettings(size, *limits, options.max_det, options.agnostic_nms)
    results = collect(model, samples, settings, "evaluation", evaluation_loader(samples, settings))
    coco = read_truth(spec.annotations, spec.names) if spec.annotations and options.task == "val" else None
    if coco is not None:
        results = [with_objects(result, coco, spec) for result in results]
        if options.single_cls:
            coco = replace(coco, category_ids=(1,))
    results, names = as_asked(results, spec, chosen, options.single_cls)

    measured = make_report(results, names)
    folder = new_run_folder("runs/test", options.name)
    used = {**asdict(options), "img_size": list(size), "resize": "stretch" if options.stretch else "letterbox"}
    measured.save(folder / "metrics.json", used)
    measured.matches.save(folder / "matches.npz", images=np.array([str(result.file) for result in results]))
    draw_curves(folder / "curves.png", measured)
    draw_confusion(folder / "confusion.png", measured)
    draw_beside_labels(folder / "predictions.jpg", results, names, measured.curves.confidence)
    worst = draw_worst(folder / "worst", measured, results)
    if options.save_json:
        write_text(folder / "predictions.json", json.dumps(coco_results(results, coco)) + "\n")
    if options.save_txt:
        write_labels(folder / "labels", results)
    say(measured.table())
    resize = f"{used['resize']} to {size[0]}x{size[1]}"
    say(
        f"{counted(len(results), 'image')}, {resize}; results in {folder}: metrics.json, curves.png, confusion.png, "
        f"predictions.jpg" + (f", worst/ ({counted(len(worst), 'image')})" if worst else "")
    )
    return TestResult(folder, measured.metrics)


def compare_runs(options: TestOptions) -> Comparison:
    """Two measurements' difference, printed and drawn. Raises InputError unless they are of the same images."""
    assert options.compare is not None
    first, second = (Measurement.load(find_file(path, "runs/test")) for path in options.compare)
    comparison = compare(first, second)
    folder = new_run_folder("runs/test", options.name)
    draw_comparison(folder / "comparison.png", comparison, options.compare)
    say(comparison.table())
    say(
        f"A: {options.compare[0]}, B: {options.compare[1]}; {counted(comparison.images, 'image')}, "
        f"drawn in {folder / 'comparison.png'}"
    )
    return comparison


def main(options: TestOptions) -> None:
    """Measure, or compare."""
    if options.compare is not None:
        compare_runs(options)
    else:
        test(options)


def with_objects(result: ImageResult, coco: CocoTruth, spec: DataSpec) -> ImageResult:
    """The result with its annotation file's objects instead of those of the label file."""
    assert result.file is not None
    if result.file.name not in coco.images:
        raise DataError(f"{spec.annotations}: expected all validation images, {result.file.name} is not in it")
    objects = coco.images[result.file.name]
    return replace(result, truth=objects.boxes, area=objects.area, crowd=objects.crowd)


def as_asked(
    results: Sequence[ImageResult], spec: DataSpec, chosen: Sequence[int], single_cls: bool
) -> tuple[list[ImageResult], tuple[str, ...]]:
    """The results with only the chosen classes, or with all as one, and the names of the classes."""

    def reduced(result: ImageResult) -> ImageResult:
        keep = np.isin(result.truth[:, 0], chosen)
        truth = result.truth[keep].copy()
        found = result.found[np.isin(result.found[:, 5], chosen)].copy()
        if single_cls:
            truth[:, 0] = found[:, 5] = 0
        return replace(result, truth=truth, found=found, area=result.areas()[keep], crowd=result.crowds()[keep])

    return [reduced(result) for result in results], ("object",) if single_cls else spec.names


def coco_results(results: Sequence[ImageResult], coco: CocoTruth | None) -> list[dict[str, Any]]:
    """Detections as COCO's result format has them; boxes are left, top, width, height in pixels.

    image_id and category_id are those of the annotation file; without one, the file's name without suffix (a number
    where it is one), and the classes counted from 1.
    """
    rows = []
    for result in results:
        assert result.file is not None
        stem = result.file.stem
        image = int(stem) if stem.isdecimal() else stem
        if coco is not None:
            image = coco.images[result.file.name].image_id
        for x1, y1, x2, y2, score, label in result.found.tolist():
            box = [round(value, 5) for value in (x1, y1, x2 - x1, y2 - y1)]
            category = int(label) + 1 if coco is None else coco.category_ids[int(label)]
            rows.append({"image_id": image, "category_id": category, "bbox": box, "score": round(score, 8)})
    return rows


def write_labels(folder: Path, results: Sequence[ImageResult]) -> None:
    """A text file for each image, also where nothing was found."""
    for result in results:
        assert result.file is not None
        boxes = result.found[:, :4] / np.array([result.width, result.height] * 2)
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = np.column_stack((result.found[:, 5], centres, sides, result.found[:, 4]))
        text = "".join(f"{row[0]:.0f} " + " ".join(f"{value:.6f}" for value in row[1:]) + "\n" for row in rows)
        write_text(folder / f"{result.file.stem}.txt", text)


if __name__ == "__main__":
    run_command(main, TestOptions, "Measure a detector: average precision per class, curves, errors.")
