"""`python -m utils.data.stats DATA`: what a data set's labels look like, drawn: classes, places, sides, boxes an image.

Training draws the same, with its anchors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from utils.data.augment import MIN_SIDE
from utils.data.datafile import load_data
from utils.data.labels import Sample, load_samples, report
from utils.errors import DataError
from utils.figure import new_figure, save_figure
from utils.files import new_run_folder
from utils.log import counted, say
from utils.options import check_types, parse_size, run_command

ROOM = 1.5  # a size helps boxes that are this times as large there as they must be: training shrinks images, too
LARGER = 4  # times as large an input is still worth proposing


@dataclass(frozen=True)
class StatsOptions:
    """What to draw."""

    data: tyro.conf.Positional[str]
    """The .data or .yaml file."""
    img_size: str | int = 416
    """Input size in pixels that sides are drawn at, N or W,H."""
    name: str = "exp"
    """Results go to runs/data/NAME (NAME-2 ... where it exists)."""


def sides_px(samples: Sequence[Sample], size: tuple[int, int]) -> np.ndarray:
    """(N, 2) widths and heights of all boxes, in pixels of the input, with images scaled to fit (width, height)."""
    sides = [
        sample.labels[:, 3:5] * (np.array(sample.size) * min(size[0] / sample.size[0], size[1] / sample.size[1]))
        for sample in samples
    ]
    return np.concatenate(sides) if sides else np.zeros((0, 2))


def small_boxes(samples: Sequence[Sample], size: tuple[int, int], stride: int) -> str | None:
    """Say how many boxes are too small to be learnt with inputs of (width, height), and what size, in multiples of the
    stride, would help. None where there are none.
    """
    thin = sides_px(samples, size).min(axis=1, initial=np.inf)
    small = thin[thin < MIN_SIDE]
    if not len(small):
        return None
    words = (
        f"{counted(len(small), 'box', 'boxes')}, {_percent(len(small) / len(thin))}, "
        f"{'is' if len(small) == 1 else 'are'} under {MIN_SIDE} px at {_size(size)} and not learnt"
    )
    factor = ROOM * MIN_SIDE / max(np.percentile(small, 20), 1e-9)  # for four of five of them
    if factor > LARGER:
        return f"{words}; no --img-size up to {LARGER} times as large helps most of them"
    larger = math.ceil(size[0] * factor / stride) * stride, math.ceil(size[1] * factor / stride) * stride
    left = (sides_px(samples, larger).min(axis=1) < MIN_SIDE).mean()
    return f"{words}: --img-size {_size(larger)} leaves {_percent(left)}"


def _size(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]},{size[1]}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.1g} %"


def stats(options: StatsOptions) -> Path:
    """Draw train.png and valid.png; returns their folder. Raises InputError for bad input."""
    check_types(options)
    spec = load_data(options.data)
    size = parse_size(options.img_size)
    assert size is not None
    splits = {"train": spec.train} if spec.train == spec.valid else {"train": spec.train, "valid": spec.valid}
    drawn = {}
    for split, images in splits.items():
        samples, problems = load_samples(images, spec.num_classes, split) if images else ([], [])
        report(problems)
        if any(len(sample.labels) for sample in samples):
            drawn[split] = samples
    if not drawn:
        raise DataError(f"{options.data}: expected labels, got none")
    folder = new_run_folder("runs/data", options.name)
    for split, samples in drawn.items():
        draw_labels(folder / f"{split}.png", samples, spec.names, size)
    say(f"results in {folder}: {', '.join(f'{split}.png' for split in drawn)}")
    return folder


def draw_labels(
    path: Path,
    samples: Sequence[Sample],
    names: Sequence[str],
    size: tuple[int, int],
    anchors: np.ndarray | None = None,
) -> None:
    """Boxes a class, where their centres lie, their sides with the anchors (A, 2; pixels) over them, boxes an image."""
    labels = np.concatenate([sample.labels for sample in samples])
    figure, ((classes, centres), (sides, per_image)) = new_figure((12, 9), 2, 2)
    counts = np.bincount(labels[:, 0].astype(int), minlength=len(names))
    shown = counts.argsort()[::-1][:30]
    classes.barh([names[i] for i in shown][::-1], counts[shown][::-1])
    classes.set(title=f"Boxes a class ({len(labels):,}" + (", the 30 most frequent)" if len(names) > 30 else ")"))
    _, _, _, mesh = centres.hist2d(labels[:, 1], labels[:, 2], bins=40, range=((0, 1), (0, 1)), cmap="viridis")
    figure.colorbar(mesh, ax=centres, label="boxes")
    centres.set(title="Centres (share of the image)", xlabel="x", ylabel="y", ylim=(1, 0))
    boxes = sides_px(samples, size)
    sides.scatter(boxes[:, 0], boxes[:, 1], s=3, alpha=0.3, label="boxes")
    if anchors is not None:
        sides.scatter(anchors[:, 0], anchors[:, 1], marker="x", color="red", label="anchors", zorder=3)
    sides.set(
        title=f"Sides in pixels at {size[0]}x{size[1]}", xlabel="width", ylabel="height", xscale="log", yscale="log"
    )
    sides.legend()
    numbers = [len(sample.labels) for sample in samples]
    per_image.hist(numbers, bins=np.arange(max(numbers) + 2) - 0.5 if max(numbers) < 60 else 60, rwidth=0.9)
    per_image.set(title=f"Boxes an image ({len(samples):,} images)", xlabel="boxes", ylabel="images")
    save_figure(figure, path)


if __name__ == "__main__":
    run_command(stats, StatsOptions, "Draw what a data set's labels look like.")
