"""What a network finds, drawn: at the end of a training, beside the labels, and where it went most wrong."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import nn

from utils.data.dataset import EvaluationSet, collate_evaluation
from utils.data.images import read_image
from utils.draw import draw_boxes, write_image, write_tiles
from utils.evaluation.errors import KINDS, MISSED
from utils.evaluation.evaluate import EvaluationSettings, run_batch
from utils.evaluation.metrics import ImageResult
from utils.evaluation.report import Report
from utils.letterbox import to_bgr

SHOWN = 16
PAIRS = 8  # images drawn twice, with labels and with predictions
TILE = 640  # pixels, the longer side of a picture in such a pair
WORST = 10  # images


def draw_predictions(
    path: Path, model: nn.Module, dataset: EvaluationSet, names: Sequence[str], settings: EvaluationSettings
) -> None:
    """The first 16 images as the network gets them, with what it finds at `settings.confidence`."""
    batch = collate_evaluation([dataset[i] for i in range(min(SHOWN, len(dataset)))])
    if batch is None:
        return
    tiles = []
    for image, found in zip(batch.images, run_batch(model, batch.images, settings), strict=True):
        picture = to_bgr(image.permute(1, 2, 0).numpy())
        tiles.append(draw_boxes(picture, found[:, :4], *_labels(found, names)))
    write_tiles(path, tiles)


def _labels(found: np.ndarray, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """What is written on the boxes of (M, 6) detections, and their classes."""
    classes = found[:, 5].astype(int).tolist()
    return [f"{names[index]} {score:.2f}" for index, score in zip(classes, found[:, 4], strict=True)], classes


def draw_beside_labels(path: Path, results: Sequence[ImageResult], names: Sequence[str], confidence: float) -> None:
    """The first 8 images twice: labels on the left, detections of at least this confidence on the right."""
    tiles = []
    for result in results[:PAIRS]:
        assert result.file is not None
        image = read_image(result.file)
        classes = result.truth[:, 0].astype(int).tolist()
        left = draw_boxes(image, result.truth[:, 1:], [names[index] for index in classes], classes)
        found = result.found[result.found[:, 4] >= confidence]
        right = draw_boxes(image, found[:, :4], *_labels(found, names))
        tiles += [_tile(left), _tile(right)]
    if tiles:
        write_tiles(path, tiles, columns=4)


def _tile(picture: np.ndarray) -> np.ndarray:
    """A picture in the middle of a white square."""
    ratio = TILE / max(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    down, right = TILE - picture.shape[0], TILE - picture.shape[1]
    margins = (down // 2, down - down // 2, right // 2, right - right // 2)
    return cv2.copyMakeBorder(picture, *margins, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def draw_worst(folder: Path, report: Report, results: Sequence[ImageResult]) -> list[Path]:
    """The images with the most missed objects and false alarms at the best confidence, at most 10, what is wrong drawn.

    Returns the written files, the worst first.
    """
    wrong = [_wrong(report, results, image) for image in range(len(results))]
    order = np.argsort([-len(boxes) for boxes, _, _ in wrong], kind="stable")[:WORST]
    written = []
    for place, image in enumerate(order.tolist(), start=1):
        boxes, words, kinds = wrong[image]
        file = results[image].file
        if len(boxes) and file is not None:
            written.append(folder / f"{place:02d}_{file.stem}.jpg")
            write_image(written[-1], draw_boxes(read_image(file), boxes, words, kinds))
    return written


def _wrong(report: Report, results: Sequence[ImageResult], image: int) -> tuple[np.ndarray, list[str], list[int]]:
    """An image's wrong detections and missed objects at the best confidence: (N, 4) boxes, words, kinds of error."""
    matches, result = report.matches, results[image]
    here = np.flatnonzero((matches.image == image) & (matches.score >= report.curves.confidence))
    alarms = here[report.errors.kind[here] >= 0]
    free = np.flatnonzero(~result.crowds())
    missed = free[~np.isin(free, matches.found[here])]
    kinds = [*report.errors.kind[alarms].tolist(), *[MISSED] * len(missed)]
    classes = [*matches.label[alarms].tolist(), *result.truth[missed, 0].astype(int).tolist()]
    words = [f"{KINDS[kind]}: {report.names[label]}" for kind, label in zip(kinds, classes, strict=True)]
    return np.concatenate((result.found[matches.row[alarms], :4], result.truth[missed, 1:])), words, kinds
