"""Predictions -> detections on the network's device: what `postprocess` does, and more labels a box, for AP."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from utils.boxes import cxcywh_to_xyxy

MAX_CANDIDATES = 30_000  # the best-scored ones that enter NMS
NMS_PART = 512  # so many at first, twice as many each time after
VOTE_PAIRS = 2**18  # kept boxes times candidates that voting compares at once


def detections(
    predictions: Tensor,
    confidence: float,
    iou: float,
    multi_label: bool = False,
    max_detections: int = 300,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
    per_class: int | None = None,
    vote: bool = False,
) -> list[Tensor]:
    """(B, N, 5+C) cx, cy, w, h, objectness, classes -> per image (n, 6): x1, y1, x2, y2, score, class, best first.

    Score is objectness times class probability. `multi_label` counts every (box, class) pair over `confidence`, else
    each box its best class. Boxes are in the predictions' pixels and not clipped; NMS is per class, or over all classes
    together if `agnostic`; with `classes`, all others are dropped before it, with `per_class` all but so many of each
    class. With `vote`, box voting moves what NMS leaves (see `voted`). Predictions of a diverged network that are not
    finite are no detections.
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
        score, label = score[:MAX_CANDIDATES], label[:MAX_CANDIDATES]
        boxes = cxcywh_to_xyxy(rows[usable][box[:MAX_CANDIDATES], :4])
        group = torch.zeros_like(label) if agnostic else label
        keep = suppress(boxes, score, group, iou, max_detections)
        kept = voted(boxes, score, label, keep, iou) if vote else boxes[keep]
        found.append(torch.cat((kept, score[keep, None], label[keep, None].to(kept)), dim=1))
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


def voted(boxes: Tensor, score: Tensor, label: Tensor, keep: Tensor, iou: float) -> Tensor:
    """Score-weighted mean of the boxes that overlap each kept one by more than `iou`, itself included: (n, 4).

    Box voting (Gidaris and Komodakis, Object detection via a multi-region and semantic segmentation-aware CNN model,
    ICCV 2015). `boxes` (N, 4) xyxy are all candidates, `keep` the indices that NMS left; only those of one class, in
    `label` (N,), vote on each other, also where NMS compares all.
    """
    if not len(keep):
        return boxes[keep]
    corners, weight = boxes.double(), score.double()
    width = corners[:, 2] - corners[:, 0]
    area, centre = width * (corners[:, 3] - corners[:, 1]), corners[:, 0] + width / 2
    first, last = centre.min(), centre.max()
    offset = label * (last - first + 1)  # of the classes, side by side
    place, order = (centre + offset).sort(stable=True)
    reach = width[keep].abs() * (1 - iou) / max(2 * iou, 1e-9) + 1  # from centre to centre: farther, IoU is lower
    low = torch.searchsorted(place, (centre[keep] - reach).clamp(min=first) + offset[keep])
    high = torch.searchsorted(place, (centre[keep] + reach).clamp(max=last) + offset[keep], right=True)
    count = high - low
    sums = corners.new_zeros(len(keep), 5)
    for part in torch.arange(len(keep), device=boxes.device).split(max(1, VOTE_PAIRS // int(count.max()))):
        own = part.repeat_interleave(count[part])
        rank = torch.arange(len(own), device=boxes.device)
        voter = order[rank + (high[part] - count[part].cumsum(0)).repeat_interleave(count[part])]
        kept = keep[own]
        sides = torch.minimum(corners[kept, 2:], corners[voter, 2:]) - torch.maximum(
            corners[kept, :2], corners[voter, :2]
        )
        shared = sides.clamp(min=0).prod(dim=1)
        votes = (shared / (area[kept] + area[voter] - shared) > iou) | (kept == voter)
        own, voter = own[votes], voter[votes]
        sums.index_add_(0, own, torch.cat((corners[voter] * weight[voter, None], weight[voter, None]), dim=1))
    return (sums[:, :4] / sums[:, 4:]).to(boxes)
