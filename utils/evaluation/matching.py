"""Which detection found which object: COCO's matching, image by image and class by class.

A COCO evaluator gives the AP; this gives what is behind it, detection by detection: curves over the confidence, kinds
of errors, intervals. Its own `average_precision` is the evaluator's to rounding, which a test holds it to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.evaluation.metrics import ImageResult
from utils.files import whole_file

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # of a class in an image; worse ones do not count


@dataclass(frozen=True)
class Matches:
    """D detections of a data set, image after image, class after class, the best first."""

    image: np.ndarray  # (D,) int64, 0 ... images - 1
    row: np.ndarray  # (D,) int64, which of its image's detections
    label: np.ndarray  # (D,) int64, class index
    score: np.ndarray  # (D,) float64
    correct: np.ndarray  # (D, 10) bool: finds an object that no better one found, at each of IOU_THRESHOLDS
    ignored: np.ndarray  # (D, 10) bool: lies on a crowd region, so counts neither for nor against
    found: np.ndarray  # (D,) int64: the object found at IoU .5, a row of its image's truth; -1 for none
    objects: np.ndarray  # (images, classes) int64: how many there are to find

    def save(self, path: Path, **more: Any) -> None:
        """Write as NumPy's .npz, with further arrays."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays, **more)

    @classmethod
    def load(cls, path: Path) -> tuple["Matches", dict[str, np.ndarray]]:
        """What `save` wrote: (matches, further arrays). Raises InputError for a file of another kind."""
        if not path.is_file():
            raise InputError(f"{path}: no such file; test.py writes it beside metrics.json, and both are needed")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(**{name: arrays.pop(name) for name in cls.__dataclass_fields__}), arrays
        except (ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path}: not the matches that test.py writes: {error}") from None


def match(results: Sequence[ImageResult], num_classes: int) -> Matches:
    """Match detections with objects as COCO does: the best-scored first, each to the free object it overlaps most."""
    objects = np.zeros((len(results), num_classes), np.int64)
    parts = []
    for number, result in enumerate(results):
        own, crowd = result.truth[:, 0].astype(np.int64), result.crowds()
        objects[number] = np.bincount(own[~crowd], minlength=num_classes)
        label = result.found[:, 5].astype(np.int64)
        rows = np.lexsort((-result.found[:, 4], label))  # class after class, the best first
        rows = rows[_place_in_class(label[rows]) < MAX_DETECTIONS]
        if not len(rows):
            continue
        label = label[rows]
        overlap = overlaps(result.found[rows, :4], result.truth[:, 1:5], crowd)
        overlap[label[:, None] != own[None]] = -1
        correct, ignored, found = _match_image(overlap, crowd)
        parts.append((np.full(len(rows), number), rows, label, result.found[rows, 4], correct, ignored, found))
    if not parts:
        none, no_flags = np.zeros(0, np.int64), np.zeros((0, len(IOU_THRESHOLDS)), bool)
        return Matches(none, none, none, none.astype(float), no_flags, no_flags, none, objects)
    image, row, label, score, correct, ignored, found = map(np.concatenate, zip(*parts, strict=True))
    return Matches(image, row, label, score.astype(np.float64), correct, ignored, found, objects)


def overlaps(found_xyxy: np.ndarray, truth_xyxy: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of boxes (D, 4) and boxes (N, 4), (D, N); with a crowd region the share of the detection that is on it."""
    found, truth = found_xyxy.astype(np.float64), truth_xyxy.astype(np.float64)
    found_sides, truth_sides = found[:, 2:] - found[:, :2], truth[:, 2:] - truth[:, :2]
    # ends as left + width: so the evaluator computes them, and a pair at a threshold falls on the same side
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum((found[:, :2] + found_sides)[:, None], (truth[:, :2] + truth_sides)[None])
    common = (high - low).clip(min=0).prod(axis=2)  # (D, N)
    own = found_sides.prod(axis=1)[:, None]
    union = np.where(crowd[None], own, own + truth_sides.prod(axis=1)[None] - common)
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _place_in_class(label: np.ndarray) -> np.ndarray:
    """(N,) sorted classes -> (N,): the how manieth of its class each is, from 0."""
    place: np.ndarray = np.arange(len(label)) - np.searchsorted(label, label)
    return place


def _match_image(overlap: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlaps (D, N), -1 between classes, each class's best-scored first -> correct (D, 10), ignored (D, 10), the
    object found at IoU .5 (D,) or -1.
    """
    detections, count = overlap.shape
    correct = np.zeros((detections, len(IOU_THRESHOLDS)), bool)
    ignored = np.zeros_like(correct)
    first = np.full(detections, -1)
    taken = np.zeros((len(IOU_THRESHOLDS), count), bool)
    levels = np.arange(len(IOU_THRESHOLDS))
    for row in np.flatnonzero(overlap.max(axis=1, initial=0) >= IOU_THRESHOLDS[0]):
        enough = overlap[row][None] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]  # (10, N)
        free = np.where(enough & ~taken & ~crowd, overlap[row], -1)
        best = count - 1 - free[:, ::-1].argmax(axis=1)  # of equal ones the last, as in pycocotools
        correct[row] = free[levels, best] >= 0
        taken[levels[correct[row]], best[correct[row]]] = True
        ignored[row] = ~correct[row] & (enough & crowd).any(axis=1)
        if correct[row, 0]:
            first[row] = best[0]
    return correct, ignored, first


def average_precision(matches: Matches, times: np.ndarray | None = None) -> np.ndarray:
    """AP at each IoU threshold for each class, (10, classes), NaN for a class without objects.

    `times` (images,) counts each image so many times, as a bootstrap sample does; once by default.
    """
    images, classes = matches.objects.shape
    times = np.ones(images, np.int64) if times is None else times
    totals = times @ matches.objects
    result = np.full((len(IOU_THRESHOLDS), classes), np.nan)
    for label in np.flatnonzero(totals).tolist():
        rows = np.flatnonzero(matches.label == label)
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        weight = times[matches.image[rows], None] * ~matches.ignored[rows]
        positive = np.cumsum(weight * matches.correct[rows], axis=0)
        every = np.cumsum(weight, axis=0)
        for level in range(len(IOU_THRESHOLDS)):
            result[level, label] = best_precisions(positive[:, level], every[:, level], int(totals[label])).mean()
    return result


def best_precisions(positive: np.ndarray, every: np.ndarray, total: int) -> np.ndarray:
    """(101,): at each of COCO's recalls the best precision there or at a higher one, 0 beyond the last.

    From how many were correct, of how many, after each detection; `total` is how many objects there are.
    """
    precision = positive / np.maximum(every, 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(positive / total, RECALLS, side="left")
    return np.append(precision, 0.0)[places]
