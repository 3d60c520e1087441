"""A report drawn: curves over the confidence and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.draw import class_colour
from utils.evaluation.curves import CONFIDENCES
from utils.evaluation.matching import RECALLS
from utils.evaluation.report import Report
from utils.figure import new_figure, save_figure

NAMED_CURVES = 12  # classes that have a line and a name of their own; of more, only the mean is named
WRITTEN_CELLS = 30  # classes up to which the confusion matrix has its numbers written in


def draw_curves(path: Path, report: Report) -> None:
    """Precision over recall, and F1, precision and recall over the confidence, a line a class and a thick mean."""
    figure, ((by_recall, f1), (precision, recall)) = new_figure((12, 9), 2, 2)
    shape = report.curves
    known = [index for index in range(len(report.names)) if np.isfinite(shape.f1[index]).all()]
    at = f"{shape.confidence:.3f}"
    few = len(known) <= NAMED_CURVES
    for axes, xs, values, title, label, unit in (
        (by_recall, RECALLS, shape.by_recall, "Precision over recall, at IoU .5", "recall", "precision"),
        (f1, CONFIDENCES, shape.f1, f"F1, best at confidence {at}", "confidence", "F1"),
        (precision, CONFIDENCES, shape.precision, "Precision over confidence", "confidence", "precision"),
        (recall, CONFIDENCES, shape.recall, "Recall over confidence", "confidence", "recall"),
    ):
        for number, index in enumerate(known):
            colour = np.array(class_colour(index)) / 255 if few else "0.75"
            score = f" {values[index].mean():.3f}" if axes is by_recall else f" {values[index, shape.best]:.3f}"
            name = report.names[index] + score if few else None if number else f"each of {len(known)} classes"
            axes.plot(xs, values[index], color=colour, lw=1, label=name)
        if known:
            mean = values[known].mean(axis=0)
            score = mean.mean() if axes is by_recall else mean[shape.best]
            axes.plot(xs, mean, color="black", lw=2.5, label=f"mean {score:.3f}")
            axes.legend(fontsize="small")
        if axes is not by_recall:
            axes.axvline(shape.confidence, color="black", lw=0.8, ls=":")
        axes.set(title=title, xlabel=label, ylabel=unit, xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def draw_confusion(path: Path, report: Report) -> None:
    """What the objects of each class were found as, in counts and as shares of the class's objects."""
    title = f"at confidence {report.curves.confidence:.3f}, IoU .5"
    axes = "found as (background: missed)", "labelled (background: nothing)"
    draw_matrix(path, report.confusion, [*report.names, "background"], "Objects", title, *axes)


def draw_matrix(
    path: Path, counts: np.ndarray, names: Sequence[str], what: str, title: str, xlabel: str, ylabel: str
) -> None:
    """A confusion matrix, (N, N) rows of what is and columns of what it was taken for: counts, and shares of a row."""
    side = min(17, 5.5 + 0.3 * len(names))
    figure, (left, right) = new_figure((2 * side, side + 1), 1, 2)  # squares in it: room for what is above and below
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for axes, values, form, head in ((left, counts, "{:,}", what), (right, shares, "{:.2f}", "Shares of a row")):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        places = range(len(names))
        axes.set_xticks(
            places,
            names,
            rotation=90 if len(names) > 8 else 30,
            ha="right" if len(names) <= 8 else "center",
            parse_math=False,
        )
        axes.set_yticks(places, names, parse_math=False)
        axes.set(title=f"{head},\n{title}", xlabel=xlabel, ylabel=ylabel)
        if len(names) <= WRITTEN_CELLS + 1:
            _write_cells(axes, values, shares, form)
    save_figure(figure, path)


def _write_cells(axes: Any, values: np.ndarray, shares: np.ndarray, form: str) -> None:
    for row, column in np.argwhere(values > 0).tolist():
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = form.format(values[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
