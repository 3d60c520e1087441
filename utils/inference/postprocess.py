"""Predictions -> detections: threshold, non-maximum suppression. The geometry back to the image is `letterbox`'s."""

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
) -> list[Tensor]:
    """(B, N, 5+C) cx, cy, w, h, objectness, classes -> per image (n, 6): x1, y1, x2, y2, score, class, best first.

    Score is objectness times class probability. `multi_label` counts every (box, class) pair over `confidence`, else
    each box its best class. Boxes are in the predictions' pixels and not clipped; NMS is per class, or over all classes
    together if `agnostic`. Those of a diverged network that are not finite are no detections.
    """
    found = []
    for rows in predictions.float():
        usable = (rows[:, 4] > confidence) & rows[:, :4].isfinite().all(dim=1)
        found.append(_detect(rows[usable], confidence, iou, multi_label, max_detections, agnostic))
    return found


def _detect(rows: Tensor, confidence: float, iou: float, multi_label: bool, limit: int, agnostic: bool) -> Tensor:
    scores = rows[:, 4:5] * rows[:, 5:]  # (N, C)
    if multi_label:
        box, label = (scores > confidence).nonzero(as_tuple=True)
        score = scores[box, label]
    else:
        score, label = scores.max(dim=1)
        box = (score > confidence).nonzero(as_tuple=True)[0]
        score, label = score[box], label[box]
    score, order = score.sort(descending=True, stable=True)
    score, box, label = score[:MAX_CANDIDATES], box[order][:MAX_CANDIDATES], label[order][:MAX_CANDIDATES]
    boxes = cxcywh_to_xyxy(rows[box, :4])
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
