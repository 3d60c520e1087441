"""Classify images with GhostNet: `python classify.py train`, `val`, `predict` and `widths`.

`python classify.py train` alone learns the embedded shapes, cut out of their pictures.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from ghost import GhostNet, net_of
from utils.data.classes import ClassData, listed, load_classes
from utils.data.classification import ClassTrainingSet, square, to_planes
from utils.data.sampler import StepSampler
from utils.data.sources import open_source
from utils.errors import DataError, InputError, WeightsError
from utils.evaluation.class_plots import draw_class_confusion, draw_least_sure
from utils.evaluation.classification import (
    TOP,
    ClassifierMetrics,
    Classifying,
    classify,
    measure_classes,
    probabilities_by,
)
from utils.files import find_file, new_run_folder, whole_file, write_text
from utils.log import counted, say
from utils.network.backbone import CLASSIFIER, read_state
from utils.network.ghosts import Variant, classifier_cfg, parse_classifier
from utils.network.summary import trace
from utils.network.weights import Checkpoint, is_own, load_tensors, read_checkpoint, read_content, save_checkpoint
from utils.options import check_loading, check_types, choose_device, run_command
from utils.precision import choose_precision, precision_words
from utils.runtimes.opening import find_exported, open_for_command
from utils.training.checkpoint import data_fingerprint, find_run, reopen, resumed_options
from utils.training.classification import ClassLoss, ClassRun, ClassSettings, mixing
from utils.training.classify_options import ClassTrainOptions, check_class_options
from utils.training.conduct import check_shares, conduct, make_trainee, seed_everything
from utils.training.distributed import Ranks
from utils.training.run import Callback, TrainResult
from utils.training.stop import StopRequest
from utils.training.trouble import check_workers
from utils.training.widths import WidthsOptions, study_widths

RUNS = "runs/classify"
DEFAULT_WIDTH, DEFAULT_SIZE = 0.5, 64
PUBLISHED_SIZE = 224  # input side of the published networks
FEW_STEPS = 300  # in a whole training


class Classifier(GhostNet):
    """A GhostNet with what it was trained for: class names, input side in pixels; and the images seen in training."""

    def __init__(
        self,
        names: Sequence[str],
        width_mult: float = DEFAULT_WIDTH,
        variant: Variant = "release",
        img_size: int = DEFAULT_SIZE,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(len(names), width_mult, variant, dropout)
        self.names, self.img_size, self.seen = list(names), img_size, 0


def save_classifier(model: Classifier, path: str | Path, training: dict[str, Any] | None = None) -> None:
    """Write a .pt, which may carry a training's state."""
    cfg = classifier_cfg(model.variant, model.width_mult, model.num_classes, model.img_size)
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(path, Checkpoint(cfg, tuple(model.names), tensors, model.seen, training))


def load_classifier(weights: str | Path) -> Classifier:
    """The network of a .pt by this command, or a published GhostNet, in eval mode. Raises WeightsError or CfgError.

    A bare name is found in weights/. Published networks have no class names: theirs are class_0 and so on.
    """
    file = find_file(weights, "weights", WeightsError)
    if file.suffix != ".safetensors" and is_own(read_content(file, CLASSIFIER)):
        checkpoint = read_checkpoint(file)
        variant, width, size = parse_classifier(checkpoint.cfg, f"the cfg inside {file}")
        if not checkpoint.names:
            raise WeightsError(f"{file}: expected class names, got none")
        model = Classifier(checkpoint.names, width, variant, size)
        load_tensors(model, checkpoint.tensors, file)
        model.seen = checkpoint.seen
        return model.eval()
    network = net_of(read_state(file), file)
    names = [f"class_{index}" for index in range(network.num_classes)]
    model = Classifier(names, network.width_mult, network.variant, PUBLISHED_SIZE)
    model.load_state_dict(network.state_dict())
    return model.eval()


def open_classifier(weights: str, device: str) -> tuple[Classifying, tuple[str, ...], int]:
    """A classifier, one that export.py wrote in its runtime; its class names and input side. Raises InputError."""
    exported = find_exported(weights)
    if exported is None:
        model = load_classifier(weights)
        model.to(choose_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model, tuple(model.names), model.img_size
    runtime = open_for_command(exported, device, None, {}, "classify")
    return runtime, runtime.info.names, runtime.info.size[0]


# ---- Training ------------------------------------------------------------------------------------------------------


def train(options: ClassTrainOptions, callback: Callback | None = None) -> TrainResult:
    """Train, validate each epoch, keep the last and the best weights; or go on with a stopped training.

    Raises InputError for bad input before any training, and Stopped when SIGINT or SIGTERM ended it in good order.
    """
    return conduct(options, checked, prepare, callback, "classify.py train", RUNS)


def checked(options: ClassTrainOptions) -> ClassTrainOptions:
    """The options. Raises InputError for values that cannot be trained with."""
    check_class_options(options)
    return options


def prepare(
    options: ClassTrainOptions,
    ranks: Ranks,
    stop: StopRequest,
    checkpoint: Checkpoint | None = None,
    folder: Path | None = None,
) -> ClassRun:
    """Everything a training needs, built and checked. Nothing is written but a new run folder, unless one is given."""
    device = choose_device(options.device)
    seed_everything(options.seed, device)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:  # small steps wait long for a core in use
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - options.workers))
    # on a CPU these many small layers take no less time in bfloat16, often more
    dtype = choose_precision("off" if options.amp == "auto" and device.type == "cpu" else options.amp, device)
    data = load_classes(options.data, options.seed, None if checkpoint is None else checkpoint.names)
    check_parts(data, options.data)
    fingerprint = data_fingerprint([*data.train, *data.valid])
    options = replace(options, data=str(data.path))  # found again when resumed from another folder
    model, notes = build(options, data, checkpoint)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    check_shares(options.batch_size, len(data.train), ranks)
    size, own_batch = model.img_size, options.batch_size // ranks.world
    if min(own_batch, len(data.train) // ranks.world) < 2:
        raise InputError(f"{options.data}: expected two images a step and process, for batch normalisation")
    check_workers(options.workers, own_batch, (size, size), ranks.local_world)
    for note in notes:
        say(note)
    say(f"{device}, {precision_words(dtype)}" + (f", {ranks.world} processes" if ranks.world > 1 else ""))
    dataset = ClassTrainingSet(data.train, size, options.augmentation(), options.seed)
    sampler = StepSampler(len(data.train), own_batch, (size, size), options.seed, ranks.rank, ranks.world)
    if sampler.steps * options.epochs < FEW_STEPS:
        say(
            f"{counted(sampler.steps * options.epochs, 'step')} in all, which is little to learn from: "
            "take a smaller --batch-size or more --epochs"
        )
    if folder is None:
        folder = ranks.share(new_run_folder(options.project or RUNS, options.name) if ranks.first else Path())
    criterion = ClassLoss(options.label_smoothing)
    trainee = make_trainee(model, criterion, options, sampler.steps, folder, dtype, ranks)
    trainee.prepare = mixing(len(data.names), options.mixup, options.cutmix)
    settings = ClassSettings(size, own_batch, options.workers, dtype)
    return ClassRun(
        options,
        folder,
        model,
        save_classifier,
        trainee,
        dataset,
        sampler,
        data.valid,
        settings,
        fingerprint,
        ranks,
        stop,
    )


def check_parts(data: ClassData, name: str) -> None:
    """Say what there is. Raises DataError unless each class has something to learn from, and any to validate on."""
    known = {sample.label for sample in data.train}
    missing = [data.names[index] for index in range(len(data.names)) if index not in known]
    if missing or not data.valid:
        got = f"none of {listed(missing)}" if missing else "no validation images"
        raise DataError(f"{name}: expected training images of each class, and validation images; got {got}")
    for index in sorted(known - {sample.label for sample in data.valid}):
        say(f"{name}: no validation images of {data.names[index]}")
    held = " (a fifth, held out by --seed: the data has no validation part)" if data.chosen else ""
    say(
        f"{data.path.name}: {counted(len(data.names), 'class', 'classes')}, "
        f"{counted(len(data.train), 'training image')}, {counted(len(data.valid), 'validation image')}{held}"
    )


def build(options: ClassTrainOptions, data: ClassData, checkpoint: Checkpoint | None) -> tuple[Classifier, list[str]]:
    """The network for the data, its starting weights loaded, and what to tell of both."""
    if checkpoint is not None:
        kind, wide, side = parse_classifier(checkpoint.cfg, "the checkpoint's cfg")
        model = Classifier(checkpoint.names, wide, kind, side, options.dropout)
        model.seen = checkpoint.seen
        return model, []
    notes = []
    start = None if options.weights is None else load_classifier(options.weights)
    width, variant, size = options.width, options.variant, options.img_size
    if start is not None:
        for flag, given, own in (("width", width, start.width_mult), ("variant", variant, start.variant)):
            if given not in (None, own):
                raise InputError(f"--{flag} {given}: {options.weights} has {own}; leave it out")
        width, variant, size = start.width_mult, start.variant, size or start.img_size
    model = Classifier(data.names, width or DEFAULT_WIDTH, variant or "release", size or DEFAULT_SIZE, options.dropout)
    if start is not None:
        last = f"classifier.{len(model.classifier) - 1}."
        same = tuple(start.names) == data.names
        count = load_tensors(model, start.state_dict(), str(options.weights), () if same else (last,))
        notes.append(f"weights from {options.weights}: {count} tensors" + ("" if same else ", all but the last layer"))
    rows = trace(model, torch.zeros(1, 3, model.img_size, model.img_size))
    parameters, macs = sum(row.parameters for row in rows), sum(row.macs for row in rows)
    notes.append(
        f"GhostNet {model.width_mult:g}x ({model.variant}), {model.img_size}x{model.img_size}: "
        f"{parameters:,} parameters, {macs / 1e6:.1f} M multiply-adds"
    )
    return model, notes


# ---- Measuring and using -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassValOptions:
    """Measure a classifier."""

    weights: str
    """A .pt by classify.py, what export.py made of one, or a published GhostNet."""
    data: str
    """A folder with train/CLASS/ and valid/CLASS/, or CLASS/ alone, or a CSV file; shapes: the embedded shapes."""
    seed: int = 0
    """Of the training: by it a fifth was held out where the data has no validation part."""
    part: str = "valid"
    """Which images: train, valid or test."""
    batch_size: int = 32
    """Images per step."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    name: str = "exp"
    """Results go to runs/classify-val/NAME (NAME-2 ... where it exists)."""


def validate(options: ClassValOptions) -> ClassifierMetrics:
    """Measure, print each class's figures, and write metrics.json, confusion.png and predictions.jpg."""
    check_types(options)
    check_loading(options.batch_size, options.workers)
    if options.part not in ("train", "valid", "test"):
        raise InputError(f"--part {options.part}: expected train, valid or test")
    model, names, size = open_classifier(options.weights, options.device)
    data = load_classes(options.data, options.seed, names)
    samples = getattr(data, options.part)
    if not samples:
        raise DataError(f"{options.data}: expected {options.part} images, got none")
    if data.chosen:
        say(f"{options.data} has no validation part: a fifth is held out by --seed {options.seed}, as in a training")
    folder = new_run_folder("runs/classify-val", options.name)
    loader = ClassSettings(size, options.batch_size, options.workers, None).loader(samples)
    predictions = classify(model, len(names), loader, None, "classifying")
    metrics = measure_classes(predictions, names)
    if not metrics.images:
        raise DataError(f"{options.data}: none of {counted(len(samples), 'image')} can be read")
    write_text(folder / "metrics.json", json.dumps({"options": asdict(options), **asdict(metrics)}, indent=2) + "\n")
    draw_class_confusion(folder / "confusion.png", predictions, names)
    draw_least_sure(folder / "predictions.jpg", predictions, loader.dataset, names)  # type: ignore[arg-type]
    say(metrics.table())
    say(f"{counted(metrics.images, 'image')}: {metrics}, cross-entropy {metrics.loss:.3f}; results in {folder}")
    return metrics


@dataclass(frozen=True)
class PredictOptions:
    """Say what images show."""

    weights: str
    """A .pt by classify.py, what export.py made of one, or a published GhostNet."""
    source: str
    """An image, a folder, a pattern, a list, a video, a URL: whatever detect.py takes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    name: str = "exp"
    """Results go to runs/classify-predict/NAME (NAME-2 ... where it exists)."""


def predict(options: PredictOptions) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Each picture's path and its up to five most likely classes with their probabilities, the likeliest first.

    Raises InputError for weights or a source that cannot be used.
    """
    check_types(options)
    model, names, size = open_classifier(options.weights, options.device)
    frames = open_source(options.source).frames()
    compute = probabilities_by(model)

    def results() -> Iterator[tuple[str, list[tuple[str, float]]]]:
        for frame in frames:
            likely = compute(square(to_planes(frame.image), size)[None])[0]
            path = frame.path if frame.index is None else f"{frame.path}#{frame.index}"
            yield path, [(names[index], float(likely[index])) for index in np.argsort(-likely, kind="stable")[:TOP]]

    return results()


def print_predictions(options: PredictOptions) -> None:
    """Print each picture's first five classes, and write them as predictions.csv, also when it is stopped."""
    results = predict(options)
    rows: list[tuple[Any, ...]] = []
    pictures, first = 0, next(results, None)  # an error before the folder
    if first is None:
        raise DataError(f"{options.source}: expected a picture, got none")
    folder = new_run_folder("runs/classify-predict", options.name)
    try:
        for path, best in chain([first], results):
            say(f"{path}: " + ", ".join(f"{name} {value:.3f}" for name, value in best))
            rows += [(path, rank, name, f"{value:.6f}") for rank, (name, value) in enumerate(best, start=1)]
            pictures += 1
    finally:
        with whole_file(folder / "predictions.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "rank", "class", "probability"), *rows])
        say(f"{counted(pictures, 'picture')}; results in {folder}")


Command = (
    Annotated[ClassTrainOptions, tyro.conf.subcommand("train", description="Train a classifier.")]
    | Annotated[ClassValOptions, tyro.conf.subcommand("val", description="Measure a classifier.")]
    | Annotated[PredictOptions, tyro.conf.subcommand("predict", description="Say what images show.")]
    | Annotated[WidthsOptions, tyro.conf.subcommand("widths", description="Train several widths and compare them.")]
)


def main(options: ClassTrainOptions | ClassValOptions | PredictOptions | WidthsOptions) -> None:
    """Do what was asked for."""
    if isinstance(options, ClassTrainOptions):
        if options.resume is not None:
            reopen(find_run(options.resume, RUNS), options, explicit=True)
        train(options)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("expected a single process: torchrun is for `classify.py train`")
    elif isinstance(options, ClassValOptions):
        validate(options)
    elif isinstance(options, PredictOptions):
        print_predictions(options)
    else:
        study_widths(options, train, load_classifier)


def command_defaults(arguments: list[str]) -> ClassTrainOptions | None:
    """With `train --resume` the stopped training's options, so that what else stands on the command line is noticed."""
    return resumed_options(arguments, ClassTrainOptions, RUNS) if arguments[:1] == ["train"] else None


if __name__ == "__main__":
    run_command(main, Command, "Classify images with GhostNet.", defaults=command_defaults)
