"""How fast this machine is, and what limits: `python benchmark.py train`, `detect`, `test` or `blocks`.

How good our pruning is beside others': `python benchmark.py pruning`; which runtime to ship: `... export`; where two
networks or runtimes first disagree: `... parity`.
"""

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from detect import AHEAD, DetectOptions, Job
from export import ExportOptions, export
from export import prepare as export_subject
from models import load_model
from prune import start, write_pruned
from train import prepare, train
from utils.clock import Watch, now
from utils.data.cache import CacheMode
from utils.data.datafile import load_data
from utils.data.labels import load_samples
from utils.data.sources import open_source
from utils.deploy.benchmark import (
    ExportBenchmark,
    Row,
    best_batch,
    draw,
    exported_entries,
    latencies,
    load,
    measured,
    pytorch_entries,
    table,
)
from utils.deploy.compare import compare_runtimes
from utils.deploy.formats import KINDS
from utils.deploy.maps import maps_inside
from utils.deploy.parity import PICTURES, ParityBenchmark, Side, Stage, compare_stages, finish
from utils.errors import DataError, InputError
from utils.evaluation.evaluate import EvaluationSettings, evaluation_loader, predict, to_result
from utils.evaluation.metrics import ImageResult
from utils.evaluation.report import make_report
from utils.evaluation.speed import EvaluationBenchmark
from utils.files import new_run_folder, write_text
from utils.inference.pipeline import Behind
from utils.inference.result import Result
from utils.inference.speed import StageCosts, median_ms, show_stages, time_picture
from utils.inference.writer import Outputs, Writer
from utils.letterbox import letterbox, to_channels
from utils.log import counted, progress, say, warn
from utils.network.block_benchmark import BlocksBenchmark, blocks_speed
from utils.network.expand import expanded
from utils.network.fuse import fuse
from utils.options import check_at_least, check_thresholds, choose_device, parse_size, run_command, set_threads
from utils.precision import AmpMode, ComputePrecision, inference_precision
from utils.pruning.comparison import Compared, Method, PruningBenchmark, comparison_table, draw_comparison
from utils.pruning.measuring import standings
from utils.pruning.options import PruneOptions
from utils.pruning.reference import reference_choice
from utils.runtimes.opening import find_exported, open_for_command
from utils.runtimes.pytorch import PyTorch
from utils.runtimes.runtime import Runtime
from utils.training.distill import DistillOptions, check_teacher
from utils.training.distributed import Ranks
from utils.training.options import TrainOptions
from utils.training.pruner import Pruning
from utils.training.recovery import recovery
from utils.training.speed import Speeds, time_training
from utils.training.stop import StopRequest


@dataclass(frozen=True)
class TrainBenchmark:
    """Time the loader, the training step, and both together."""

    cfg: tuple[str, ...] = ("yolov3-tiny.cfg", "ghost-yolov3-tiny-lite.cfg")
    """Networks."""
    img_size: tuple[str, ...] = ("416",)
    """Input sizes in pixels, N or W,H each."""
    data: str = "shapes.data"
    """Data set."""
    batch_size: int = 16
    """Images per step."""
    workers: int = 2
    """Processes that load images."""
    amp: AmpMode = "auto"
    """Numbers of the network: auto, off, bf16 or fp16."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    cache: tuple[Literal["off", "ram", "disk"], ...] = ("off", "ram")
    """Where pictures come from, one line each: off (decoded each time), ram or disk."""
    steps: int = 12
    """Steps per round."""
    rounds: int = 5
    """Rounds; step and end to end take turns, and medians are shown."""


def train_speed(options: TrainBenchmark) -> list[tuple[str, str, str, Speeds]]:
    """Time training for each network, size and source of pictures, and print a table."""
    check_at_least(1, steps=options.steps, rounds=options.rounds)
    rows: list[tuple[str, str, str, Speeds]] = []
    for size in options.img_size:
        for cfg in options.cfg:
            for cache in options.cache:
                rows.append((cfg, size, cache, _measure(options, cfg, size, cache)))
    head = f"{'network':30} {'size':>9} {'cache':>5} {'loader':>8} {'step':>8} {'training':>8} {'share':>6}"
    say(f"\n{head}   {'waiting':>7} {'network':>7} {'weights':>7}")
    for cfg, size, source, speeds in rows:
        say(
            f"{Path(cfg).stem:30} {size:>9} {source:>5} {speeds.loader:8.1f} {speeds.step:8.1f} {speeds.total:8.1f} "
            f"{speeds.total / speeds.step:6.2f}   {speeds.waiting:7.1%} {speeds.gradients:7.1%} {speeds.change:7.1%}"
        )
    say(
        "images a second: loader, one loading process alone; step, the network forward and backward alone; training, "
        "all of it.\nshare: training / step. Of the training's time: waiting for images (on a GPU, the time it is "
        "idle for them),\nnetwork and loss, change of the weights and of their average."
    )
    return rows


def _measure(options: TrainBenchmark, cfg: str, size: str, cache: CacheMode) -> Speeds:
    with tempfile.TemporaryDirectory() as folder:
        training = TrainOptions(
            cfg=cfg,
            data=options.data,
            img_size=size,
            batch_size=options.batch_size,
            workers=options.workers,
            amp=options.amp,
            device=options.device,
            cache=cache,
        )
        run = prepare(training, Ranks(), StopRequest(), folder=Path(folder))
        return time_training(run, options.steps, options.rounds, f"{Path(cfg).stem} {size} cache {cache}")


@dataclass(frozen=True)
class DetectBenchmark:
    """Time the stages of detect.py for an image, and all of them overlapping."""

    weights: str
    """Weights, .weights or .pt; a bare name is found in weights/."""
    cfg: str | None = None
    """Network (default: the one inside the .pt)."""
    data: str = "shapes.data"
    """Data set whose validation images are taken."""
    img_size: str | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    conf: float = 0.25
    """Least score of a box that is kept."""
    precision: ComputePrecision = "auto"
    """Compute in f32 or bf16; auto: float32, or with OpenVINO bfloat16 where export.py found it near enough."""
    half: bool = False
    """Compute in bfloat16 or float16, where the device has it natively."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    images: int = 64
    """Images per round, at most."""
    rounds: int = 5
    """Rounds; the stages and the whole take turns, and medians are shown."""


def detect_speed(options: DetectBenchmark) -> StageCosts:
    """Time detection and print a table."""
    check_at_least(1, rounds=options.rounds)
    check_at_least(2, images=options.images)
    with tempfile.TemporaryDirectory() as folder:
        files = load_data(options.data).valid[: options.images]
        if len(files) < 2:
            raise DataError(f"{options.data}: expected at least two validation images, got {len(files)}")
        listed = Path(folder) / "images.txt"
        write_text(listed, "".join(f"{file}\n" for file in files))
        how = {
            key: getattr(options, key) for key in ("weights", "cfg", "img_size", "conf", "precision", "half", "device")
        }
        job = Job(DetectOptions(source=str(listed), **how))
        stages: dict[str, list[tuple[float, float]]] = {}
        together = []
        for turn in progress(range(options.rounds), "timing", unit="round"):
            for file in files:
                for name, cost in time_picture(job.predictor, str(file), Path(folder) / "alone"):
                    stages.setdefault(name, []).append(cost)
            with Writer(Path(folder) / str(turn), Outputs(), Result.plot) as writer, Behind(writer.write, AHEAD) as end:
                results = job.results()
                end.put(next(results))  # it has had the first run of the network
                start = time.perf_counter()
                for result in results:
                    end.put(result)
            together.append((time.perf_counter() - start) * 1000 / (len(files) - 1))
    medians = {name: median_ms(costs) for name, costs in stages.items()}
    costs = StageCosts(medians, statistics.median(together))
    show_stages(costs, counted(len(files), "image"), ("read", "preprocess", "nms", "draw", "write"))
    return costs


def evaluation_speed(options: EvaluationBenchmark) -> dict[str, float]:
    """Time evaluation and print a table; milliseconds an image of each stage."""
    check_at_least(1, batch_size=options.batch_size, rounds=options.rounds)
    spec = load_data(options.data)
    samples, _ = load_samples(spec.valid, spec.num_classes, "images")
    model = load_model(options.cfg, options.weights, device=choose_device(options.device))
    if model.num_classes != spec.num_classes:
        raise InputError(f"the network has {model.num_classes} classes, {options.data} has {spec.num_classes}")
    size = model.graph.net.width, model.graph.net.height
    settings = EvaluationSettings(
        size,
        options.conf,
        batch_size=options.batch_size,
        workers=0,
        per_class=options.max_nms,
        channels=model.graph.net.channels,
    )
    network = fuse(model.to(memory_format=torch.channels_last))
    times: dict[str, list[float]] = {"load": [], "inference": [], "nms": [], "evaluate": []}
    results: list[ImageResult] = []
    for _ in progress(range(options.rounds), "timing", unit="round"):
        spent = dict.fromkeys(times, 0.0)
        results, watch = [], Watch()
        for batch in evaluation_loader(samples, settings):
            spent["load"] += watch.lap()[0]
            if batch is None:
                continue
            predictions = predict(network, batch.images, settings)
            now(predictions.device)
            spent["inference"] += watch.lap()[0]
            found = [rows.cpu().numpy() for rows in settings.detections(predictions, network)]
            spent["nms"] += watch.lap()[0]
            places = zip(batch.indices, batch.placements, found, strict=True)
            results += [to_result(samples[index], place, rows) for index, place, rows in places]
        watch.lap()
        make_report(results, spec.names)
        spent["evaluate"] += watch.lap()[0]
        for stage, seconds in spent.items():
            times[stage].append(seconds * 1000 / max(1, len(results)))
    medians = {stage: statistics.median(values) for stage, values in times.items()}
    boxes = sum(len(result.found) for result in results) / max(1, len(results))
    say(f"\n{'stage':12} {'ms':>8}")
    for stage, value in medians.items():
        say(f"{stage:12} {value:8.2f}")
    slowest = max(medians, key=lambda stage: medians[stage])
    say(
        f"an image, medians over {counted(options.rounds, 'round')} of {counted(len(results), 'image')} with "
        f"{boxes:.0f} detections each; load is one process alone; {slowest} takes the most"
    )
    return medians


def pruning_quality(options: PruningBenchmark) -> list[Compared]:
    """Prune, train, measure; a table, pruning.json and pruning.png."""
    check_at_least(1, finetune_epochs=options.finetune_epochs)
    keys = ("weights", "data", "cfg", "finetune_epochs", "img_size", "batch_size", "workers", "device", "seed")
    common = PruneOptions(**{key: getattr(options, key) for key in keys}, importance="random")
    teacher = common
    if options.t_weights is not None:
        teacher = replace(common, weights=options.t_weights, cfg=options.t_cfg)
    pruning = start(common)
    whole = load_model(teacher.cfg, teacher.weights, device=pruning.device)
    check_teacher(pruning.model, whole, DistillOptions(), f"--t-weights {teacher.weights}")
    chosen = []
    for goal in dict.fromkeys(options.target_flops):
        for method in dict.fromkeys(options.methods):
            asked, keep = choose(pruning, method, goal)
            chosen.append((method, f"{method}-{goal}", asked, keep))
    folder = new_run_folder(options.project, options.name)
    networks, before = [whole], []
    for _, name, asked, keep in chosen:
        step = folder / name
        step.mkdir()
        before.append(write_pruned(asked, keep, step).after.ap or 0.0)
        networks.append(load_model(weights=train(recovery(teacher, step)).folder / "best.pt", device=pruning.device))
    first, *found = standings(networks, pruning.size, pruning.clock, pruning.precision)
    methods = [method for method, *_ in chosen]
    rows = [Compared(*each) for each in zip(methods, before, found, strict=True)]
    written = {"options": asdict(options), "whole": asdict(first), "pruned": [asdict(row) for row in rows]}
    write_text(folder / "pruning.json", json.dumps(written, indent=2) + "\n")
    title = f"{Path(options.weights).name} pruned and trained for {counted(options.finetune_epochs, 'epoch')}"
    draw_comparison(folder / "pruning.png", first, rows, title)
    say(comparison_table(first, rows))
    say(f"ms: one image, float32, in turns; in {folder}: pruning.json, pruning.png, a folder for each network")
    return rows


def export_speed(options: ExportBenchmark) -> list[Row]:
    """Export to each format there is, run each, and print a table; export.json and export.png."""
    check_at_least(1, rounds=options.rounds)
    asked = ExportOptions(options.weights, options.cfg, data=options.data, img_size=options.img_size)
    asked = replace(asked, dynamic=options.dynamic, max_map_drop=options.max_map_drop, precision="f32")
    set_threads(options.threads)
    subject = export_subject(asked)
    picture = subject.images[0]
    entries = pytorch_entries(subject.job.model)
    with tempfile.TemporaryDirectory() as place:
        for name in KINDS:
            for int8 in (False, True) if KINDS[name].int8 else (False,):
                output = f"{place}/{'int8' if int8 else 'float'}"
                dynamic = options.dynamic and KINDS[name].dynamic
                step = replace(asked, format=name, int8=int8, output=output, dynamic=dynamic, fold_bn=name == "darknet")
                try:
                    (done,) = export(step if int8 else replace(step, data=None))
                except InputError as error:
                    warn(f"{name}{', int8' if int8 else ''} is left out: {error}")
                    continue
                kind = KINDS[name]
                precisions = ("auto",) if kind.precisions is None else kind.precisions()
                entries += exported_entries(done.path, options.threads, int8, precisions)
        loaded = load(entries, picture)
        times = latencies([runtime for _, runtime, _ in loaded], picture, options.rounds)
        rows = []
        for (entry, runtime, start_up), taken in zip(loaded, times, strict=True):
            best = best_batch(runtime, picture, float(np.median(taken)))
            images = [image for image in subject.images if runtime.info.dynamic or image.shape == picture.shape]
            difference = compare_runtimes(subject.reference, runtime, images)
            metrics = subject.average_precision(runtime)
            assert metrics is not None
            rows.append(measured(entry, runtime, start_up, taken, best, difference, metrics))
    folder = new_run_folder("runs/benchmark", options.name)
    written = {"options": asdict(options), "rows": [asdict(row) for row in rows]}
    write_text(folder / "export.json", json.dumps(written, indent=2) + "\n")
    draw(folder / "export.png", rows, f"{Path(options.weights).name} on {Path(options.data).name}")
    say(table(rows))
    say(
        f"ms: one image, from pixels to predictions, in turns; share: of the first row's; "
        f"in {folder}: export.json, export.png"
    )
    return rows


def parity(options: ParityBenchmark) -> list[Stage]:
    """Compare two networks stage by stage; a table, parity.json and parity.png."""
    check_thresholds(options.conf, options.iou)
    darknet = ".cfg" in {Path(options.a).suffix, Path(options.b).suffix}
    sides = (options.a, options.a_cfg), (options.b, options.b_cfg)
    a, b = (open_side(weights, cfg, darknet, options.precision) for weights, cfg in sides)
    size = parse_size(options.img_size) or a.runtime.info.size
    for side in (a, b):
        try:
            side.runtime.info.check_size(*size)
        except InputError as error:
            raise InputError(f"{side.name}: {error}") from None
    frames = itertools.islice(open_source(options.source).frames(), PICTURES)
    images = [to_channels(letterbox(frame.image, *size)[0], a.runtime.info.channels) for frame in frames]
    stages = compare_stages(a, b, images, options.conf, options.iou)
    folder = new_run_folder("runs/benchmark", options.name)
    finish(folder, a, b, stages, counted(len(images), "picture"))
    return stages


def open_side(weights: str, cfg: str | None, darknet: bool, precision: ComputePrecision) -> Side:
    """A network as --a and --b name it; with `darknet` PyTorch's has its ghost blocks written out, as OpenCV's has."""
    exported = find_exported(weights)
    runtime: Runtime
    if exported is None:
        model = load_model(cfg, weights)
        dtype = inference_precision(precision, False, torch.device("cpu"))
        runtime = PyTorch(expanded(model) if darknet else model, dtype)
    else:
        runtime = open_for_command(exported, "auto", None, {"a-cfg or --b-cfg": cfg}, precision=precision)
    return Side(runtime, maps_inside(runtime, exported), weights)


def choose(pruning: Pruning, method: Method, goal: str) -> tuple[Pruning, np.ndarray]:
    """The pruning by this method, and what stays, (groups,) bool. Raises InputError where it cannot reach the goal."""
    if method == "torch-pruning" or method == "torch-pruning-gamma":
        asked = pruning.asked(replace(pruning.options, target_flops=goal))
        amount, least = asked.amount(), asked.target().goal
        return asked, reference_choice(
            asked.model, asked.groups, method, asked.choice.limits, lambda keep: amount(keep) <= least
        )
    asked = pruning.asked(replace(pruning.options, target_flops=goal, importance=method))
    return asked, asked.keep(asked.target())


Benchmark = (
    Annotated[TrainBenchmark, tyro.conf.subcommand("train", description="Time training.")]
    | Annotated[DetectBenchmark, tyro.conf.subcommand("detect", description="Time detection.")]
    | Annotated[EvaluationBenchmark, tyro.conf.subcommand("test", description="Time evaluation.")]
    | Annotated[BlocksBenchmark, tyro.conf.subcommand("blocks", description="Time ghost blocks.")]
    | Annotated[PruningBenchmark, tyro.conf.subcommand("pruning", description="Compare ways to prune.")]
    | Annotated[ExportBenchmark, tyro.conf.subcommand("export", description="Compare runtimes.")]
    | Annotated[ParityBenchmark, tyro.conf.subcommand("parity", description="Find where two networks first disagree.")]
)


ACTIONS: dict[type, Callable[[Any], Any]] = {
    TrainBenchmark: train_speed,
    DetectBenchmark: detect_speed,
    EvaluationBenchmark: evaluation_speed,
    BlocksBenchmark: blocks_speed,
    PruningBenchmark: pruning_quality,
    ExportBenchmark: export_speed,
    ParityBenchmark: parity,
}


def main(options: object) -> None:
    """Measure what was asked for; exit code 1 where two networks differ."""
    done = ACTIONS[type(options)](options)
    if isinstance(options, ParityBenchmark) and not all(stage.agrees for stage in done):
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(main, Benchmark, "Measure speed on this machine.")
