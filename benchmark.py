"""How fast this machine trains: `python benchmark.py train` times the loader, the step and both together."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from train import prepare
from utils.data.cache import CacheMode
from utils.data.dataset import Batch, make_training_loader
from utils.errors import InputError
from utils.log import progress, say
from utils.options import run_command
from utils.precision import AmpMode
from utils.training.distributed import Ranks
from utils.training.options import TrainOptions
from utils.training.run import Run
from utils.training.stop import StopRequest

WARM = 3  # steps before anything is timed


@dataclass(frozen=True)
class TrainBenchmark:
    """Options of benchmark.py."""

    what: tyro.conf.Positional[Literal["train"]]
    """What to time."""
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


@dataclass(frozen=True)
class Speeds:
    """Images a second: of one loading process, of the step alone, end to end; and the shares of the latter's time."""

    loader: float
    step: float
    total: float
    waiting: float
    gradients: float
    change: float


def train_speed(options: TrainBenchmark) -> list[tuple[str, str, str, Speeds]]:
    """Time training for each network, size and source of pictures, and print a table."""
    if options.steps < 1 or options.rounds < 1:
        raise InputError(f"--steps {options.steps} --rounds {options.rounds}: expected at least 1")
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
        loader = _loader_speed(run, options.steps)
        batches = _Endless(run)
        for _ in range(WARM):
            _train(run, next(batches))
        steps, totals, parts = [], [], []
        for _ in progress(range(options.rounds), f"{Path(cfg).stem} {size} cache {cache}", unit="round"):
            steps.append(_step_speed(run, batches.last, options.steps))
            seconds = [_timed_step(run, batches) for _ in range(options.steps)]
            sums = [sum(part) for part in zip(*seconds, strict=True)]
            totals.append(options.steps * len(batches.last[0]) / sum(sums))
            parts.append([part / sum(sums) for part in sums])
        shares = [statistics.median(column) for column in zip(*parts, strict=True)]
        return Speeds(loader, statistics.median(steps), statistics.median(totals), *shares)


class _Endless:
    """Batches of a training, epoch after epoch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.loader = make_training_loader(run.dataset, run.sampler, run.options.workers, torch.cuda.is_available())
        self.batches: Any = iter(self.loader)
        self.last: Batch

    def __next__(self) -> Batch:
        try:
            self.last = next(self.batches)
        except StopIteration:
            self.run.sampler.epoch += 1
            self.batches = iter(self.loader)
            self.last = next(self.batches)
        return self.last


def _loader_speed(run: Run, steps: int) -> float:
    """Images a second of one process, the median over batches."""
    keys = [batch for batch, _ in zip(run.sampler, range(steps), strict=False)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    speeds = []
    for batch in keys:
        start = time.perf_counter()
        for key in batch:
            run.dataset[key]
        speeds.append(len(batch) / (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return statistics.median(speeds)


def _step_speed(run: Run, batch: Batch, steps: int) -> float:
    """Images a second of the network alone: forward and backward of one batch that lies ready, against a plain sum."""
    device = next(run.model.parameters()).device
    images = batch[0].to(device).float() / 255
    run.trainee.train_mode()

    def step() -> None:
        with torch.autocast(device.type, run.trainee.dtype, enabled=run.trainee.dtype is not None):
            heads = run.model(images)
        sum(head.float().square().mean() for head in heads).backward()
        run.trainee.schedule.optimizer.zero_grad(set_to_none=True)

    return steps * len(images) / _seconds(step, steps, device)


def _seconds(work: Callable[[], Any], times: int, device: torch.device) -> float:
    _finish(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _train(run: Run, batch: Batch) -> None:
    loss, _ = run.trainee.gradients(batch[0], batch[1])
    run.trainee.change(loss)


def _timed_step(run: Run, batches: _Endless) -> tuple[float, float, float]:
    """Seconds of one step: waiting for its images, gradients, change of the weights."""
    device = next(run.model.parameters()).device
    times = [time.perf_counter()]

    def note() -> None:
        _finish(device)
        times.append(time.perf_counter())

    run.trainee.train_mode()
    images, targets, _ = next(batches)
    note()
    loss, parts = run.trainee.gradients(images, targets)
    note()
    run.trainee.change(loss)
    parts.tolist()
    note()
    waiting, gradients, change = (later - sooner for sooner, later in itertools.pairwise(times))
    return waiting, gradients, change


if __name__ == "__main__":
    run_command(
        train_speed,
        TrainBenchmark,
        "Measure speed on this machine.",
    )
