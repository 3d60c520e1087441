"""The detection loss. It takes raw heads and targets and never sees the model.

box: 1 - CIoU of the assigned predictions. objectness: binary cross-entropy against their CIoU, over all predictions.
class: binary cross-entropy, also with one class, since Darknet scores objectness times class there too.

Assigned by quality, all three are sums for each assigned prediction, so their balance is the same for few objects and
many, small inputs and large. Assigned by shape, they are means a head, as in the PyTorch YOLO lineage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.training.assign import Assignment, HeadSpec, assigned_ciou, by_quality, by_shape
from utils.training.distributed import Ranks

AssignMode = Literal["quality", "shape"]
HEADS = 3  # the gains are those of networks with three heads
JOINT_OBJECTNESS = 0.01  # times the sum over all cells for each assigned prediction: a fifth of the box gain
BALANCE = {8: 4.0, 16: 1.0, 32: 0.4, 64: 0.1}  # objectness by stride: fine maps have more, emptier cells


@dataclass(frozen=True)
class LossOptions:
    """Gains (weights of the three parts, for a 640-pixel input; class loss is summed over classes) and variants."""

    box: float = 0.05
    objectness: float = 1.0
    classes: float = 0.03
    assign: AssignMode = "quality"
    label_smoothing: float = 0.0  # class targets 1-s/2 and s/2 (Szegedy et al., CVPR 2016, for two outcomes)
    focal_gamma: float = 0.0  # focal loss for objectness and classes (Lin et al., ICCV 2017); 0: cross-entropy
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
        """Which predictions answer for which target, by the options' rule; float32 as in `losses`."""
        if self.options.assign == "quality":
            return by_quality(targets, raw, self.heads, size)
        return by_shape(targets, self.heads, [(head.shape[2], head.shape[3]) for head in raw], size)

    def losses(
        self, raw: Sequence[Tensor], assignments: Sequence[Assignment], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, for raw heads in float32 and what was assigned."""
        counts = self.ranks.mean(raw[0].new_tensor([len(found.image) for found in assignments]))
        # by quality an object has its predictions in whichever head is best: one mean over all heads; else one a head
        joint = self.options.assign == "quality"
        divisors = counts.sum().expand(len(counts)) if joint else counts * len(counts)
        parts = torch.stack(
            [
                self._head_loss(predicted, spec, found, divisor, size)
                for predicted, spec, found, divisor in zip(
                    raw, self.heads, assignments, divisors.clamp(min=1 / self.ranks.world), strict=True
                )
            ]
        ).sum(dim=0)
        objectness = self.options.objectness * (JOINT_OBJECTNESS if joint else size[0] * size[1] / 640**2)
        parts = parts * parts.new_tensor([self.options.box, objectness, self.options.classes]) * HEADS
        return parts.sum() * raw[0].shape[0] * self.ranks.world, parts.detach()

    def _head_loss(
        self, raw: Tensor, spec: HeadSpec, found: Assignment, divisor: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """(3,): one head's share of the box, objectness and class loss; box and class are sums over `divisor`."""
        rows, columns = raw.shape[2:4]
        wanted = raw.new_zeros(raw.shape[:4])  # (B, A, H, W)
        box_loss = class_loss = raw.sum() * 0
        if len(found.image):
            picked = found.pick(raw)
            ciou = assigned_ciou(picked, spec, found, (rows, columns), size)
            box_loss = (1 - ciou).sum() / divisor
            quality = ciou.detach().clamp(min=0)
            where = ((found.image * len(spec.anchors) + found.anchor) * rows + found.row) * columns + found.column
            wanted.view(-1).scatter_reduce_(0, where, quality, "amax")  # wanted twice: the better match counts
            class_loss = self._class_loss(picked[:, 5:], found.classes, spec) / divisor
        losses = self._entropy(spec.logits(raw[..., 4]), wanted)
        if self.options.assign == "quality":
            objectness = losses.sum() / divisor
        else:
            stride_px = round((size[0] / rows * size[1] / columns) ** 0.5)
            objectness = losses.mean() * BALANCE.get(stride_px, 1.0) / len(self.heads)
        return torch.stack((box_loss, objectness, class_loss))

    def _class_loss(self, scores: Tensor, classes: Tensor, spec: HeadSpec) -> Tensor:
        """Scores (n, C) against class indices (n,), summed."""
        smoothing = self.options.label_smoothing
        wanted = F.one_hot(classes, spec.num_classes).to(scores) * (1 - smoothing) + smoothing / 2
        losses = self._entropy(spec.logits(scores), wanted)
        if self.options.class_weights is not None:
            losses = losses * losses.new_tensor(self.options.class_weights)
        return losses.sum()

    def _entropy(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Binary cross-entropy, or with focal_gamma times (how far off the prediction is) ** gamma."""
        losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        if self.options.focal_gamma == 0:
            return losses
        return losses * (wanted - logits.sigmoid()).abs() ** self.options.focal_gamma
