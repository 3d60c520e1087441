"""The detection loss. It takes raw heads and targets and never sees the model.

box: 1 - CIoU of the assigned predictions. objectness: binary cross-entropy against their CIoU, over all predictions but
those on boxes that are neither learnt nor background. class: binary cross-entropy, also with one class, since Darknet
scores objectness times class there too.

All three are sums over all heads for each assigned prediction, so their balance is the same for few objects and many,
small inputs and large; and so is the size of the gradient, for small batches and large.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.data.augment import IGNORED
from utils.training.assign import REACH_MARGIN, Assignment, HeadSpec, assigned_ciou, by_quality
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
    """(raw heads, targets, input size) -> (total, its parts: box, objectness, class), means over assigned predictions.

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
        """`raw`: (B, A, H, W, 5+C) a head; `targets`: (M, 6) image, class, cx, cy, w, h in 0..1; size: height, width.

        A target of the class IGNORED says where predictions are neither right nor wrong.
        """
        raw = [head.float() for head in raw]
        return self.losses(raw, targets, self.assign(raw, targets, size), size)

    def assign(self, raw: Sequence[Tensor], targets: Tensor, size: tuple[int, int]) -> list[Assignment]:
        """Which predictions answer for which target, of those that are not ignored; float32 as in `losses`."""
        return by_quality(targets[targets[:, 1] != IGNORED], raw, self.heads, size)

    def losses(
        self, raw: Sequence[Tensor], targets: Tensor, assignments: Sequence[Assignment], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, for raw heads in float32 and what was assigned."""
        # an object has its predictions in whichever head is best: one mean over all heads
        count = self.ranks.mean(raw[0].new_tensor(sum(len(found.image) for found in assignments)))
        ignored = targets[targets[:, 1] == IGNORED]
        heads = zip(raw, self.heads, assignments, strict=True)
        sums = torch.stack([self._head_loss(predicted, spec, found, ignored, size) for predicted, spec, found in heads])
        gains = sums.new_tensor([self.options.box, self.options.objectness * JOINT_OBJECTNESS, self.options.classes])
        parts = sums.sum(dim=0) / count.clamp(min=1 / self.ranks.world) * gains * HEADS
        return parts.sum(), parts.detach()

    def _head_loss(
        self, raw: Tensor, spec: HeadSpec, found: Assignment, ignored: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """(3,): one head's box, objectness and class loss, each a sum; `ignored` are targets."""
        wanted = raw.new_zeros(raw.shape[:4])  # (B, A, H, W)
        box_loss = class_loss = raw.sum() * 0
        if len(found.image):
            picked = found.pick(raw)
            ciou = assigned_ciou(picked, spec, found, (raw.shape[2], raw.shape[3]), size)
            box_loss = (1 - ciou).sum()
            wanted[found.image, found.anchor, found.row, found.column] = ciou.detach().clamp(min=0)
            class_loss = self._class_loss(picked[:, 5:], found.classes, spec)
        counts = ~reached_cells(ignored, spec, raw.shape[0], raw.shape[2], raw.shape[3]) | (wanted > 0)
        objectness = F.binary_cross_entropy_with_logits(spec.logits(raw[..., 4]), wanted, reduction="none")
        return torch.stack((box_loss, (objectness * counts).sum(), class_loss))

    def _class_loss(self, scores: Tensor, classes: Tensor, spec: HeadSpec) -> Tensor:
        """Scores (n, C) against class indices (n,), summed."""
        smoothing = self.options.label_smoothing
        wanted = F.one_hot(classes, spec.num_classes).to(scores) * (1 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(spec.logits(scores), wanted, reduction="none")
        if self.options.class_weights is not None:
            losses = losses * losses.new_tensor(self.options.class_weights)
        return losses.sum()


def reached_cells(targets: Tensor, spec: HeadSpec, batch: int, rows: int, columns: int) -> Tensor:
    """(B, 1, H, W) bool: the cells of a head that can predict a centre within one of the boxes, targets (M, 6)."""
    cells = targets.new_tensor([columns, rows])
    reach = REACH_MARGIN * (spec.scale_x_y - 1) / 2
    centre, half = targets[:, 2:4] * cells, targets[:, 4:6] * cells / 2 + reach
    left, top = (centre - half).floor().long().clamp(min=0).minimum(cells.long() - 1).unbind(1)
    right, bottom = (centre + half).ceil().long().clamp(min=1).minimum(cells.long()).unbind(1)
    steps = targets.new_zeros(batch, rows + 1, columns + 1)  # summed along both axes: how many boxes cover a cell
    image, one = targets[:, 0].long(), targets.new_ones(len(targets))
    for x, y, step in ((left, top, one), (right, top, -one), (left, bottom, -one), (right, bottom, one)):
        steps.index_put_((image, y, x), step, accumulate=True)
    return steps.cumsum(1).cumsum(2)[:, None, :rows, :columns] > 0.5
