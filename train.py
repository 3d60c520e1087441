"""Train a detector: `python train.py --cfg ghost-yolov3-tiny.cfg` trains on the embedded shapes."""

import json
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from models import Darknet, load_weights, save_weights
from utils.data.datafile import DataSpec, load_data
from utils.data.dataset import TrainingSet, make_loader
from utils.data.labels import Sample, load_samples, report
from utils.errors import DataError, InputError, WeightsError
from utils.evaluation.evaluate import EvaluationSettings, evaluate
from utils.evaluation.metrics import Metrics
from utils.files import find_file, new_run_folder, write_text
from utils.log import counted, say, warn
from utils.network.graph import Graph, fit_heads, load_graph, num_classes_of
from utils.options import check_loading, choose_device, parse_size, run_command
from utils.training.assign import HeadSpec
from utils.training.engine import EpochResult, train_one_epoch
from utils.training.history import Record, draw_history, write_csv
from utils.training.loss import DetectionLoss
from utils.training.schedule import Average, Schedule, make_optimizer


@dataclass(frozen=True)
class TrainOptions:
    """Options of train.py."""

    cfg: str = "ghost-yolov3-tiny.cfg"
    """Network, a Darknet .cfg; a bare name is found in cfg/."""
    data: str = "shapes.data"
    """Data set, a Darknet .data or a .yaml; the default is the embedded one, drawn on first use."""
    weights: str | None = None
    """Start from these weights (.weights or .pt); the heads are left out where the class counts differ."""
    cutoff: int | None = None
    """Take only the first N layers from a .weights file (backbone files)."""
    epochs: int = 100
    """Times through the training images."""
    batch_size: int = 16
    """Images per step."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    lr: float = 0.004
    """Learning rate after warm-up."""
    seed: int = 0
    """Seed of everything random."""
    name: str = "exp"
    """Results go to runs/train/NAME (NAME-2 ... where it exists)."""


@dataclass(frozen=True)
class TrainResult:
    """Where a training left its results, and the best epoch's AP (fractions of 1)."""

    folder: Path
    best_epoch: int
    metrics: Metrics


def train(options: TrainOptions) -> TrainResult:
    """Train, validate each epoch, keep the last and the best. Raises InputError for bad input, before any training."""
    check_options(options)
    seed_everything(options.seed)
    device = choose_device(options.device)
    graph = load_graph(options.cfg)
    spec = load_data(options.data)
    size = parse_size(options.img_size) or (graph.net.width, graph.net.height)
    model, notes = build_model(replace(graph, net=replace(graph.net, width=size[0], height=size[1])), spec, options)
    model.check_size(*size)
    train_samples, valid_samples = load_both(spec)
    if min(options.batch_size, len(train_samples)) == 1 and max(size) <= model.largest_stride:
        raise InputError(f"one image of {size[0]}x{size[1]} a step: expected more images or a larger --img-size")
    folder = new_run_folder("runs/train", options.name)
    for note in notes:
        say(note)
    write_run_files(folder, model, options)

    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = make_loader(TrainingSet(train_samples, size), options.batch_size, options.workers, True, options.seed)
    criterion = DetectionLoss(
        [HeadSpec(h.anchors, h.num_classes, h.scale_x_y, h.new_coords) for h in model.yolo_layers]
    )
    schedule = Schedule(make_optimizer(model, options.lr), options.lr, options.epochs, len(loader))
    average = Average(model)
    settings = EvaluationSettings(size, batch_size=options.batch_size, workers=options.workers)
    records: list[Record] = []
    best: tuple[int, Metrics] | None = None
    for epoch in range(options.epochs):
        start = time.perf_counter()
        label = f"epoch {epoch + 1}/{options.epochs}"
        result = train_one_epoch(model, criterion, loader, schedule, average, epoch, label)
        trained = time.perf_counter() - start
        average.model.seen = model.seen = model.seen + result.images
        metrics = evaluate(average.model, valid_samples, model.names, settings, "validation")
        records.append(make_record(epoch, result, metrics, trained, time.perf_counter() - start))
        say(f"{label}: AP@.5 {metrics.ap50:.3f}, AP@.5:.95 {metrics.ap:.3f}, {result.images / trained:.1f} images/s")
        save_weights(average.model, folder / "last.pt")
        if best is None or metrics.ap > best[1].ap or (metrics.ap == best[1].ap == 0):
            best = epoch, metrics
            save_weights(average.model, folder / "best.pt")
            save_weights(average.model, folder / "best.weights")
        write_csv(folder / "results.csv", records)
        draw_history(folder / "results.png", records, f"{Path(options.cfg).stem} on {Path(options.data).stem}")
    assert best is not None
    say(best[1].table())
    say(f"best epoch {best[0] + 1}: AP@.5 {best[1].ap50:.3f}, AP@.5:.95 {best[1].ap:.3f}; results in {folder}")
    return TrainResult(folder, best[0] + 1, best[1])


def check_options(options: TrainOptions) -> None:
    """Raise InputError for numbers that cannot be trained with."""
    check_loading(options.batch_size, options.workers)
    if options.epochs < 1:
        raise InputError(f"--epochs {options.epochs}: expected at least 1")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed {options.seed}: expected 0 to {2**32 - 1}")
    if options.cutoff is not None and options.weights is None:
        raise InputError("--cutoff: expected --weights with it")
    if not 0 < options.lr < 10:
        raise InputError(f"--lr {options.lr}: expected a positive number, such as 0.004")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build_model(graph: Graph, spec: DataSpec, options: TrainOptions) -> tuple[Darknet, list[str]]:
    """The network with heads for the data's classes, its starting weights loaded, and what to tell of both."""
    cfg_classes, notes = num_classes_of(graph), []
    if cfg_classes != spec.num_classes:
        graph = fit_heads(graph, spec.num_classes)
        filters = " and ".join(str(head.options.in_channels) for head in graph.heads())
        notes.append(
            f"{options.cfg} has {counted(cfg_classes, 'class', 'classes')}, {options.data} has {spec.num_classes}: "
            f"heads fitted (filters={filters} before [yolo]); the fitted cfg is model.cfg beside the results"
        )
    model = Darknet(graph, spec.names)
    if options.weights is not None:
        file = find_file(options.weights, "weights", WeightsError)
        notes.append("weights from " + load_weights(model, file, options.cutoff, other_classes=cfg_classes))
        model.seen = 0
    return model, notes


def load_both(spec: DataSpec) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples; what is wrong with them is reported. Raises DataError when there are none."""
    for images, key in ((spec.train, "train"), (spec.valid, "valid")):
        if not images:
            raise DataError(f"{spec.path}: expected the key {key}, which train.py needs")
    train_samples, problems = load_samples(spec.train, spec.num_classes, "training images")
    valid_samples, more = load_samples(spec.valid, spec.num_classes, "validation images")
    report(list(dict.fromkeys([*problems, *more])))  # the two may be the same list
    boxes = [sum(len(sample.labels) for sample in samples) for samples in (train_samples, valid_samples)]
    if boxes[0] == 0:
        raise DataError(
            f"{spec.path}: expected labelled training images, got no valid box in {len(train_samples)} images"
        )
    say(
        f"{spec.path.name}: {counted(spec.num_classes, 'class', 'classes')}, "
        f"{counted(len(train_samples), 'training image')} with {counted(boxes[0], 'box', 'boxes')}, "
        f"{counted(len(valid_samples), 'validation image')} with {counted(boxes[1], 'box', 'boxes')}"
    )
    if boxes[1] == 0:
        warn("the validation images have no boxes: AP stays 0, and best.pt is the last epoch")
    return train_samples, valid_samples


def write_run_files(folder: Path, model: Darknet, options: TrainOptions) -> None:
    """model.cfg, model.names and options.json: all that test.py and detect.py need beside the weights."""
    comment = f"{Path(options.cfg).name} as trained on {Path(options.data).name}"
    write_text(folder / "model.cfg", model.graph.to_cfg(comment))
    write_text(folder / "model.names", "\n".join(model.names) + "\n")
    write_text(folder / "options.json", json.dumps(asdict(options), indent=2) + "\n")


def make_record(epoch: int, result: EpochResult, metrics: Metrics, trained: float, total: float) -> Record:
    """One row of results.csv; `trained` and `total` are seconds without and with validation."""
    return Record(
        epoch=epoch + 1,
        box=result.box,
        objectness=result.objectness,
        classes=result.classes,
        ap50=metrics.ap50,
        ap=metrics.ap,
        lr=result.lr,
        images_per_second=result.images / trained,
        seconds=total,
    )


if __name__ == "__main__":
    run_command(train, TrainOptions, "Train a detector on labelled images.")
