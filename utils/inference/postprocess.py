"""Predictions -> detections in NumPy, free of torch: threshold and non-maximum suppression, for every runtime.

`torch_postprocess` does the same on the network's device, for the many boxes that AP is measured on.
"""

from collections.abc import Sequence

import numpy as np

MAX_CANDIDATES = 30_000  # the best-scored ones that enter NMS


def detections(
    predictions: np.ndarray,
    confidence: float,
    iou: float,
    max_detections: int = 300,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """(B, N, 5+C) cx, cy, w, h, objectness, classes -> per image (n, 6): x1, y1, x2, y2, score, class, best first.

    Score is objectness times class probability; each box has its best class. Boxes are in the predictions' pixels and
    not clipped; NMS is per class, or over all classes together if `agnostic`; with `classes`, all others are dropped
    before it. Predictions of a diverged network that are not finite are no detections.
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
        keep = suppress(boxes, np.zeros_like(label) if agnostic else label, iou, max_detections)
        found.append(np.column_stack((boxes[keep], score[keep], label[keep])).astype(np.float32))
    return found


def suppress(boxes: np.ndarray, label: np.ndarray, iou: float, limit: int) -> np.ndarray:
    """Indices of the `limit` best boxes that greedy NMS leaves, of boxes (N, 4) xyxy with their classes, best first.

    A box goes when a better one of its class overlaps it by more than `iou`.
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
        left = left[~(overlaps & (label[left] == label[best]))]
    return np.array(keep, np.int64)
