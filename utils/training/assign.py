"""Targets -> cells: which predictions answer for which object.

A prediction can answer when its anchor's sides are within a factor of the object's (`MAX_RATIO`; the best-fitting
anchor of all heads always can, so that no object is left out) and its cell's decoding reaches the object's centre: the
cell that holds it, and the neighbours with scale_x_y > 1. These are the `candidates`. `by_quality` picks from them
those that presently predict the object best, as many as the predictions are good (the idea of SimOTA: Ge et al., YOLOX,
2021), and no prediction answers for two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.boxes import paired_ciou
from utils.network.decode import decode_boxes

MAX_RATIO = 4.0
REACH_MARGIN = 0.9  # the share of the decodable range that is used: its very ends need infinite logits
MAX_LOG_SIDE = 6.0  # boxes are at most exp(6) = 400 times wider or narrower than their anchor in training
NEIGHBOURS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
TOP = 10  # by_quality: the sum of the TOP best overlaps says how many predictions answer for an object


@dataclass(frozen=True)
class HeadSpec:
    """What the loss knows of a [yolo] head: anchors (A, 2) in pixels, classes, and how it decodes."""

    anchors: Tensor
    num_classes: int
    scale_x_y: float = 1.0
    new_coords: bool = False

    def decode(self, picked: Tensor, columns: Tensor, rows: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
        """Raw (n, 4+) at cells (n,) with anchor indices (n,) -> boxes (n, 4), cx, cy, w, h in pixels; sides bounded."""
        lowest = math.exp(-MAX_LOG_SIDE / 2) / 2 if self.new_coords else -MAX_LOG_SIDE  # sides of 0 have no CIoU
        bounded = torch.cat((picked[:, :2], picked[:, 2:4].clamp(lowest, MAX_LOG_SIDE)), dim=1)
        cells = torch.stack((columns, rows), dim=-1).to(picked)
        return decode_boxes(bounded, cells, self.anchors.to(picked)[anchors], stride, self.scale_x_y, self.new_coords)

    def logits(self, values: Tensor) -> Tensor:
        """Raw objectness or class values, any shape, as logits: with new_coords they are probabilities already."""
        return torch.logit(values, eps=1e-6) if self.new_coords else values


def head_specs(model: Any) -> list[HeadSpec]:
    """Those of a Darknet."""
    return [HeadSpec(h.anchors, h.num_classes, h.scale_x_y, h.new_coords) for h in model.yolo_layers]


@dataclass(frozen=True)
class Assignment:
    """n predictions of one head and what they answer for.

    `target` (n,) indexes the targets; `image`, `anchor`, `row`, `column` (n,) index raw (B, A, H, W, 5+C); `boxes`
    (n, 4) are cx, cy, w, h in pixels of the input, `classes` (n,) class indices.
    """

    target: Tensor
    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    boxes: Tensor
    classes: Tensor

    def only(self, keep: Tensor) -> "Assignment":
        """Those at these indices."""
        return Assignment(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    def pick(self, raw: Tensor) -> Tensor:
        """The predictions' values (n, 5+C) in the raw head (B, A, H, W, 5+C)."""
        return raw[self.image, self.anchor, self.row, self.column]


def assigned_ciou(
    picked: Tensor, spec: HeadSpec, found: Assignment, cells: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """(n,): the CIoU of predictions (n, 5+C) of a head of (H, W) `cells` with the objects that they answer for.

    `size` is the input's (height, width) in pixels.
    """
    stride = picked.new_tensor([size[1] / cells[1], size[0] / cells[0]])
    return paired_ciou(spec.decode(picked, found.column, found.row, found.anchor, stride), found.boxes)


def candidates(
    targets: Tensor, heads: Sequence[HeadSpec], maps: Sequence[tuple[int, int]], size: tuple[int, int]
) -> list[Assignment]:
    """All predictions that can answer for an object, one Assignment per head; one may answer for several objects.

    Targets are (M, 6: image, class, cx, cy, w, h in 0..1), `maps` are the heads' (H, W), `size` the input's (height,
    width) in pixels.
    """
    height, width = size
    boxes = targets[:, 2:] * targets.new_tensor([width, height, width, height])  # (M, 4) pixels
    ratios = [_side_ratio(boxes[:, None, 2:], head.anchors[None].to(boxes)) for head in heads]  # (M, A) each
    best = torch.cat(ratios, dim=1).argmin(dim=1) if len(boxes) else boxes.new_zeros(0, dtype=torch.long)
    result, first = [], 0
    for head, ratio, (rows, columns) in zip(heads, ratios, maps, strict=True):
        count = len(head.anchors)
        is_best = best[:, None] == torch.arange(first, first + count, device=best.device)
        target, anchor = ((ratio < MAX_RATIO) | is_best).nonzero(as_tuple=True)
        first += count
        centre = boxes[target, :2] * boxes.new_tensor([columns / width, rows / height])  # in cells
        pick, column, row = _cells(centre, rows, columns, head.scale_x_y)
        target, anchor = target[pick], anchor[pick]
        image, label = targets[target, 0].long(), targets[target, 1].long()
        result.append(Assignment(target, image, anchor, row, column, boxes[target], label))
    return result


@torch.no_grad()
def by_quality(
    targets: Tensor, raw: Sequence[Tensor], heads: Sequence[HeadSpec], size: tuple[int, int]
) -> list[Assignment]:
    """Of the `candidates` only those that presently predict each object best: which predictions answer for it.

    `raw` are the heads' outputs, (B, A, H, W, 5+C). An object wants as many as the sum of its TOP best CIoUs, at least
    one; a prediction that several objects want goes to the one it overlaps best, and an object that is left without
    any takes its best free one. Quality is CIoU times the root of the class probability.
    """
    able = candidates(targets, heads, [(head.shape[2], head.shape[3]) for head in raw], size)
    overlaps, qualities = [], []
    for head, spec, found in zip(raw, heads, able, strict=True):
        picked = found.pick(head).float()
        overlap = assigned_ciou(picked, spec, found, (head.shape[2], head.shape[3]), size).clamp(min=1e-6)
        score = picked[:, 5:].gather(1, found.classes[:, None])[:, 0]
        overlaps.append(overlap)
        qualities.append(overlap * (score if spec.new_coords else score.sigmoid()).clamp(min=1e-6).sqrt())
    overlap, quality = torch.cat(overlaps), torch.cat(qualities)
    target = torch.cat([found.target for found in able])
    top = _rank(target, overlap) < TOP
    wanted = torch.zeros(len(targets), device=target.device).index_add_(0, target[top], overlap[top])
    keep = _rank(target, quality) < wanted.int().clamp(min=1)[target]
    cells = _cell_ids(able, raw)
    keep &= _rank(cells, overlap * keep) == 0
    while (more := _for_orphans(target, cells, overlap, quality, keep)).any():
        keep |= more
    sizes = [len(found.target) for found in able]
    return [found.only(part.nonzero()[:, 0]) for found, part in zip(able, keep.split(sizes), strict=True)]


def _for_orphans(target: Tensor, cells: Tensor, overlap: Tensor, quality: Tensor, keep: Tensor) -> Tensor:
    """(n,) bool: for objects without a kept candidate their best free one; two that want the same are left one short.

    All arguments are (n,), one entry a candidate: its object, its prediction, and how good it is.
    """
    free = ~torch.isin(target, target[keep]) & ~torch.isin(cells, cells[keep])
    best = free & (_rank(target, quality * free) == 0)
    return best & (_rank(cells, overlap * best) == 0)


def _cell_ids(able: Sequence[Assignment], raw: Sequence[Tensor]) -> Tensor:
    """(n,) a number for each candidate's prediction, over all heads; the same for the same prediction."""
    ids, first = [], 0
    for found, head in zip(able, raw, strict=True):
        batch, anchors, rows, columns = head.shape[:4]
        ids.append(((found.image * anchors + found.anchor) * rows + found.row) * columns + found.column + first)
        first += batch * anchors * rows * columns
    return torch.cat(ids)


def _rank(group: Tensor, value: Tensor) -> Tensor:
    """(n,), (n,) -> (n,): each one's place (from 0) within its group, highest value first; ties by position."""
    order = value.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    sorted_group = group[order]
    place = torch.arange(len(group), device=group.device)
    starts = torch.ones_like(sorted_group, dtype=torch.bool)
    starts[1:] = sorted_group[1:] != sorted_group[:-1]
    first = torch.where(starts, place, 0).cummax(dim=0).values if len(group) else place
    rank = torch.empty_like(place)
    rank[order] = place - first
    return rank


def _side_ratio(sides: Tensor, anchors: Tensor) -> Tensor:
    """(M, 1, 2), (1, A, 2) -> (M, A): by how much the worse side differs, as a factor of at least 1."""
    ratio = sides / anchors
    return torch.maximum(ratio, 1 / ratio.clamp(min=1e-9)).amax(dim=-1)


def _cells(centre: Tensor, rows: int, columns: int, scale_x_y: float) -> tuple[Tensor, Tensor, Tensor]:
    """For centres (n, 2: x, y in cells): (index into n, column, row) of every cell that can reach one."""
    own = centre.long()
    own[:, 0].clamp_(0, columns - 1)
    own[:, 1].clamp_(0, rows - 1)
    reach = REACH_MARGIN * (scale_x_y - 1) / 2  # how far outside its cell a centre may lie
    picks, cells = [], []
    for step_x, step_y in NEIGHBOURS:
        cell = own + own.new_tensor([step_x, step_y])
        offset = centre - cell
        inside = (cell >= 0).all(dim=1) & (cell[:, 0] < columns) & (cell[:, 1] < rows)
        if step_x or step_y:
            inside &= ((offset > -reach) & (offset < 1 + reach)).all(dim=1)
        pick = inside.nonzero(as_tuple=True)[0]
        picks.append(pick)
        cells.append(cell[pick])
    cell = torch.cat(cells)
    return torch.cat(picks), cell[:, 0], cell[:, 1]
