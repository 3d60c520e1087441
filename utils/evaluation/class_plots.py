"""A classifier's results drawn: the confusion matrix, images with what they were taken for, the width's trade."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from utils.data.classification import ClassEvaluationSet
from utils.evaluation.classification import Predictions, Width, confusion
from utils.evaluation.plots import draw_matrix
from utils.figure import new_figure, save_figure

SHOWN = 16
COLUMNS = 8


def draw_class_confusion(path: Path, predictions: Predictions, names: Sequence[str]) -> None:
    """What the images of each class were taken for."""
    title = f"of {len(predictions.labels):,}"
    draw_matrix(path, confusion(predictions, len(names)), names, "Images", title, "taken for", "class")


def draw_least_sure(path: Path, predictions: Predictions, dataset: ClassEvaluationSet, names: Sequence[str]) -> None:
    """The 16 images whose own class got the least probability, each with its class and the first guess."""
    if not len(predictions.labels):
        return
    own = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    tiles, words, right = [], [], []
    for place in np.argsort(own, kind="stable")[:SHOWN].tolist():
        item = dataset[int(predictions.indices[place])]
        if item is not None:
            label, guess = int(predictions.labels[place]), int(predictions.probabilities[place].argmax())
            tiles.append(item[0])
            words.append(f"{names[label]}\nas {names[guess]} {predictions.probabilities[place, guess]:.2f}")
            right.append(label == guess)
    draw_tiles(path, tiles, words, "The images whose own class got the least probability (red: wrong)", right)


def draw_tiles(
    path: Path, images: Sequence[Tensor], words: Sequence[str], title: str, right: Sequence[bool] | None = None
) -> None:
    """Up to 16 images, (3, H, W) uint8 RGB, with words above each, red where it is not right."""
    count = min(len(images), SHOWN)
    rows = -(-count // COLUMNS)
    figure, grid = new_figure((2 * COLUMNS, 2.5 * rows + 0.5), rows, COLUMNS)
    for number, axes in enumerate(np.ravel(grid)):
        axes.axis("off")
        if number < count:
            axes.imshow(images[number].permute(1, 2, 0).numpy())
            wrong = right is not None and not right[number]
            axes.set_title(words[number], fontsize="small", color="firebrick" if wrong else "black", parse_math=False)
    figure.suptitle(title)
    save_figure(figure, path)


def draw_widths(path: Path, widths: Sequence[Width], title: str) -> None:
    """Costs and accuracy over the width multiplier."""
    order = sorted(widths, key=lambda one: one.width)
    figure, grid = new_figure((11, 7.5), 2, 2)
    xs = [one.width for one in order]
    for axes, values, label in (
        (grid[0][0], [one.top1 for one in order], "top-1 accuracy"),
        (grid[0][1], [one.parameters / 1e6 for one in order], "million parameters"),
        (grid[1][0], [one.macs / 1e6 for one in order], "million multiply-adds"),
        (grid[1][1], [one.milliseconds for one in order], "milliseconds an image"),
    ):
        axes.plot(xs, values, marker="o")
        for x, value in zip(xs, values, strict=True):
            axes.annotate(f"{value:.3g}", (x, value), textcoords="offset points", xytext=(0, 7), ha="center")
        axes.set(xlabel="width multiplier", ylabel=label, xticks=xs)
        axes.margins(0.1, 0.2)
        if label != "top-1 accuracy":
            axes.set_ylim(0, 1.2 * max(values))
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)
