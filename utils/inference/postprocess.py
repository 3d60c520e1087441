"""Predictions -> detections: threshold, non-maximum suppression. The geometry back to the image is `letterbox`'s."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from utils.boxes import cxcywh_to_xyxy

MAX_CANDIDATES = 30_000  # the best-scored ones that enter NMS
NMS_PART = 512  # so many at a time


def detections(
    predictions: Tensor,
    confidence: float,
    iou: float,
    multi_label: bool = False,
    max_detections: int = 300,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
) -> list[Tensor]:
    """(B, N, 5+C) cx, cy, w, h, objectness, classes -> per image (n, 6): x1, y1, x2, y2, score, class, best first.

    Score is objectness times class probability. `multi_label` counts every (box, class) pair over `confidence`, else
    each box its best class. Boxes are in the predictions' pixels and not clipped; NMS is per class, or over all classes
    together if `agnostic`; with `classes`, all others are dropped before it. Predictions of a diverged network that
    are not finite are no detections.
    """
    found = []
    for rows in predictions.float():
        usable = (rows[:, 4] > confidence) & rows[:, :4].isfinite().all(dim=1)
        score, box, label = _candidates(rows[usable], confidence, multi_label)
        if classes is not None:
            wanted = torch.isin(label, torch.tensor(list(classes), device=label.device))
            score, box, label = score[wanted], box[wanted], label[wanted]
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


def _select(boxes: Tensor, score: Tensor, label: Tensor, iou: float, limit: int, agnostic: bool) -> Tensor:
    """Boxes (N, 4) as cx, cy, w, h, their scores and classes -> (n, 6), what NMS leaves."""
    score, order = score.sort(descending=True, stable=True)
    score, order = score[:MAX_CANDIDATES], order[:MAX_CANDIDATES]
    boxes, label = cxcywh_to_xyxy(boxes[order]), label[order]
    keep = _suppress(boxes, score, torch.zeros_like(label) if agnostic else label, iou, limit)
    return torch.cat((boxes[keep], score[keep, None], label[keep, None].to(boxes)), dim=1)


def _suppress(boxes: Tensor, score: Tensor, label: Tensor, iou: float, limit: int) -> Tensor:
    """Indices of the `limit` best boxes that NMS leaves, of boxes sorted by score, best first.

    A box is only ever suppressed by a better one, so the rest need not be looked at once enough are left.
    """
    keep = torch.zeros(0, dtype=torch.long, device=boxes.device)
    for part in torch.arange(len(boxes), device=boxes.device).split(NMS_PART):
        part = torch.cat((keep, part))
        keep = part[batched_nms(boxes[part], score[part], label[part], iou)].sort().values
        if len(keep) >= limit:
            break
    return keep[:limit]
