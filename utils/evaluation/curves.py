"""Precision, recall and F1 over the confidence, and which classes are taken for which."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.evaluation.matching import RECALLS, Matches, best_precisions, overlaps
from utils.evaluation.metrics import ImageResult

CONFIDENCES = np.linspace(0, 1, 1001)


@dataclass(frozen=True)
class Curves:
    """At IoU .5 for each class, over CONFIDENCES, (classes, 1001); NaN for classes without objects.

    Precision is 1 where nothing is found any more.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    by_recall: np.ndarray  # (classes, 101): the best precision at each of COCO's recalls; its mean is AP@.5
    best: int  # the confidence with the highest mean F1, an index into CONFIDENCES

    @property
    def confidence(self) -> float:
        """The confidence with the highest mean F1."""
        return float(CONFIDENCES[self.best])


def curves(matches: Matches) -> Curves:
    """The curves of all classes."""
    classes = matches.objects.shape[1]
    precision, recall = np.full((classes, len(CONFIDENCES)), np.nan), np.full((classes, len(CONFIDENCES)), np.nan)
    by_recall = np.full((classes, len(RECALLS)), np.nan)
    totals = matches.objects.sum(axis=0)
    for label in np.flatnonzero(totals).tolist():
        rows = np.flatnonzero((matches.label == label) & ~matches.ignored[:, 0])
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        positive = np.concatenate(([0], np.cumsum(matches.correct[rows, 0])))
        count = np.searchsorted(-matches.score[rows], -CONFIDENCES, side="right")  # detections of at least that score
        precision[label] = np.where(count > 0, positive[count] / np.maximum(count, 1), 1)
        recall[label] = positive[count] / totals[label]
        by_recall[label] = best_precisions(positive[1:], np.arange(1, len(rows) + 1), int(totals[label]))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    known = f1[totals > 0]
    best = int(known.mean(axis=0).argmax()) if len(known) else 0
    return Curves(precision, recall, f1, by_recall, best)


def confusion(results: Sequence[ImageResult], num_classes: int, confidence: float) -> np.ndarray:
    """(classes + 1, classes + 1) counts: row, the object's class; column, what was found there; last: background.

    Detections of at least this confidence and objects are paired by IoU, at least .5, the highest first, whatever
    their classes. Detections on crowd regions are left out.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for result in results:
        found = result.found[result.found[:, 4] >= confidence]
        crowd = result.crowds()
        overlap = overlaps(found[:, :4], result.truth[:, 1:5], crowd)  # (D, N)
        labels, classes = result.truth[:, 0].astype(int), found[:, 5].astype(int)
        on_crowd = (overlap[:, crowd] >= 0.5).any(axis=1)
        rows, columns = np.nonzero((overlap >= 0.5) & ~crowd)
        free_found, free_truth = np.ones(len(found), bool), ~crowd
        for pair in np.argsort(-overlap[rows, columns], kind="stable"):
            row, column = rows[pair], columns[pair]
            if free_found[row] and free_truth[column]:
                free_found[row] = free_truth[column] = False
                counts[labels[column], classes[row]] += 1
        counts[num_classes] += np.bincount(classes[free_found & ~on_crowd], minlength=num_classes + 1)
        counts[:, num_classes] += np.bincount(labels[free_truth], minlength=num_classes + 1)
    return counts
