"""What went wrong, detection by detection, and how much AP each kind of error costs (TIDE: Bolya et al., ECCV 2020).

A wrong detection has one kind: `box` (the right class, badly placed: IoU .1 to .5), `class` (well placed, wrong class),
`duplicate` (its object was found already), `background` (nothing there: IoU at most .1), `both` (the rest: wrong class
and badly placed). An object that no correct, badly placed or wrongly classed detection accounts for is `missed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.evaluation.matching import Matches, average_precision, overlaps
from utils.evaluation.metrics import ImageResult

KINDS = ("class", "box", "both", "duplicate", "background", "missed")
CLASS, BOX, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
FOREGROUND = 0.5  # IoU from which a detection is well placed
NOTHING = 0.1  # IoU up to which it lies on background


@dataclass(frozen=True)
class Errors:
    """The errors of D detections, in the order of their `Matches`, and the objects that were missed."""

    kind: np.ndarray  # (D,) int64, an index into KINDS; -1: correct, or on a crowd region
    target: np.ndarray  # (D,) int64, of class and box errors: the object that was meant, a row of its image's truth
    mends: np.ndarray  # (D,) bool: the best of the class and box errors that mean an object that nothing else found
    missed: list[np.ndarray]  # for each image the rows of its truth

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        found = np.bincount(self.kind[self.kind >= 0], minlength=len(KINDS))
        found[MISSED] = sum(len(rows) for rows in self.missed)
        return {kind: int(count) for kind, count in zip(KINDS, found, strict=True)}


def find_errors(results: Sequence[ImageResult], matches: Matches) -> Errors:
    """The kind of each detection that is wrong at IoU .5; `matches` are those of the results."""
    kind, target = np.full(len(matches.score), -1), np.full(len(matches.score), -1)
    mends = np.zeros(len(matches.score), bool)
    missed = []
    starts = np.searchsorted(matches.image, np.arange(len(results) + 1))
    for image, result in enumerate(results):
        here = np.arange(starts[image], starts[image + 1])
        objects = np.flatnonzero(~result.crowds())
        free = ~np.isin(objects, matches.found[here])
        wrong = here[~matches.correct[here, 0] & ~matches.ignored[here, 0]]
        rows = result.found[matches.row[wrong]]
        truth = result.truth[objects]
        kind[wrong], aim = _kinds(rows, matches.label[wrong], truth, free)
        target[wrong] = np.append(objects, -1)[aim]
        usable = np.zeros(len(objects), bool)
        for row in np.argsort(-matches.score[wrong], kind="stable").tolist():
            if aim[row] >= 0 and free[aim[row]] and not usable[aim[row]]:
                usable[aim[row]] = mends[wrong[row]] = True
        missed.append(objects[free & ~usable])
    return Errors(kind, target, mends, missed)


def _kinds(rows: np.ndarray, label: np.ndarray, truth: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrong detections (W, 6) against the objects (N, 5) -> kind (W,), and the object meant (W,), or -1."""
    if not len(truth) or not len(rows):
        return np.full(len(rows), BACKGROUND), np.full(len(rows), -1)
    overlap = overlaps(rows[:, :4], truth[:, 1:5], np.zeros(len(truth), bool))  # (W, N)
    same = label[:, None] == truth[None, :, 0]
    own, other = overlap * same, overlap * ~same
    placed = own.max(axis=1)
    cases = [
        (placed >= NOTHING) & (placed <= FOREGROUND),
        other.max(axis=1) >= FOREGROUND,
        (own * ~free).max(axis=1) >= FOREGROUND,
        overlap.max(axis=1) <= NOTHING,
    ]
    kind = np.select(cases, [BOX, CLASS, DUPLICATE, BACKGROUND], BOTH)
    aim = np.select([kind == BOX, kind == CLASS], [own.argmax(axis=1), other.argmax(axis=1)], -1)
    return kind, aim


def costs(results: Sequence[ImageResult], matches: Matches, errors: Errors) -> dict[str, float]:
    """How much AP@.5 (a fraction of 1) would be gained if one kind of error were mended, and nothing else.

    Class and box errors become correct where they mend an object; those and all others vanish; missed objects are no
    longer asked for. The gains do not add up to what is lacking.
    """
    before = _ap50(matches)
    return {name: max(0.0, _ap50(_mended(results, matches, errors, kind)) - before) for kind, name in enumerate(KINDS)}


def _ap50(matches: Matches) -> float:
    values = average_precision(matches)[0]
    return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0


def _mended(results: Sequence[ImageResult], matches: Matches, errors: Errors, kind: int) -> Matches:
    """The matches as they would be without one kind of error."""
    objects, label, correct = matches.objects.copy(), matches.label.copy(), matches.correct.copy()
    if kind == MISSED:
        for image, rows in enumerate(errors.missed):
            labels = results[image].truth[rows, 0].astype(np.int64)
            objects[image] -= np.bincount(labels, minlength=objects.shape[1])
        return replace(matches, objects=objects)
    mended = (errors.kind == kind) & errors.mends
    for row in np.flatnonzero(mended).tolist():
        label[row] = results[matches.image[row]].truth[errors.target[row], 0]
        correct[row] = True
    keep = (errors.kind != kind) | mended
    arrays = {name: getattr(matches, name)[keep] for name in ("image", "row", "score", "ignored", "found")}
    return replace(matches, **arrays, label=label[keep], correct=correct[keep])
