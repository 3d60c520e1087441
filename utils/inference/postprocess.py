"""Predictions -> detections in NumPy, free of torch: threshold and non-maximum suppression, for every runtime.

`torch_postprocess` does the same on the network's device, for the many boxes that AP is measured on.
"""

from collections.abc import Iterator, Sequence

import numpy as np

MAX_CANDIDATES = 30_000  # the best-scored ones that enter NMS
PAIRS = 2**18  # of boxes that are compared at once


def detections(
    predictions: np.ndarray,
    confidence: float,
    iou: float,
    max_detections: int = 300,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
    vote: bool = False,
) -> list[np.ndarray]:
    """(B, N, 5+C) cx, cy, w, h, objectness, classes -> per image (n, 6): x1, y1, x2, y2, score, class, best first.

    Score is objectness times class probability; each box has its best class. Boxes are in the predictions' pixels and
    not clipped; NMS is per class, or over all classes together if `agnostic`; with `classes`, all others are dropped
    before it. With `vote`, box voting moves what NMS leaves (see `voted`). Predictions of a diverged network that are
    not finite are no detections.
    """
    found = []
    for rows in predictions:
        rows = rows[rows[:, 4] > confidence]
        rows = rows[np.isfinite(rows[:, :4]).all(axis=1)]
        scores = rows[:, 4:5] * rows[:, 5:]  # (n, C)
        label = scores.argmax(axis=1) if len(rows) else np.zeros(0, np.int64)
        score = scores[np.arange(len(rows)), label]
        kept = score > confidence
        if classes is not None:
            kept &= np.isin(label, np.asarray(classes))
        rows, score, label = rows[kept], score[kept], label[kept]
        order = np.argsort(-score, kind="stable")[:MAX_CANDIDATES]
        centres, halves = rows[order, :2], rows[order, 2:4] * np.float32(0.5)
        boxes = np.concatenate((centres - halves, centres + halves), axis=1)
        score, label = score[order], label[order]
        group = np.zeros_like(label) if agnostic else label
        keep = suppress(boxes, group, iou, max_detections)
        kept = voted(boxes, score, label, keep, iou) if vote else boxes[keep]
        found.append(np.column_stack((kept, score[keep], label[keep])).astype(np.float32))
    return found


def suppress(
    boxes: np.ndarray, label: np.ndarray, iou: float, limit: int, origin: np.ndarray | None = None
) -> np.ndarray:
    """Indices of the `limit` best boxes that greedy NMS leaves, of boxes (N, 4) xyxy with their classes, best first.

    A box goes when a better one of its class overlaps it by more than `iou`; with `origin` (N,), one of another origin.
    """
    boxes = boxes.astype(np.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    area = (high - low).prod(axis=1)
    left = np.arange(len(boxes))
    keep: list[int] = []
    while len(left) and len(keep) < limit:
        best, left = left[0], left[1:]
        keep.append(int(best))
        sides = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left])
        shared = np.clip(sides, 0, None).prod(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # boxes without area overlap nothing
            overlaps = shared / (area[best] + area[left] - shared) > iou
        comparable = label[left] == label[best]
        if origin is not None:
            comparable &= origin[left] != origin[best]
        left = left[~(overlaps & comparable)]
    return np.array(keep, np.int64)


def voted(boxes: np.ndarray, score: np.ndarray, label: np.ndarray, keep: np.ndarray, iou: float) -> np.ndarray:
    """Score-weighted mean of the boxes that overlap each kept one by more than `iou`, itself included: (n, 4).

    Box voting (Gidaris and Komodakis, Object detection via a multi-region and semantic segmentation-aware CNN model,
    ICCV 2015). `boxes` (N, 4) xyxy are all candidates, `keep` the indices that NMS left; only those of one class, in
    `label` (N,), vote on each other, also where NMS compares all.
    """
    if not len(keep):
        return boxes[keep]
    corners, weight = boxes.astype(np.float64), score.astype(np.float64)
    width = corners[:, 2] - corners[:, 0]
    area, centre = width * (corners[:, 3] - corners[:, 1]), corners[:, 0] + width / 2
    first, last = centre.min(), centre.max()
    offset = label * (last - first + 1)  # of the classes, side by side
    order = np.argsort(centre + offset, kind="stable")
    place = (centre + offset)[order]
    reach = np.abs(width[keep]) * (1 - iou) / max(2 * iou, 1e-9) + 1  # from centre to centre: farther, IoU is lower
    low = np.searchsorted(place, np.maximum(centre[keep] - reach, first) + offset[keep])
    high = np.searchsorted(place, np.minimum(centre[keep] + reach, last) + offset[keep], side="right")
    result = np.empty((len(keep), 4))
    for own, position in pairs_within(low, high):
        kept, voter = keep[own], order[position]
        sides = np.minimum(corners[kept, 2:], corners[voter, 2:]) - np.maximum(corners[kept, :2], corners[voter, :2])
        shared = np.clip(sides, 0, None).prod(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # boxes without area overlap nothing
            votes = (shared / (area[kept] + area[voter] - shared) > iou) | (kept == voter)
        own, voter = own[votes], voter[votes]
        rows = np.column_stack((corners[voter] * weight[voter, None], weight[voter]))
        first_votes = np.flatnonzero(np.diff(own, prepend=-1))
        sums = np.add.reduceat(rows, first_votes)
        result[own[first_votes]] = sums[:, :4] / sums[:, 4:]
    return result.astype(boxes.dtype)


def pairs_within(low: np.ndarray, high: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs (i, j) with low[i] <= j < high[i], as two arrays, in order; about PAIRS of them at a time."""
    count = np.maximum(high - low, 0)
    total = count.cumsum()
    cuts = np.searchsorted(total, np.arange(PAIRS, count.sum(), PAIRS))
    for part in np.split(np.arange(len(count)), cuts):
        first = part.repeat(count[part])
        if len(first):
            ends = count[part].cumsum()
            yield first, np.arange(len(first)) + (low[part] + count[part] - ends).repeat(count[part])
