"""Train a detector: `python train.py --cfg ghost-yolov3-tiny.cfg` trains on the embedded shapes."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models import Darknet, is_checkpoint, load_model, load_weights, save_weights
from utils.data.cache import keep_pictures
from utils.data.datafile import DataSpec, load_data
from utils.data.dataset import TrainingSet
from utils.data.labels import Sample, check_boxes, load_samples, report
from utils.data.sampler import StepSampler, rect_sizes
from utils.data.stats import sides_px, small_boxes
from utils.errors import CfgError, DataError, InputError, WeightsError
from utils.evaluation.evaluate import EvaluationSettings
from utils.evaluation.results import read_objects
from utils.files import find_file, new_run_folder
from utils.log import counted, say
from utils.network.backbone import load_backbone
from utils.network.fuse import fuse
from utils.network.graph import Graph, fit_heads, load_graph, num_classes_of, parse_graph, widen_heads
from utils.network.weights import Checkpoint, read_checkpoint
from utils.options import choose_device, parse_size, run_command
from utils.precision import choose_precision, precision_words
from utils.pruning.gammas import Gammas
from utils.pruning.sparsity import Sparsity
from utils.training.anchors import all_anchors, fit_anchors, measure_anchors, with_anchors
from utils.training.assign import head_specs
from utils.training.autobatch import fitting_batch
from utils.training.checkpoint import data_fingerprint, find_run, reopen
from utils.training.conduct import check_shares, conduct, make_trainee, seed_everything
from utils.training.detection import DetectionRun, DistilledRun
from utils.training.distill import Distilled, DistillLoss, check_teacher
from utils.training.distributed import Ranks
from utils.training.freeze import freeze, frozen_layers, ranges
from utils.training.loss import DetectionLoss
from utils.training.options import TrainOptions, check_options, command_defaults
from utils.training.run import Callback, EpochEnd, TrainResult
from utils.training.stop import StopRequest
from utils.training.trouble import check_workers

__all__ = ["EpochEnd", "TrainOptions", "TrainResult", "train"]

DEFAULT_CFG = "ghost-yolov3-tiny.cfg"
LEAST_RECALL = 0.98  # of the anchors, below which it is worth a word


def train(options: TrainOptions, callback: Callback | None = None) -> TrainResult:
    """Train, validate each epoch, keep the last and the best weights; or go on with a stopped training.

    Raises InputError for bad input before any training, and Stopped when SIGINT or SIGTERM ended it in good order.
    """
    return conduct(options, checked, prepare, callback, "train.py", "runs/train")


def checked(options: TrainOptions) -> TrainOptions:
    """The options. Raises InputError for values that cannot be trained with."""
    check_options(options)
    if options.evolve:
        raise InputError("evolve: expected 0 here; call utils.training.evolve.evolve")
    return options


# ---- Preparation ---------------------------------------------------------------------------------------------------


def prepare(
    options: TrainOptions,
    ranks: Ranks,
    stop: StopRequest,
    checkpoint: Checkpoint | None = None,
    folder: Path | None = None,
) -> DetectionRun:
    """Everything a training needs, built and checked, with the network of a checkpoint or of the cfg.

    Nothing is written but a new run folder, unless `folder` is given.
    """
    device = choose_device(options.device)
    seed_everything(options.seed, device)
    dtype = choose_precision(options.amp, device)
    spec = load_data(options.data)
    samples = load_both(spec, ranks, options.single_cls)
    coco = read_objects(spec, samples[1])
    names = ("object",) if options.single_cls else spec.names
    if checkpoint is None:
        graph, cfg = starting_graph(options)
        options = replace(options, cfg=cfg)
        size = parse_size(options.img_size) or (graph.net.width, graph.net.height)
        model, notes = build_model(sized(graph, size), names, samples[0], options)
    else:
        graph = parse_graph(checkpoint.cfg, "the checkpoint's cfg")
        size = graph.net.width, graph.net.height
        if names != checkpoint.names:
            had, has = (", ".join(each) for each in (checkpoint.names, names))
            raise InputError(f"{spec.path}: expected the classes that this training was started with, {had}; got {has}")
        model, notes = Darknet(graph, checkpoint.names), []
        model.seen = checkpoint.seen
    model.check_size(*size)
    if (small := small_boxes(samples[0], size, model.largest_stride)) is not None:
        notes.append(small)
    channels = model.graph.net.channels
    frozen = [] if options.freeze is None else frozen_layers(model.graph, options.freeze)
    blocks = freeze(list(model.blocks), frozen)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"--freeze {options.freeze}: expected fewer layers; nothing would be left to train")
    if frozen:
        notes.append(f"frozen: layers {ranges(frozen)}")
    options, learner, told = with_teacher(options, model, device)
    notes += told
    learner.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    factors = class_factors(options, samples[0], names)
    criterion, alone = (make_criterion(options, model, factors, each) for each in (ranks, Ranks()))
    sparsity = options.sparsity_options()
    gammas = Gammas.of(model) if sparsity is not None else None
    if options.autobatch:
        fitting = min(ranks.gather(fitting_batch(learner, alone, size, device, dtype, channels=channels)))
        options = replace(options, batch_size=fitting * ranks.world)
        notes.append(f"--autobatch: {options.batch_size} images a step")
    check_batch(options, len(samples[0]), model.graph, ranks)
    if options.batch_size > len(samples[0]):
        images = counted(len(samples[0]), "training image")
        notes.append(f"--batch-size {options.batch_size}, {images}: each epoch is one step with all of them")
    own_batch = options.batch_size // ranks.world
    check_workers(options.workers, own_batch, size, ranks.local_world)
    for note in notes:
        say(note)
    where = device if device.type == "cpu" else torch.cuda.get_device_name(device)
    say(f"{where}, {precision_words(dtype)}" + (f", {ranks.world} processes" if ranks.world > 1 else ""))

    sampler = StepSampler(
        len(samples[0]),
        own_batch,
        size,
        options.seed,
        ranks.rank,
        ranks.world,
        rect_sizes([sample.size for sample in samples[0]], size, model.largest_stride) if options.rect else None,
        model.largest_stride if options.multi_scale else None,
    )
    with ranks.in_turn() if options.cache == "disk" else nullcontext():
        pictures = keep_pictures(samples[0], sampler.largest, options.cache, spec.path, ranks.local_world)
    dataset = TrainingSet(pictures, options.augmentation(), options.seed, options.mosaic_epochs, channels)
    if folder is None:
        parent = options.project or "runs/train"
        folder = ranks.share(new_run_folder(parent, options.name) if ranks.first else Path())
    trainee = make_trainee(learner, criterion, options, sampler.steps, folder, dtype, ranks, blocks)
    if sparsity is not None and gammas is not None:
        trainee.regulariser = Sparsity(model, gammas, sparsity, options.epochs)
    settings = EvaluationSettings(
        size, batch_size=own_batch, workers=options.workers, dtype=dtype, channels=channels, vote=options.vote
    )
    options = replace(options, data=str(spec.path))  # found again when resumed from another folder
    fingerprint = data_fingerprint([*samples[0], *samples[1]])
    kind = DetectionRun if options.t_weights is None else DistilledRun
    everything = options, folder, model, save_weights, trainee, dataset, sampler, samples[1], settings, fingerprint
    return kind(*everything, ranks, stop, coco=coco)


def starting_graph(options: TrainOptions) -> tuple[Graph, str]:
    """The network to train and what to call it: --cfg, else the one inside --weights X.pt, else DEFAULT_CFG."""
    if options.cfg is None and options.weights is not None and is_checkpoint(options.weights):
        file = find_file(options.weights, "weights", WeightsError)
        return parse_graph(read_checkpoint(file).cfg, f"the cfg inside {file}"), str(file)
    cfg = options.cfg or DEFAULT_CFG
    return load_graph(cfg, strict=not options.lenient), cfg


def sized(graph: Graph, size: tuple[int, int]) -> Graph:
    """The graph with this input (width, height), its anchors as they are."""
    return replace(graph, net=replace(graph.net, width=size[0], height=size[1]))


def load_both(spec: DataSpec, ranks: Ranks, single_cls: bool) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples; what is wrong with them is reported. Raises DataError when there are none."""
    for images, key in ((spec.train, "train"), (spec.valid, "valid")):
        if not images:
            how = f"; `python -m utils.data.split {spec.path} DST` divides images" if key == "valid" else ""
            raise DataError(f"{spec.path}: expected the key {key}, which train.py needs{how}")
    train_samples, problems = load_samples(spec.train, spec.num_classes, "training images")
    valid_samples, more = load_samples(spec.valid, spec.num_classes, "validation images")
    if ranks.first:
        report(list(dict.fromkeys([*problems, *more])))  # the two may be the same list
    boxes = [sum(len(sample.labels) for sample in samples) for samples in (train_samples, valid_samples)]
    if boxes[0] == 0:
        raise DataError(
            f"{spec.path}: expected labelled training images, got no valid box in {len(train_samples)} images"
        )
    empty = sum(not len(sample.labels) for sample in train_samples)
    say(
        f"{spec.path.name}: {counted(spec.num_classes, 'class', 'classes')}, "
        f"{counted(len(train_samples), 'training image')} with {counted(boxes[0], 'box', 'boxes')}"
        + (f" ({empty:,} without any), " if empty else ", ")
        + f"{counted(len(valid_samples), 'validation image')} with {counted(boxes[1], 'box', 'boxes')}"
    )
    if spec.annotations is None:  # else its objects count
        check_boxes(valid_samples, spec.path, "which epoch's weights are best.pt")
    if single_cls:
        for sample in (*train_samples, *valid_samples):
            sample.labels[:, 0] = 0
    return train_samples, valid_samples


def build_model(
    graph: Graph, names: tuple[str, ...], samples: list[Sample], options: TrainOptions
) -> tuple[Darknet, list[str]]:
    """The network with heads for the data, its starting weights loaded, and what to tell of both."""
    cfg_classes, notes = num_classes_of(graph), []
    if cfg_classes != len(names):
        graph = fit_heads(graph, len(names))
        filters = " and ".join(str(head.options.in_channels) for head in graph.heads())
        notes.append(
            f"{options.cfg} has {counted(cfg_classes, 'class', 'classes')}, "
            f"{options.data} has {len(names)}{' (--single-cls)' if options.single_cls else ''}: "
            f"heads fitted (filters={filters} before [yolo]); the fitted cfg is model.cfg beside the results"
        )
    new_heads = options.weights is None or options.cutoff is not None or cfg_classes != len(names)
    if new_heads and (wider := widen_heads(graph, options.scale_x_y)) != graph:
        graph = wider
        notes.append(f"new heads with scale_x_y={options.scale_x_y:g}, written into model.cfg")
    sides, before = sides_px(samples, (graph.net.width, graph.net.height)), all_anchors(graph)
    quality = measure_anchors(sides, before)
    if options.autoanchor:
        anchors = fit_anchors(sides, len(before), before, options.seed)
        graph = with_anchors(graph, Darknet(graph).strides, anchors)
        notes.append(f"--autoanchor: {quality} before, {measure_anchors(sides, all_anchors(graph))} now")
    elif quality.recall < LEAST_RECALL:
        notes.append(f"the cfg's anchors fit the boxes badly: {quality}; try --autoanchor")
    model = Darknet(graph, names)
    if options.weights is not None:
        file = find_file(options.weights, "weights", WeightsError)
        notes.append("weights from " + load_weights(model, file, options.cutoff, cfg_classes, options.autoanchor))
        model.seen = 0
    if options.backbone is not None:
        file = find_file(options.backbone, "weights", WeightsError)
        notes.append("weights from " + load_backbone(model.graph, list(model.blocks), file))
    return model, notes


def with_teacher(
    options: TrainOptions, student: Darknet, device: torch.device
) -> tuple[TrainOptions, nn.Module, list[str]]:
    """The network with its teacher, on the device and without gradients, where there is one; and what to tell of it.

    The options name its files so that they are found again when resumed from another folder. Raises InputError for a
    teacher that cannot teach the student.
    """
    if options.t_weights is None:
        return options, student, []
    weights, cfg = find_file(options.t_weights, "weights", WeightsError).resolve(), options.t_cfg
    if cfg is not None:
        cfg = str(find_file(cfg, "cfg", CfgError).resolve())
    elif not is_checkpoint(weights):
        raise InputError(f"--t-weights {options.t_weights}: expected --t-cfg with it (only a .pt brings its own)")
    teacher = load_model(cfg, weights)
    check_teacher(student, teacher, options.distillation(), f"teacher {options.t_weights}")
    sizes = [sum(tensor.numel() for tensor in network.parameters()) for network in (teacher, student)]
    note = f"teacher: {options.t_weights}, {sizes[0]:,} parameters; the student has {sizes[1]:,}"
    teacher = fuse(teacher).requires_grad_(False)
    teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = Distilled(student, teacher, hints=options.distill_features > 0)
    return replace(options, t_cfg=cfg, t_weights=str(weights)), learner, [note]


def make_criterion(
    options: TrainOptions, model: Darknet, factors: tuple[float, ...] | None, ranks: Ranks
) -> DetectionLoss | DistillLoss:
    """The loss, with a teacher's parts where there is one; `factors` are those of the classes."""
    detection = DetectionLoss(head_specs(model), options.loss(factors), ranks)
    return detection if options.t_weights is None else DistillLoss(detection, options.distillation())


def class_factors(options: TrainOptions, samples: list[Sample], names: tuple[str, ...]) -> tuple[float, ...] | None:
    """With --class-weights, a factor for each class: the inverse of its labels' count, mean 1 over classes with any.

    No class has more than 10 times the mean before that is set to 1 again; classes without labels have 1.
    """
    if not options.class_weights:
        return None
    counts = np.bincount(np.concatenate([s.labels[:, 0] for s in samples]).astype(int), minlength=len(names))
    inverse = 1 / np.maximum(counts, 1)
    factors = (inverse / inverse[counts > 0].mean()).clip(max=10)
    factors = np.where(counts > 0, factors / factors[counts > 0].mean(), 1)
    return tuple(factors.tolist())


def check_batch(options: TrainOptions, images: int, graph: Graph, ranks: Ranks) -> None:
    """Raise InputError for a batch that cannot be shared out, or one too small for batch normalisation."""
    check_shares(options.batch_size, images, ranks)
    if min(options.batch_size, images) // ranks.world == 1 and normalises_single_values(graph):
        raise InputError(
            f"one image of {graph.net.width}x{graph.net.height} a step: expected more images, since "
            f"batch normalisation has a single value of a channel, behind [avgpool] or in a map of one cell (there a "
            f"larger --img-size helps, too)"
        )


def normalises_single_values(graph: Graph) -> bool:
    """Whether one image gives some batch normalisation a single value of each channel, which cannot be trained with."""
    with torch.device("meta"):
        network = Darknet(graph)
        try:
            network(torch.empty(1, graph.net.channels, graph.net.height, graph.net.width))
        except ValueError:  # by torch.nn.functional.batch_norm; the size itself has been checked
            return True
    return False


def main(options: TrainOptions) -> None:
    """Train, or search for better options."""
    if options.resume is not None:
        reopen(find_run(options.resume), options, explicit=True)
    if options.evolve:
        from utils.training.evolve import evolve  # here: Optuna is for this alone

        evolve(options, train)
    else:
        train(options)


if __name__ == "__main__":
    run_command(main, TrainOptions, "Train a detector on labelled images.", defaults=command_defaults)
