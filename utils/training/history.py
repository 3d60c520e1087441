"""The record of a training: results.csv, a row an epoch, and results.png."""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

from utils.files import whole_file


@dataclass(frozen=True)
class Record:
    """One epoch. AP values are fractions of 1; losses are the weighted parts."""

    epoch: int
    box: float
    objectness: float
    classes: float
    ap50: float
    ap: float
    lr: float
    images_per_second: float
    seconds: float


def write_csv(path: Path, records: list[Record]) -> None:
    """All records, a header first."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(Record.__annotations__))
        writer.writeheader()
        for record in records:
            writer.writerow({key: f"{value:.6g}" for key, value in asdict(record).items()})


def draw_history(path: Path, records: list[Record], title: str) -> None:
    """Losses on the left, AP on the right, over epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    epochs = [record.epoch for record in records]
    for key in ("box", "objectness", "classes"):
        losses.plot(epochs, [getattr(record, key) for record in records], marker=".", label=key)
    for key, label in (("ap50", "AP@.5"), ("ap", "AP@.5:.95")):
        scores.plot(epochs, [getattr(record, key) for record in records], marker=".", label=label)
    losses.set(title="Training loss", xlabel="epoch", ylim=(0, None))
    scores.set(title="Validation", xlabel="epoch", ylim=(0, 1))
    for axes in (losses, scores):
        axes.legend()
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100)
