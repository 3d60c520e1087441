"""Targets -> cells: which predictions answer for which object.

An anchor answers when its sides are within a factor of the object's (`MAX_RATIO`); the best-fitting anchor of all heads
always does, so that no object is left out. Of the cells, the one that holds the centre answers, and each neighbour
from which the head's decoding can reach the centre (only with scale_x_y > 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_RATIO = 4.0
REACH_MARGIN = 0.9  # the share of the decodable range that is used: its very ends need infinite logits


@dataclass(frozen=True)
class HeadSpec:
    """What the loss knows of a [yolo] head: anchors (A, 2) in pixels, classes, and how it decodes."""

    anchors: Tensor
    num_classes: int
    scale_x_y: float = 1.0
    new_coords: bool = False


@dataclass(frozen=True)
class Assignment:
    """n predictions of one head and what they answer for.

    `image`, `anchor`, `row`, `column` (n,) index raw (B, A, H, W, 5+C); `boxes` (n, 4) are cx, cy, w, h in pixels
    of the input, `classes` (n,) class indices.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    boxes: Tensor
    classes: Tensor


def assign(
    targets: Tensor, heads: Sequence[HeadSpec], maps: Sequence[tuple[int, int]], size: tuple[int, int]
) -> list[Assignment]:
    """Targets (M, 6: image, class, cx, cy, w, h in 0..1) -> one Assignment per head.

    `maps` are the heads' (H, W), `size` the input's (height, width) in pixels.
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
        result.append(
            Assignment(targets[target, 0].long(), anchor, row, column, boxes[target], targets[target, 1].long())
        )
    return result


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
    for step_x, step_y in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
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
