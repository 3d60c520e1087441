"""Predictions -> detections on the network's device: what `postprocess` does, and more labels a box, for AP."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from utils.boxes import cxcywh_to_xyxy

MAX_CANDIDATES = 30_000  # the best-scored ones that enter NMS
NMS_PART = 512  # so many at first, twice as many each time after


def detections(
    predictions: Tensor,
    confidence: float,
    iou: float,
    multi_label: bool = False,
    max_detections: int = 300,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
    per_class: int | None = None,
) -> list[Tensor]:
    """(B, N, 5+C) cx, cy, w, h, objectness, classes -> per image (n, 6): x1, y1, x2, y2, score, class, best first.

    Score is objectness times class probability. `multi_label` counts every (box, class) pair over `confidence`, else
    each box its best class. Boxes are in the predictions' pixels and not clipped; NMS is per class, or over all classes
    together if `agnostic`; with `classes`, all others are dropped before it, with `per_class` all but so many of each
    class. Predictions of a diverged network that are not finite are no detections.
    """
    found = []
    for rows in predictions.float():
        usable = (rows[:, 4] > confidence) & rows[:, :4].isfinite().all(dim=1)
        score, box, label = _candidates(rows[usable], confidence, multi_label)
        if classes is not None:
            wanted = torch.isin(label, torch.tensor(list(classes), device=label.device))
            score, box, label = score[wanted], box[wanted], label[wanted]
        score, order = score.sort(descending=True, stable=True)
        box, label = box[order], label[order]
        if per_class is not None:
            kept = _first_of_each(label, per_class)
            score, box, label = score[kept], box[kept], label[kept]
        found.append(_select(rows[usable][box, :4], score, label, iou, max_detections, agnostic))
    return found


def _candidates(rows: Tensor, confidence: float, multi_label: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 5+C) -> score, row and class of each pair, or of each row's best class, over the confidence."""
    scores = rows[:, 4:5] * rows[:, 5:]  # (N, C)
    if multi_label:
        box, label = (scores > confidence).nonzero(as_tuple=True)
        return scores[box, label], box, label
    score, label = scores.max(dim=1)
    box = (score > confidence).nonzero(as_tuple=True)[0]
    return score[box], box, label[box]


def _first_of_each(label: Tensor, count: int) -> Tensor:
    """(N,) classes -> (N,) bool: whether it is among the first `count` of its class."""
    ordered, order = label.sort(stable=True)
    place = torch.arange(len(label), device=label.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(label, dtype=torch.bool).scatter_(0, order, place < count)


def _select(boxes: Tensor, score: Tensor, label: Tensor, iou: float, limit: int, agnostic: bool) -> Tensor:
    """Boxes (N, 4) as cx, cy, w, h, their scores and classes, best first -> (n, 6), what NMS leaves."""
    score, label = score[:MAX_CANDIDATES], label[:MAX_CANDIDATES]
    boxes = cxcywh_to_xyxy(boxes[:MAX_CANDIDATES])
    keep = suppress(boxes, score, torch.zeros_like(label) if agnostic else label, iou, limit)
    return torch.cat((boxes[keep], score[keep, None], label[keep, None].to(boxes)), dim=1)


def suppress(boxes: Tensor, score: Tensor, label: Tensor, iou: float, limit: int) -> Tensor:
    """Indices of the `limit` best boxes that NMS leaves, of boxes sorted by score, best first.

    A box is only ever suppressed by a better one, so the rest need not be looked at once enough are left. Classes are
    moved apart, so that one call serves all of them; in 64 bits, since 32 would round the boxes of the last ones.
    """
    boxes = boxes.double()
    if len(boxes):
        boxes = boxes + (label * (boxes.max() - boxes.min() + 1))[:, None]
    keep = torch.zeros(0, dtype=torch.long, device=boxes.device)
    first, size = 0, NMS_PART
    while first < len(boxes) and len(keep) < limit:
        part = torch.arange(first, min(first + size, len(boxes)), device=boxes.device)
        part = torch.cat((keep, part))
        keep = part[nms(boxes[part], score[part].double(), iou)].sort().values
        first, size = first + size, 2 * size
    return keep[:limit]
