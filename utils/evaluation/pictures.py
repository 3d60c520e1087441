"""What a network finds, drawn."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import nn

from utils.data.dataset import EvaluationSet, collate_evaluation
from utils.draw import draw_boxes, write_tiles
from utils.evaluation.evaluate import EvaluationSettings, run_batch

SHOWN = 16


def draw_predictions(
    path: Path, model: nn.Module, dataset: EvaluationSet, names: Sequence[str], settings: EvaluationSettings
) -> None:
    """The first 16 images as the network gets them, with what it finds at `settings.confidence`."""
    items = collate_evaluation([dataset[i] for i in range(min(SHOWN, len(dataset)))])
    if not items:
        return
    tiles = []
    for item, found in zip(items, run_batch(model, items, settings), strict=True):
        classes = found[:, 5].astype(int).tolist()
        labels = [f"{names[index]} {score:.2f}" for index, score in zip(classes, found[:, 4], strict=True)]
        picture = cv2.cvtColor(np.asarray(item.image), cv2.COLOR_RGB2BGR)
        tiles.append(draw_boxes(picture, found[:, :4], labels, classes))
    write_tiles(path, tiles)
