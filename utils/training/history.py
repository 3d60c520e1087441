"""The record of a training: results.csv, a row an epoch, results.png, and TensorBoard's files."""

import csv
import importlib.util
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from utils.errors import InputError
from utils.figure import new_figure, save_figure
from utils.files import whole_file


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, whatever was trained."""

    epoch: int
    lr: float
    images_per_second: float
    seconds: float
    validation_seconds: float
    memory_bytes: float
    """Of all processes, at the epoch's end."""
    skipped_steps: int


@dataclass(frozen=True)
class Record(EpochRecord):
    """One epoch of a detector. AP values are fractions of 1, None where they were not measured; losses are the weighted
    parts.
    """

    box: float
    objectness: float
    classes: float
    ap50: float | None
    ap: float | None
    near_zero: float | None = None
    """With --sparsity: the share of gammas that is near zero."""
    sparsity: float | None = None
    """With --sparsity: how strong it was."""


@dataclass(frozen=True, kw_only=True)
class DistilledRecord(Record):
    """One epoch of a detector with a teacher: the weighted parts of its loss, too."""

    distill_logits: float
    distill_box: float
    distill_features: float


@dataclass(frozen=True)
class Panel:
    """A plot of `draw_history`: what it is called, and the record's fields in it with their names in words."""

    title: str
    curves: dict[str, str]
    top: float | None = None
    """Upper end of the scale."""


RATE_PANEL = Panel("Learning rate", {"lr": "learning rate"})


def write_csv(path: Path, records: Sequence[EpochRecord]) -> None:
    """All records, a header first: the epoch, losses and scores, the rest; empty where nothing was measured.

    Fields with a default, which not every training has, come last.
    """
    common = [field.name for field in fields(EpochRecord)]
    own = [field.name for field in fields(records[0]) if field.name not in common and field.default is MISSING]
    rare = [field.name for field in fields(records[0]) if field.default is not MISSING]
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["epoch", *own, *common[1:], *rare])
        writer.writeheader()
        for record in records:
            writer.writerow({key: "" if value is None else f"{value:.6g}" for key, value in asdict(record).items()})


def draw_history(path: Path, records: Sequence[EpochRecord], panels: Sequence[Panel], title: str) -> None:
    """The panels, and the learning rate, over epochs."""
    from matplotlib.ticker import MaxNLocator

    panels = (*panels, RATE_PANEL)
    figure, every = new_figure((14, 4), 1, len(panels))
    for panel, axes in zip(panels, every, strict=True):
        for key, label in panel.curves.items():
            points = [(record.epoch, getattr(record, key)) for record in records if getattr(record, key) is not None]
            axes.plot(*zip(*points, strict=True) if points else ([], []), marker=".", label=label)
        axes.set(title=panel.title, xlabel="epoch", ylim=(0, panel.top))
        axes.legend()
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(title)
    save_figure(figure, path)


def check_board() -> None:
    """Raise InputError where the package tensorboard is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard: expected the package tensorboard (pip install tensorboard)")


class Board:
    """TensorBoard's event files of a run."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def add(self, record: EpochRecord) -> None:
        """One epoch's numbers as scalars."""
        for key, value in asdict(record).items():
            if key != "epoch" and value is not None:
                self.writer.add_scalar(key, value, record.epoch)
        self.writer.flush()
