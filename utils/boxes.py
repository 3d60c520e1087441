"""Box formats. `xyxy` is left, top, right, bottom; `cxcywh` is centre, width, height."""

from torch import Tensor
from torchvision.ops import box_convert, complete_box_iou_loss


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 4), same unit."""
    return box_convert(boxes, "cxcywh", "xyxy")


def paired_ciou(a_cxcywh: Tensor, b_cxcywh: Tensor) -> Tensor:
    """Complete IoU of each box of a with that of b, (N, 4), (N, 4) -> (N,), at most 1 (Zheng et al., AAAI 2020)."""
    return 1 - complete_box_iou_loss(cxcywh_to_xyxy(a_cxcywh), cxcywh_to_xyxy(b_cxcywh))
