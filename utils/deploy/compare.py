"""How far two runtimes are apart on the same images: in the maps inside, in boxes and in scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from utils.deploy.maps import Maps
from utils.evaluation.matching import overlaps
from utils.inference.postprocess import detections
from utils.log import counted
from utils.runtimes.runtime import Check, Runtime

CONFIDENCE, IOU = 0.25, 0.45  # of the boxes that detect.py shows
VISIBLE = 0.001  # boxes of lower scores are nothing to anyone; AP begins here
UNFOLDED = "normalised by OpenCV"
LIMITS = {
    "float32": (0.1, 0.001, 1e-4),
    "float16": (8.0, 0.05, 0.05),
    "bfloat16": (8.0, 0.05, 0.05),
    UNFOLDED: (2.0, 0.01, 0.05),
}
"""Pixels of the input, score, and share of a map's maximum that an export may be off, by the precision of its weights.

OpenCV adds 1e-6 to variances where Darknet adds 1e-5, so that unfolded batch normalisation differs by a little.
"""


@dataclass(frozen=True)
class Difference:
    """The greatest ones."""

    pixels: float
    """Of a box's centre, width or height, of those whose score is at least VISIBLE in one of the two."""
    score: float
    """Of objectness times class probability."""
    heads: float | None = None
    """Of the maps that enter [yolo], as shares of their maximum; None where they were not compared."""
    changed: int | None = None
    """Boxes behind NMS that one of the two has and the other has not; None where they were not compared."""

    def words(self) -> str:
        """For people."""
        heads = "" if self.heads is None else f"heads {self.heads:.2g} of their maximum, "
        changed = f", {counted(self.changed, 'box', 'boxes')} more or less" if self.changed else ""
        return f"{heads}boxes {self.pixels:.2g} px, scores {self.score:.2g}{changed}"

    def within(self, precision: str) -> bool:
        """Whether it is within the limits of this precision, heads included; of int8 AP decides, so that all is.

        In bfloat16 no box may have changed, either.
        """
        if precision not in LIMITS:
            return True
        if self.heads is None or (precision == "bfloat16" and self.changed != 0):
            return False
        found = self.pixels, self.score, self.heads
        return all(value <= limit for value, limit in zip(found, LIMITS[precision], strict=True))  # NaN is not

    def check(self, passed: bool, ap: float | None) -> Check:
        """For the file's metadata."""
        found = {"heads": self.heads, "pixels": self.pixels, "score": self.score, "ap": ap}
        known = {key: value for key, value in found.items() if value is not None and np.isfinite(value)}
        return {"passed": passed, **known}


def compare_runtimes(reference: Runtime, other: Runtime, images: Sequence[np.ndarray]) -> Difference:
    """Over images (H, W, C) uint8 of the input's size; where one has NMS inside, of what NMS leaves."""
    found = [_compare(reference.infer(image[None]), other.infer(image[None]), other) for image in images]
    pixels, score = (float(np.max(column)) for column in zip(*found, strict=True))
    return Difference(pixels, score)


def changed_boxes(reference: Runtime, other: Runtime, images: Sequence[np.ndarray]) -> int:
    """Boxes that one of them has and the other has not, at detect.py's thresholds or those of the NMS inside."""
    confidence, iou = other.info.nms or (CONFIDENCE, IOU)
    changed = 0
    for image in images:
        (own,) = detections(reference.infer(image[None]), confidence, iou, vote=other.info.vote)
        (its,) = detections(other.infer(image[None]), confidence, other.info.nms_after(iou, False)[0])
        changed += int((~has_like(own, its)).sum() + (~has_like(its, own)).sum())
    return changed


def has_like(own: np.ndarray, its: np.ndarray) -> np.ndarray:
    """(n, 6) and (m, 6) rows x1, y1, x2, y2, score, class -> (n,) bool: the other has one of its class, IoU >= 0.5."""
    iou = overlaps(own[:, :4], its[:, :4], np.zeros(len(its), bool))
    alike: np.ndarray = ((iou >= 0.5) & (own[:, None, 5] == its[None, :, 5])).any(axis=1)
    return alike


def compare_maps(
    reference: Callable[[np.ndarray], Maps], other: Callable[[np.ndarray], Maps], images: Sequence[np.ndarray]
) -> dict[str, float]:
    """The greatest difference of each map that both show, as a share of the greatest value in it.

    Infinite where the shapes are not the same, NaN where there are values that are not finite.
    """
    worst: dict[str, float] = {}
    for image in images:
        own, its = reference(image), other(image)
        for name in (name for name in own if name in its):
            worst[name] = float(np.maximum(worst.get(name, 0.0), relative_difference(own[name], its[name])))
    return worst


def relative_difference(own: np.ndarray, its: np.ndarray) -> float:
    """The greatest difference, as a share of the greatest value of `own`; see `compare_maps`."""
    if own.shape != its.shape:
        return float("inf")
    if not (np.isfinite(own).all() and np.isfinite(its).all()):
        return float("nan")
    return float(np.abs(own - its).max() / max(float(np.abs(own).max()), 1e-30))


def _compare(ours: np.ndarray, theirs: np.ndarray, other: Runtime) -> tuple[float, float]:
    if other.info.nms is not None:
        confidence, iou = other.info.nms
        (own,) = detections(ours, confidence, iou, vote=other.info.vote)
        (its,) = detections(theirs, confidence, 1.0)
        return _compare_detections(own, its, confidence)
    own, its = (rows[..., 4:5] * rows[..., 5:] for rows in (ours, theirs))
    seen = np.maximum(own, its).max(axis=-1) >= VISIBLE
    return float(np.abs(ours - theirs)[seen, :4].max(initial=0)), float(np.abs(own - its).max(initial=0))


def _compare_detections(own: np.ndarray, its: np.ndarray, confidence: float) -> tuple[float, float]:
    """(n, 6) and (m, 6): each box with the nearest one of its class; one without has all of its score as difference."""
    pixels, scores = [0.0], [0.0]
    for one, two in ((own, its), (its, own)):
        for row in one[one[:, 4] > confidence + VISIBLE]:
            same = two[two[:, 5] == row[5]]
            if not len(same):
                scores.append(float(row[4]))
                continue
            nearest = same[np.abs(same[:, :4] - row[:4]).max(axis=1).argmin()]
            pixels.append(float(np.abs(nearest[:4] - row[:4]).max()))
            scores.append(float(abs(nearest[4] - row[4])))
    return max(pixels), max(scores)
