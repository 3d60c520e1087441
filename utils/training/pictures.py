"""Pictures of what a training learns from and finds: label statistics, the first batches, validation predictions."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from utils.data.labels import Sample
from utils.draw import draw_boxes, write_tiles
from utils.figure import new_figure, save_figure
from utils.training.anchors import sides_px

MAX_TILES = 16


def draw_batch(path: Path, images: Tensor, targets: Tensor, names: Sequence[str]) -> None:
    """Up to 16 training images as the network gets them, (B, 3, H, W) uint8 RGB, with their boxes (M, 6)."""
    tiles = []
    height, width = images.shape[2:]
    for index, image in enumerate(images[:MAX_TILES]):
        rows = targets[targets[:, 0] == index].numpy()
        half = rows[:, 4:6] / 2
        boxes = np.concatenate((rows[:, 2:4] - half, rows[:, 2:4] + half), axis=1) * [width, height, width, height]
        classes = rows[:, 1].astype(int).tolist()
        picture = cv2.cvtColor(image.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
        tiles.append(draw_boxes(picture, boxes, [names[label] for label in classes], classes))
    write_tiles(path, tiles)


def draw_labels(
    path: Path, samples: Sequence[Sample], names: Sequence[str], size: tuple[int, int], anchors: np.ndarray
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
    sides.scatter(anchors[:, 0], anchors[:, 1], marker="x", color="red", label="anchors", zorder=3)
    sides.set(
        title=f"Sides in pixels at {size[0]}x{size[1]}", xlabel="width", ylabel="height", xscale="log", yscale="log"
    )
    sides.legend()
    numbers = [len(sample.labels) for sample in samples]
    per_image.hist(numbers, bins=np.arange(max(numbers) + 2) - 0.5 if max(numbers) < 60 else 60, rwidth=0.9)
    per_image.set(title=f"Boxes an image ({len(samples):,} images)", xlabel="boxes", ylabel="images")
    save_figure(figure, path)
