"""How fast a training goes: its loader, the network's step alone, and all of it with the shares of its parts."""

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from utils.clock import duration, now
from utils.data.dataset import Batch, make_training_loader
from utils.log import progress
from utils.training.detection import DetectionRun

WARM = 3  # steps before anything is timed


@dataclass(frozen=True)
class Speeds:
    """Images a second: of one loading process, of the step alone, end to end; and the shares of the latter's time."""

    loader: float
    step: float
    total: float
    waiting: float
    gradients: float
    change: float


def time_training(run: DetectionRun, steps: int, rounds: int, description: str) -> Speeds:
    """Medians over rounds of so many steps; the step alone and the whole take turns. The run's weights change."""
    loader = _loader_speed(run, steps)
    batches = _Endless(run)
    for _ in range(WARM):
        _train(run, next(batches))
    alone, totals, parts = [], [], []
    for _ in progress(range(rounds), description, unit="round"):
        alone.append(_step_speed(run, batches.last, steps))
        seconds = [_timed_step(run, batches) for _ in range(steps)]
        sums = [sum(part) for part in zip(*seconds, strict=True)]
        totals.append(steps * len(batches.last[0]) / sum(sums))
        parts.append([part / sum(sums) for part in sums])
    shares = [statistics.median(column) for column in zip(*parts, strict=True)]
    return Speeds(loader, statistics.median(alone), statistics.median(totals), *shares)


class _Endless:
    """Batches of a training, epoch after epoch."""

    def __init__(self, run: DetectionRun) -> None:
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


def _loader_speed(run: DetectionRun, steps: int) -> float:
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


def _step_speed(run: DetectionRun, batch: Batch, steps: int) -> float:
    """Images a second of the network alone: forward and backward of one batch that lies ready, against a plain sum."""
    device = next(run.model.parameters()).device
    images = batch[0].to(device).float() / 255
    run.trainee.train_mode()

    def step() -> None:
        with torch.autocast(device.type, run.trainee.dtype, enabled=run.trainee.dtype is not None):
            heads = run.model(images)
        sum(head.float().square().mean() for head in heads).backward()
        run.trainee.schedule.optimizer.zero_grad(set_to_none=True)

    return steps * len(images) / duration(step, steps, device)


def _train(run: DetectionRun, batch: Batch) -> None:
    loss, _ = run.trainee.gradients(batch[0], batch[1])
    run.trainee.change(loss)


def _timed_step(run: DetectionRun, batches: _Endless) -> tuple[float, float, float]:
    """Seconds of one step: waiting for its images, gradients, change of the weights."""
    device = next(run.model.parameters()).device
    times = [now(device)]

    def note() -> None:
        times.append(now(device))

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
