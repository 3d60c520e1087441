"""Measure a detector: `python test.py --weights runs/train/exp/best.pt --data shapes.data`; compare two of them."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from models import load_model
from utils.data.coco import CocoTruth
from utils.data.datafile import DataSpec, load_data
from utils.data.labels import Sample, check_boxes, load_samples, report
from utils.errors import DataError, InputError
from utils.evaluation.compare import Comparison, Measurement, compare, draw_comparison
from utils.evaluation.evaluate import EvaluationSettings, collect, evaluation_loader
from utils.evaluation.metrics import ImageResult, Metrics, measure
from utils.evaluation.pictures import draw_beside_labels, draw_worst
from utils.evaluation.plots import draw_confusion, draw_curves
from utils.evaluation.report import make_report
from utils.evaluation.results import as_asked, coco_results, read_objects, with_objects, write_labels
from utils.evaluation.speed import Speed, StudyPoint, draw_study, study_sizes, time_stages
from utils.files import find_file, new_run_folder, write_text
from utils.inference.augmented import Augmented
from utils.log import counted, say, warn
from utils.names import pick_classes, warn_of_other_names
from utils.options import (
    OnOff,
    check_at_least,
    check_loading,
    check_thresholds,
    check_types,
    choose_device,
    parse_size,
    run_command,
    set_threads,
)
from utils.precision import ComputePrecision, inference_precision, precision_words
from utils.runtimes.opening import find_exported, open_for_command, warn_of_nms
from utils.runtimes.pytorch import describe
from utils.runtimes.runtime import NetworkInfo, Runtime


@dataclass(frozen=True)
class TestOptions:
    """Options of test.py."""

    weights: str | None = None
    """Weights to measure, .weights or .pt, or a network that export.py wrote; a bare name is found in weights/."""
    cfg: str | None = None
    """Network, a Darknet .cfg (default: the one inside the .pt)."""
    data: str = "shapes.data"
    """Data set whose images are measured on, a Darknet .data or a .yaml."""
    task: Literal["val", "train", "test", "speed", "study"] = "val"
    """Measure on the validation, training or test images; `speed`: time the stages; `study`: AP and time of sizes."""
    conf: float = 0.001
    """Confidence over which every (box, class) pair counts."""
    iou: float = 0.6
    """IoU over which NMS takes two boxes for the same object."""
    max_det: int = 300
    """Detections an image that are kept, the best."""
    max_nms: int | None = None
    """Candidates of each class that enter NMS, the best (default: all; 1000 is faster and costs little AP)."""
    agnostic_nms: bool = False
    """NMS over all classes together."""
    vote: OnOff = True
    """Box voting: each box that NMS keeps becomes the score-weighted mean of those that overlap it (off: NMS alone)."""
    classes: str | None = None
    """Measure only these classes, by name or number: `0,2` or `cat,dog`."""
    single_cls: bool = False
    """Take all classes as one."""
    stretch: bool = False
    """Stretch images to the network's size, as Darknet does by default, instead of letterboxing."""
    augment: bool = False
    """Also look at each image mirrored and a fifth larger: finds more, takes 2.5 times as long."""
    rect: bool = False
    """Letterbox each image into the smallest input that it fits into, with as little grey as possible."""
    precision: ComputePrecision = "auto"
    """Compute in f32 or bf16; auto: float32, or with OpenVINO bfloat16 where export.py found it near enough."""
    half: bool = False
    """Compute in bfloat16 or float16, where the device has it natively."""
    batch_size: int = 16
    """Images per step."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """Threads that compute the network on a CPU (default: one for each core)."""
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


@dataclass(frozen=True)
class Subject:
    """What is measured on what, and how."""

    model: nn.Module | Runtime
    stride: int  # the network's largest, in pixels
    spec: DataSpec
    samples: list[Sample]
    settings: EvaluationSettings
    chosen: list[int]  # the classes that were asked for
    coco: CocoTruth | None  # the objects, where the data set names COCO's own file


def prepare(options: TestOptions) -> Subject:
    """Network, images and settings. Raises InputError for bad input."""
    if options.weights is None:
        raise InputError("--weights: expected the weights to measure (or --compare A B)")
    check_types(options)
    device = choose_device(options.device)
    check_thresholds(options.conf, options.iou)
    check_loading(options.batch_size, options.workers)
    check_at_least(1, max_det=options.max_det, **({} if options.max_nms is None else {"max_nms": options.max_nms}))
    if options.rect and options.task in {"speed", "study"}:
        raise InputError(f"--rect with --task {options.task}: expected none; its images have inputs of different sizes")
    if options.rect and options.stretch:
        raise InputError("--rect with --stretch: expected one of them; a stretched image has no grey bars")
    exported = find_exported(options.weights) is not None
    dtype = None if exported else inference_precision(options.precision, options.half, device)
    spec = load_data(options.data, test=options.task == "test")
    chosen = pick_classes(options.classes, spec.names)
    key = options.task if options.task in {"train", "test"} else "valid"
    images = {"train": spec.train, "test": spec.test, "valid": spec.valid}[key]
    if not images:
        raise DataError(f"{spec.path}: expected the key {key}, which test.py needs")
    model, info = load_detector(options)
    num_classes = len(info.names)
    if num_classes != spec.num_classes and not (options.single_cls and num_classes == 1):
        raise InputError(
            f"the network has {num_classes} classes, {options.data} has {spec.num_classes}: expected the same "
            "(a training on this data leaves a fitted model.cfg beside its weights)"
        )
    warn_of_other_names(info.names, spec.names, options.data)
    size = parse_size(options.img_size) or info.size
    info.check_size(*size)
    samples, problems = load_samples(images, spec.num_classes, "images")
    report(problems)
    limits = options.conf, options.iou, options.stretch, options.batch_size, options.workers, dtype
    rect = info.stride if options.rect else None
    agnostic = options.agnostic_nms or options.single_cls  # else a box would count once for each class it may be of
    rules = options.max_det, agnostic, options.max_nms, rect, info.channels, options.vote
    settings = EvaluationSettings(size, *limits, *rules)
    coco = read_objects(spec, samples) if key == "valid" else None
    if coco is None:
        check_boxes(samples, spec.path)
    return Subject(model, info.stride, spec, samples, settings, chosen, coco)


def load_detector(options: TestOptions) -> tuple[nn.Module | Runtime, NetworkInfo]:
    """The network, in PyTorch or in an exported file's runtime, and what there is to know of it. Raises InputError."""
    exported = find_exported(options.weights)
    if exported is not None:
        only = {"cfg": options.cfg, "half": options.half, "augment": options.augment}
        runtime = open_for_command(exported, options.device, options.threads, only, precision=options.precision)
        if runtime.info.nms is not None:
            warn_of_nms(exported, runtime.info, options.conf, options.iou, options.vote)
            warn(f"warning: {exported}: AP is lower than without --nms")
        return runtime, runtime.info
    set_threads(options.threads)
    model = load_model(options.cfg, options.weights, device=choose_device(options.device))
    model.to(memory_format=torch.channels_last)
    return Augmented(model, model.largest_stride).eval() if options.augment else model, describe(model)


def find_all(subject: Subject, settings: EvaluationSettings, description: str = "evaluation") -> list[ImageResult]:
    """Truth and detections of each image."""
    loader = evaluation_loader(subject.samples, settings)
    results = collect(subject.model, subject.samples, settings, description, loader)
    return results if subject.coco is None else [with_objects(result, subject.coco) for result in results]


def test(options: TestOptions) -> TestResult:
    """Measure AP and what is behind it; write metrics.json and pictures. Raises InputError for bad input."""
    subject = prepare(options)
    size, all_names = subject.settings.size, subject.spec.names
    results, names = as_asked(find_all(subject, subject.settings), all_names, subject.chosen, options.single_cls)

    measured = make_report(results, names)
    folder = new_run_folder("runs/test", options.name)
    used = {**asdict(options), "img_size": list(size), "resize": resize_words(options)}
    used["precision"] = computes_in(subject)
    measured.save(folder / "metrics.json", used)
    measured.matches.save(folder / "matches.npz", images=np.array([str(result.file) for result in results]))
    draw_curves(folder / "curves.png", measured)
    draw_confusion(folder / "confusion.png", measured)
    draw_beside_labels(folder / "predictions.jpg", results, names, measured.curves.confidence)
    worst = draw_worst(folder / "worst", measured, results)
    if options.save_json:
        write_text(
            folder / "predictions.json", json.dumps(coco_results(results, subject.coco, options.single_cls)) + "\n"
        )
    if options.save_txt:
        write_labels(folder / "labels", results)
    say(measured.table())
    written = "metrics.json, curves.png, confusion.png, predictions.jpg"
    written += f", worst/ ({counted(len(worst), 'image')})" if worst else ""
    resized = f"{used['resize']} to {size[0]}x{size[1]}"
    say(f"{counted(len(results), 'image')}, {resized}, {computes_in(subject)}; results in {folder}: {written}")
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
    """Measure, time or compare."""
    if options.compare is not None:
        compare_runs(options)
    elif options.task == "speed":
        speed(options)
    elif options.task == "study":
        study(options)
    else:
        test(options)


def computes_in(subject: Subject) -> str:
    """The precision of the network, or of its runtime."""
    return subject.model.precision if isinstance(subject.model, Runtime) else precision_words(subject.settings.dtype)


def resize_words(options: TestOptions) -> str:
    """How images come to the network's size."""
    return "stretch" if options.stretch else "rectangular letterbox" if options.rect else "letterbox"


def speed(options: TestOptions) -> Speed:
    """Print how long an image takes, stage by stage."""
    subject = prepare(options)
    found = time_stages(subject.model, subject.samples, subject.settings)
    size = subject.settings.size
    say(
        f"{size[0]}x{size[1]}, batch 1, confidence {options.conf:g}: resize {found.preprocess:.1f} ms, "
        f"network {found.inference:.1f} ms, NMS {found.nms:.1f} ms, together {found.total:.1f} ms "
        f"(medians; network fused, {computes_in(subject)}, {torch.get_num_threads()} threads)"
    )
    return found


def study(options: TestOptions) -> list[StudyPoint]:
    """AP and time of inputs of half to one and a half times the size: study.json, study.png and a table."""
    subject = prepare(options)
    points = []
    for size in study_sizes(subject.settings.size, subject.stride):
        settings = replace(subject.settings, size=size)
        found = find_all(subject, settings, f"{size[0]}x{size[1]}")
        metrics = measure(*as_asked(found, subject.spec.names, subject.chosen, options.single_cls))
        points.append(StudyPoint(size, metrics.ap50, metrics.ap, time_stages(subject.model, subject.samples, settings)))
    folder = new_run_folder("runs/test", options.name)
    write_text(folder / "study.json", json.dumps([asdict(point) for point in points], indent=2) + "\n")
    draw_study(folder / "study.png", points, f"{options.weights} on {Path(options.data).name}")
    say(f"{'size':>9} {'AP@.5':>8} {'AP@.5:.95':>10} {'ms':>8}")
    for point in points:
        side = f"{point.size[0]}x{point.size[1]}"
        say(f"{side:>9} {point.ap50:8.3f} {point.ap:10.3f} {point.speed.total:8.1f}")
    say(f"{counted(len(points), 'size')}; milliseconds an image at batch 1; results in {folder}: study.json, study.png")
    return points


if __name__ == "__main__":
    run_command(main, TestOptions, "Measure a detector: average precision per class, curves, errors.")
