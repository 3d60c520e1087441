"""A training under way: epoch after epoch, what is measured, written and kept, until it ends or is stopped.

What is trained says the rest: `detection` for detectors, `classification` for classifiers.
"""

import gc
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from utils.data.sampler import StepSampler
from utils.errors import InputError, Stopped
from utils.files import remove_partials, write_text
from utils.log import say, warn
from utils.memory import size_words, tree_bytes
from utils.network.weights import Checkpoint
from utils.training.checkpoint import Progress, capture, restore
from utils.training.distributed import Ranks
from utils.training.engine import Totals, Trainee, train_one_epoch
from utils.training.history import Board, EpochRecord, Panel, draw_history, write_csv
from utils.training.stop import StopRequest

DRAWN_BATCHES = 3
REDRAW_SECONDS = 20  # between two drawings of the curves, which take half a second


@dataclass(frozen=True)
class TrainResult:
    """Where a training left its results, and the best epoch (from 1) with its metrics (fractions of 1)."""

    folder: Path
    best_epoch: int
    metrics: Any


@dataclass(frozen=True)
class EpochEnd:
    """What a callback is told after each epoch; `metrics` is None where nothing was measured."""

    folder: Path
    record: Any
    metrics: Any


Callback = Callable[[EpochEnd], bool | None]
"""Called after each epoch (by rank 0); returning True ends the training there."""


@dataclass
class Run(ABC):
    """A training with all that belongs to it. `model` is the network itself, `save_weights` writes one to a file."""

    SCORE: ClassVar[tuple[str, str]]
    """The field of the metrics by which an epoch is the best, and its name in words."""
    PANELS: ClassVar[tuple[Panel, ...]]
    RECORD: ClassVar[type[EpochRecord]]

    options: Any
    folder: Path
    model: Any
    save_weights: Callable[..., None]
    trainee: Trainee
    dataset: Any
    sampler: StepSampler
    valid: Sequence[Any]
    settings: Any
    fingerprint: str
    ranks: Ranks
    stop: StopRequest
    progress: Progress = field(default_factory=Progress)
    drawn: float = 0.0
    """When results.png was drawn last."""

    # ---- What is trained says ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def network(self) -> str:
        """What the network is called."""

    @abstractmethod
    def write_start(self) -> None:
        """Write what can be known before the first step, options.json aside."""

    @abstractmethod
    def training_loader(self, pin: bool) -> DataLoader[Any]:
        """The training batches, as the sampler says."""

    @abstractmethod
    def checks_loader(self, mine: Sequence[Any]) -> DataLoader[Any]:
        """The validation batches of these samples."""

    @abstractmethod
    def measure(self, mine: Sequence[Any], checks: DataLoader[Any] | None) -> Any:
        """The averaged weights' metrics on the validation images, which the ranks share."""

    @abstractmethod
    def scores(self, metrics: Any) -> dict[str, float | None]:
        """The fields of the record that hold metrics (None: nothing was measured)."""

    def close_epoch(self, metrics: Any) -> dict[str, float | None]:
        """Do what is done once an epoch is over (on every rank alike); further fields of the record."""
        return {}

    def remarks(self, record: Any) -> str:
        """What an epoch's line says beside its metrics, a comma and a space behind it."""
        return ""

    @abstractmethod
    def restored(self, best: dict[str, Any]) -> Any:
        """Metrics from their plain values."""

    @abstractmethod
    def write_end(self, checks: DataLoader[Any]) -> None:
        """Draw what the finished network finds."""

    # ---- From start to end -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Write all that can be known before the first step, and a checkpoint."""
        if not self.ranks.first:
            return
        write_text(self.folder / "options.json", json.dumps(asdict(self.options), indent=2) + "\n")
        self.write_start()
        self.save()

    def first_items(self) -> Iterator[tuple[int, list[Any]]]:
        """The items of the first three batches, numbered."""
        for number, keys in zip(range(DRAWN_BATCHES), self.sampler, strict=False):
            yield number, [self.dataset[key] for key in keys]

    def resume(self, checkpoint: Checkpoint) -> None:
        """Set everything back to where the checkpoint was made."""
        assert checkpoint.training is not None
        if self.ranks.first:
            remove_partials(self.folder)
        self.progress = restore(checkpoint.training, self.trainee, self.RECORD)
        if checkpoint.training["data"] != self.fingerprint:
            warn(f"{self.options.data}: the images or labels have changed since this training was started")
        if self.progress.totals.steps > self.sampler.steps:
            raise InputError(
                f"{self.options.data}: the training was stopped after step {self.progress.totals.steps} of an epoch, "
                f"which has only {self.sampler.steps} with the images there are now: expected those it was started with"
            )
        say(f"{self.folder}: going on at {self.place}")

    @property
    def place(self) -> str:
        """Where the training stands, in words."""
        if self.progress.epoch >= self.options.epochs:
            return "its end, after the last epoch"
        return f"epoch {self.progress.epoch + 1}, after step {self.progress.totals.steps}"

    def save(self, finished: bool = False) -> None:
        """Write last.pt (rank 0): the averaged weights and, until the training is finished, its whole state."""
        if self.ranks.first:
            state = capture(self.trainee, self.progress, self.options, self.fingerprint)
            self.trainee.average.model.seen = self.model.seen
            self.save_weights(self.trainee.average.model, self.folder / "last.pt", None if finished else state)

    def all_epochs(self, callback: Callback | None) -> TrainResult:
        """Train and validate until the last epoch, or until patience or the callback ends it."""
        device = next(self.model.parameters()).device
        loader = self.training_loader(device.type == "cuda")
        mine = self.valid[self.ranks.rank :: self.ranks.world]
        checks = self.checks_loader(mine) if mine else None
        board = Board(self.folder) if self.options.tensorboard and self.ranks.first else None
        with few_collections():
            while self.progress.epoch < self.options.epochs:
                self.train_epoch(loader)
                last = self.progress.epoch + 1 == self.options.epochs
                metrics = self.validate(mine, checks, not self.options.noval or last)
                ended = self.ranks.share(self.ranks.first and self.write_epoch(metrics, board, callback))
                if ended and metrics is None:  # by a callback, with noval: these weights are still to be measured
                    metrics = self.measure(mine, checks)
                    if self.ranks.first:
                        self.keep_best(metrics)
                self.progress.epoch = self.options.epochs if ended else self.progress.epoch + 1
                self.progress.totals = Totals()
                self.save()
                self.stop.check(self.ranks)
        return self.finish(checks)

    def train_epoch(self, loader: DataLoader[Any]) -> None:
        """What is left of the epoch's steps."""
        totals, epoch = self.progress.totals, self.progress.epoch
        self.sampler.epoch, self.sampler.start = epoch, totals.steps
        if totals.steps == self.sampler.steps:  # stopped between training and validation
            return
        files = [sample.image for sample in self.dataset.samples]
        before, start = totals.images, time.perf_counter()
        try:
            train_one_epoch(self.trainee, loader, epoch, totals, self.stop, self.label, files)
        except Stopped as stopped:
            if stopped.whole:  # all ranks at the same step; else, and after any error, the others may be anywhere
                self.ranks.average_statistics(self.model, self.trainee.average.model)
            raise
        finally:
            self.model.seen += (totals.images - before) * self.ranks.world
            totals.seconds += time.perf_counter() - start
        self.ranks.average_statistics(self.model, self.trainee.average.model)

    @property
    def label(self) -> str:
        """`epoch 3/100`."""
        return f"epoch {self.progress.epoch + 1}/{self.options.epochs}"

    def validate(self, mine: Sequence[Any], checks: DataLoader[Any] | None, wanted: bool) -> Any:
        """The metrics, if they are wanted; adds the epoch's record."""
        totals, start = self.progress.totals, time.perf_counter()
        metrics = self.measure(mine, checks) if wanted else None
        values: dict[str, Any] = {
            **totals.means(self.trainee.criterion.parts),
            **self.scores(metrics),
            **self.close_epoch(metrics),
            "epoch": self.progress.epoch + 1,
            "lr": totals.lr,
            "images_per_second": totals.images * self.ranks.world / totals.seconds,
            "seconds": totals.seconds,
            "validation_seconds": time.perf_counter() - start,
            "memory_bytes": tree_bytes(),
            "skipped_steps": self.trainee.guard.skipped,
        }
        self.progress.records.append(self.RECORD(**values))
        return metrics

    def check_alone(self) -> None:
        """Stop in the middle of validation; several processes, whose shares differ, wait for its end."""
        if self.ranks.world == 1:
            self.stop.check(self.ranks)

    def write_epoch(self, metrics: Any, board: Board | None, callback: Callback | None) -> bool:
        """The epoch's line, weights and curves; whether the training ends here."""
        record, progress = self.progress.records[-1], self.progress
        left = (self.options.epochs - record.epoch) * (record.seconds + record.validation_seconds)
        say(
            f"{self.label}: "
            + (f"{metrics}, " if metrics else "")
            + self.remarks(record)
            + f"{record.images_per_second:.1f} images/s, {size_words(record.memory_bytes)}"
            + (f", {duration_words(left)} left" if left else "")
        )
        average = self.trainee.average.model
        average.seen = self.model.seen
        if metrics is not None:
            self.keep_best(metrics)
        if self.options.save_period and record.epoch % self.options.save_period == 0:
            self.save_weights(average, self.folder / f"epoch{record.epoch}.pt")
        write_csv(self.folder / "results.csv", progress.records)
        if time.perf_counter() - self.drawn > REDRAW_SECONDS:
            self.draw()
        if board is not None:
            board.add(record)
        if callback is not None and callback(EpochEnd(self.folder, record, metrics)):
            say(f"ended by the callback after epoch {record.epoch}")
            return True
        patience, (score, name) = self.options.patience, self.SCORE
        best = progress.best_epoch if progress.best and progress.best[score] > 0 else 0
        if patience and progress.best is not None and record.epoch - best >= patience:
            say(f"ended after epoch {record.epoch}: no better {name} in {patience} epochs (--patience)")
            return True
        return False

    def is_better(self, metrics: Any) -> bool:
        """Whether the epoch's weights are the best so far: of epochs that found nothing, the last."""
        best, score = self.progress.best, getattr(metrics, self.SCORE[0])
        return best is None or score > best[self.SCORE[0]] or score == best[self.SCORE[0]] == 0

    def keep_best(self, metrics: Any) -> None:
        """Write the best weights, if these are."""
        if self.is_better(metrics):
            self.progress.best_epoch, self.progress.best = self.progress.records[-1].epoch, asdict(metrics)
            self.write_best()

    def write_best(self) -> None:
        """Write the averaged weights as the best so far."""
        self.save_weights(self.trainee.average.model, self.folder / "best.pt")

    def draw(self) -> None:
        """The curves, results.png."""
        title = f"{self.folder.name}: {self.network}"
        draw_history(self.folder / "results.png", self.progress.records, self.PANELS, title)
        self.drawn = time.perf_counter()

    def finish(self, checks: DataLoader[Any] | None) -> TrainResult:
        """The best epoch's numbers, what it finds drawn, and last.pt without the training's state."""
        self.progress.best_epoch, self.progress.best = self.ranks.share((self.progress.best_epoch, self.progress.best))
        assert self.progress.best is not None
        metrics = self.restored(self.progress.best)
        if self.ranks.first and checks is not None:
            self.save(finished=True)
            self.draw()
            self.write_end(checks)
        say(metrics.table())
        say(f"best epoch {self.progress.best_epoch}: {metrics}; results in {self.folder}")
        return TrainResult(self.folder, self.progress.best_epoch, metrics)


@contextmanager
def few_collections() -> Iterator[None]:
    """Python's garbage collector leaves alone what exists already, libraries most of all: in a validation with many
    detections it would look through all of it several times.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def duration_words(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
