"""What a network finds, drawn."""

from collections.abc import Sequence
from pathlib import Path

import cv2
from torch import nn

from utils.data.dataset import EvaluationSet, collate_evaluation
from utils.draw import draw_boxes, write_tiles
from utils.evaluation.evaluate import EvaluationSettings, run_batch

SHOWN = 16


def draw_predictions(
    path: Path, model: nn.Module, dataset: EvaluationSet, names: Sequence[str], settings: EvaluationSettings
) -> None:
    """The first 16 images as the network gets them, with what it finds at `settings.confidence`."""
    batch = collate_evaluation([dataset[i] for i in range(min(SHOWN, len(dataset)))])
    if batch is None:
        return
    tiles = []
    for image, found in zip(batch.images, run_batch(model, batch.images, settings), strict=True):
        classes = found[:, 5].astype(int).tolist()
        labels = [f"{names[index]} {score:.2f}" for index, score in zip(classes, found[:, 4], strict=True)]
        picture = cv2.cvtColor(image.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
        tiles.append(draw_boxes(picture, found[:, :4], labels, classes))
    write_tiles(path, tiles)
