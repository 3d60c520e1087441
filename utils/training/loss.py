"""The detection loss. It takes raw heads and targets and never sees the model.

box: 1 - CIoU of the assigned predictions. objectness: binary cross-entropy against their CIoU, over all predictions.
class: binary cross-entropy, also with one class, since Darknet scores objectness times class there too.

All three are sums over all heads for each assigned prediction, so their balance is the same for few objects and many,
small inputs and large.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.training.assign import Assignment, HeadSpec, assigned_ciou, by_quality
from utils.training.distributed import Ranks

HEADS = 3  # the gains are those of networks with three heads
JOINT_OBJECTNESS = 0.01  # times the sum over all cells for each assigned prediction: a fifth of the box gain


@dataclass(frozen=True)
class LossOptions:
    """Gains (weights of the three parts; class loss is summed over classes) and what classes aim at."""

    box: float = 0.05
    objectness: float = 1.0
    classes: float = 0.03
    label_smoothing: float = 0.0  # class targets 1-s/2 and s/2 (Szegedy et al., CVPR 2016, for two outcomes)
    class_weights: tuple[float, ...] | None = None  # a factor for each class's share of the class loss


class DetectionLoss(nn.Module):
    """(raw heads, targets, input size) -> (total for the batch, its parts as means: box, objectness, class).

    With several processes, gradients averaged over them are those of one process with all of their images.
    """

    parts = ("box", "objectness", "classes")

    def __init__(
        self,
        heads: Sequence[HeadSpec],
        options: LossOptions | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008 - immutable
    ) -> None:
        super().__init__()
        self.heads = list(heads)
        self.options = options or LossOptions()
        self.ranks = ranks

    def forward(self, raw: Sequence[Tensor], targets: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`raw`: (B, A, H, W, 5+C) a head; `targets`: (M, 6) image, class, cx, cy, w, h in 0..1; size: height, width"""
        raw = [head.float() for head in raw]
        return self.losses(raw, self.assign(raw, targets, size), size)

    def assign(self, raw: Sequence[Tensor], targets: Tensor, size: tuple[int, int]) -> list[Assignment]:
        """Which predictions answer for which target; float32 as in `losses`."""
        return by_quality(targets, raw, self.heads, size)

    def losses(
        self, raw: Sequence[Tensor], assignments: Sequence[Assignment], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, for raw heads in float32 and what was assigned."""
        # an object has its predictions in whichever head is best: one mean over all heads
        count = self.ranks.mean(raw[0].new_tensor(sum(len(found.image) for found in assignments)))
        heads = zip(raw, self.heads, assignments, strict=True)
        sums = torch.stack([self._head_loss(predicted, spec, found, size) for predicted, spec, found in heads])
        gains = sums.new_tensor([self.options.box, self.options.objectness * JOINT_OBJECTNESS, self.options.classes])
        parts = sums.sum(dim=0) / count.clamp(min=1 / self.ranks.world) * gains * HEADS
        return parts.sum() * raw[0].shape[0] * self.ranks.world, parts.detach()

    def _head_loss(self, raw: Tensor, spec: HeadSpec, found: Assignment, size: tuple[int, int]) -> Tensor:
        """(3,): one head's box, objectness and class loss, each a sum."""
        wanted = raw.new_zeros(raw.shape[:4])  # (B, A, H, W)
        box_loss = class_loss = raw.sum() * 0
        if len(found.image):
            picked = found.pick(raw)
            ciou = assigned_ciou(picked, spec, found, (raw.shape[2], raw.shape[3]), size)
            box_loss = (1 - ciou).sum()
            wanted[found.image, found.anchor, found.row, found.column] = ciou.detach().clamp(min=0)
            class_loss = self._class_loss(picked[:, 5:], found.classes, spec)
        objectness = F.binary_cross_entropy_with_logits(spec.logits(raw[..., 4]), wanted, reduction="sum")
        return torch.stack((box_loss, objectness, class_loss))

    def _class_loss(self, scores: Tensor, classes: Tensor, spec: HeadSpec) -> Tensor:
        """Scores (n, C) against class indices (n,), summed."""
        smoothing = self.options.label_smoothing
        wanted = F.one_hot(classes, spec.num_classes).to(scores) * (1 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(spec.logits(scores), wanted, reduction="none")
        if self.options.class_weights is not None:
            losses = losses * losses.new_tensor(self.options.class_weights)
        return losses.sum()
