"""Runtimes side by side: size, start, milliseconds, images a second, AP, and how far each is from PyTorch."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.deploy.compare import Difference
from utils.deploy.formats import megabytes
from utils.errors import InputError
from utils.evaluation.metrics import Metrics
from utils.figure import new_figure, save_figure
from utils.log import progress, warn
from utils.precision import ComputePrecision, native_bfloat16
from utils.runtimes.opening import open_exported
from utils.runtimes.pytorch import PyTorch
from utils.runtimes.runtime import Runtime

WARM_UP = 5  # rounds that are not counted
BATCHES = (1, 2, 4, 8, 16)
BATCH_SECONDS = 0.5  # of each batch size, at least
MARGIN = 0.02  # of AP, around the points of the plot, so that rounding looks like what it is


class PlainPyTorch(PyTorch):
    """The network as it was trained: nothing folded, planes in their usual order. What the others are measured by."""

    kind = "PyTorch, plain"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.model = model

    def run(self, images: np.ndarray) -> np.ndarray:
        """One pass."""
        batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).contiguous().float() / 255
        with torch.inference_mode():
            found: np.ndarray = self.model(batch).cpu().numpy()
        return found


@dataclass(frozen=True)
class ExportBenchmark:
    """Export a network to every format there is, and measure each in its runtime."""

    weights: str
    """Weights, .pt or .weights; a bare name is found in weights/."""
    data: str
    """Data set, a Darknet .data or a .yaml, to measure on, and to calibrate int8."""
    cfg: str | None = None
    """Network (default: the one inside the .pt)."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    dynamic: bool = False
    """Export for any number of images, so that larger batches are measured, too."""
    max_map_drop: float = 0.005
    """AP@.5:.95 that int8 may lose."""
    rounds: int = 50
    """Rounds of timing; all take turns in each."""
    threads: int | None = None
    """Threads that compute the network (default: one for each core)."""
    name: str = "exp"
    """Results go to runs/benchmark/NAME (NAME-2 ... where it exists)."""


@dataclass(frozen=True)
class Entry:
    """Something to measure."""

    name: str
    open: Callable[[], Runtime]
    path: Path | None = None
    """Its file or folder; None for PyTorch."""


def pytorch_entries(model: Any) -> list[Entry]:
    """The network as it was trained, as detect.py runs it, compiled, and in bfloat16 where the CPU has it."""
    entries = [Entry("PyTorch, plain", lambda: PlainPyTorch(model))]
    halves = [None, torch.bfloat16] if native_bfloat16(torch.device("cpu")) else [None]
    for dtype in halves:
        for flag in (False, True) if shutil.which("c++") else (False,):  # to compile takes a compiler
            words = ["PyTorch", *(["--half"] if dtype else []), *(["--compile"] if flag else [])]
            make = partial(PyTorch, model, dtype, compiled=flag)
            entries.append(Entry(" ".join(words), make))
    return entries


def exported_entries(
    path: Path, threads: int | None, int8: bool, precisions: Sequence[ComputePrecision]
) -> list[Entry]:
    """An exported network in each of the precisions."""
    name = open_exported(path, threads).kind + (", int8" if int8 else "")
    return [
        Entry(f"{name}, bfloat16" if each == "bf16" else name, partial(open_exported, path, threads, each), path)
        for each in precisions
    ]


@dataclass(frozen=True)
class Row:
    """What was measured of it; `milliseconds` of `Runtime.infer` on one image, from uint8 to predictions."""

    name: str
    precision: str
    megabytes: float | None
    load_seconds: float
    milliseconds: float
    p95: float
    images_per_second: float
    batch: int
    difference: Difference
    ap50: float
    ap: float


def load(entries: Sequence[Entry], picture: np.ndarray) -> list[tuple[Entry, Runtime, float]]:
    """Each in its runtime, and the seconds until its first prediction; what cannot run here is left out, and said."""
    loaded = []
    for entry in entries:
        start = time.perf_counter()
        try:
            runtime = entry.open()
            runtime.infer(picture[None])
        except InputError as error:
            warn(f"{entry.name} is left out: {error}")
            continue
        loaded.append((entry, runtime, time.perf_counter() - start))
    return loaded


def latencies(runtimes: Sequence[Runtime], picture: np.ndarray, rounds: int) -> list[np.ndarray]:
    """Milliseconds of one image, (rounds,) for each.

    All take turns in each round, each after a call that is not timed: it puts into the caches what the one before has
    driven out, and lets the threads of that one go to sleep.
    """
    taken: list[list[float]] = [[] for _ in runtimes]
    for _ in progress(range(WARM_UP + rounds), "timing", unit="round"):
        for runtime, times in zip(runtimes, taken, strict=True):
            runtime.infer(picture[None])
            start = time.perf_counter()
            runtime.infer(picture[None])
            times.append((time.perf_counter() - start) * 1000)
    return [np.array(times[WARM_UP:]) for times in taken]


def best_batch(runtime: Runtime, picture: np.ndarray, milliseconds: float) -> tuple[float, int]:
    """Images a second at the batch size where they are most, and that size; of those that the network takes."""
    found = [(1000 / milliseconds, 1)]
    for batch in BATCHES[1:] if runtime.info.dynamic else ():
        pictures = np.repeat(picture[None], batch, axis=0)
        runtime.infer(pictures)
        start, calls = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < BATCH_SECONDS or calls < 3:
            runtime.infer(pictures)
            calls += 1
        found.append((calls * batch / seconds, batch))
    return max(found)


def measured(
    entry: Entry, runtime: Runtime, seconds: float, times: np.ndarray, best: tuple[float, int], difference: Difference,
    metrics: Metrics,
) -> Row:  # fmt: skip
    """The row of an entry."""
    size = None
    if entry.path is not None:
        beside = [entry.path, entry.path.with_suffix(".weights")] if entry.path.suffix == ".cfg" else [entry.path]
        size = megabytes(*beside)
    median, p95 = np.percentile(times, (50, 95)).tolist()
    return Row(
        entry.name, runtime.precision, size, seconds, median, p95, *best, difference, metrics.ap50, metrics.ap
    )  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """A line for each; `share` is of the first one's milliseconds."""
    lines = [
        f"{'':22} {'computes in':18} {'MB':>6} {'load s':>6} {'ms':>7} {'p95':>7} {'share':>6} {'images/s':>8} "
        f"{'batch':>5} {'px':>8} {'score':>8} {'AP@.5':>6} {'AP@.5:.95':>9}"
    ]
    for row in rows:
        size = "" if row.megabytes is None else f"{row.megabytes:.1f}"
        lines.append(
            f"{row.name:22} {row.precision:18} {size:>6} {row.load_seconds:6.2f} {row.milliseconds:7.1f} "
            f"{row.p95:7.1f} {row.milliseconds / rows[0].milliseconds:6.3f} {row.images_per_second:8.1f} {row.batch:5} "
            f"{row.difference.pixels:8.1g} {row.difference.score:8.1g} {row.ap50:6.3f} {row.ap:9.3f}"
        )
    return "\n".join(lines)


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """AP over milliseconds, a point for each."""
    figure, axes = new_figure((9, 6), 1, 1)
    for index, row in enumerate(rows):
        axes.plot(
            row.milliseconds,
            row.ap,
            "o",
            markersize=9,
            label=f"{row.name}, {row.milliseconds:.1f} ms",
            zorder=3 + index,
        )
    low, high = min(row.ap for row in rows) - MARGIN, max(row.ap for row in rows) + MARGIN
    axes.set(title=title, xlabel="milliseconds an image", ylabel="AP@.5:.95", xlim=(0, None), ylim=(low, high))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)
