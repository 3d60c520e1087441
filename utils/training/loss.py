"""The detection loss. It takes raw heads and targets and never sees the model.

box: 1 - CIoU of the assigned predictions. objectness: binary cross-entropy against their CIoU, over all predictions.
class: binary cross-entropy, also with one class, since Darknet scores objectness times class there too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.boxes import paired_ciou
from utils.network.decode import decode_boxes
from utils.training.assign import Assignment, HeadSpec, assign

MAX_LOG_SIDE = 6.0  # raw width and height are clamped here in training: exp(6) is 400 anchors wide
BALANCE = {8: 4.0, 16: 1.0, 32: 0.4, 64: 0.1}  # objectness by stride: fine maps have more, emptier cells


@dataclass(frozen=True)
class Gains:
    """Weights of the three parts, for a 640-pixel input; a prediction's class loss is summed over classes."""

    box: float = 0.05
    objectness: float = 1.0
    classes: float = 0.03


class DetectionLoss(nn.Module):
    """(raw heads, targets, input size) -> (total for the batch, its parts as means: box, objectness, class)."""

    def __init__(self, heads: Sequence[HeadSpec], gains: Gains | None = None) -> None:
        super().__init__()
        self.heads = list(heads)
        self.gains = gains or Gains()

    def forward(self, raw: Sequence[Tensor], targets: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`raw`: (B, A, H, W, 5+C) a head; `targets`: (M, 6) image, class, cx, cy, w, h in 0..1; size: height, width"""
        raw = [head.float() for head in raw]
        assignments = assign(targets, self.heads, [(head.shape[2], head.shape[3]) for head in raw], size)
        parts = torch.stack(
            [
                self._head_loss(predicted, spec, found, size)
                for predicted, spec, found in zip(raw, self.heads, assignments, strict=True)
            ]
        ).sum(dim=0)
        per_head = 3 / len(self.heads)
        gains = parts.new_tensor(
            [
                self.gains.box * per_head,
                self.gains.objectness * per_head * size[0] * size[1] / 640**2,
                self.gains.classes * per_head,
            ]
        )
        parts = parts * gains
        return parts.sum() * raw[0].shape[0], parts.detach()

    def _head_loss(self, raw: Tensor, spec: HeadSpec, found: Assignment, size: tuple[int, int]) -> Tensor:
        """(3,): mean box, objectness and class loss of one head."""
        rows, columns = raw.shape[2:4]
        wanted = torch.zeros_like(raw[..., 4])  # (B, A, H, W)
        box_loss = class_loss = raw.sum() * 0
        if len(found.image):
            picked = raw[found.image, found.anchor, found.row, found.column]  # (n, 5+C)
            cells = torch.stack((found.column, found.row), dim=-1).to(picked)
            stride = picked.new_tensor([size[1] / columns, size[0] / rows])
            bounded = torch.cat((picked[:, :2], picked[:, 2:4].clamp(max=MAX_LOG_SIDE)), dim=1)
            anchors = spec.anchors.to(picked)[found.anchor]
            boxes = decode_boxes(bounded, cells, anchors, stride, spec.scale_x_y, spec.new_coords)
            ciou = paired_ciou(boxes, found.boxes)
            box_loss = (1 - ciou).mean()
            quality = ciou.detach().clamp(min=0)
            order = quality.argsort()  # of predictions wanted twice, the better match counts
            where = (found.image[order], found.anchor[order], found.row[order], found.column[order])
            wanted[where] = quality[order]
            classes = F.one_hot(found.classes, spec.num_classes).to(picked)
            class_loss = F.binary_cross_entropy_with_logits(
                _logits(picked[:, 5:], spec), classes, reduction="sum"
            ) / len(picked)
        stride_px = round((size[0] / rows * size[1] / columns) ** 0.5)
        balance = BALANCE.get(stride_px, 1.0)
        objectness = F.binary_cross_entropy_with_logits(_logits(raw[..., 4], spec), wanted) * balance
        return torch.stack((box_loss, objectness, class_loss))


def _logits(values: Tensor, spec: HeadSpec) -> Tensor:
    """The head's values as logits: with new_coords they are probabilities already."""
    return torch.logit(values, eps=1e-6) if spec.new_coords else values
