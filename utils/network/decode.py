"""From raw head values to boxes: the one place where the formula stands. The model, the loss and the exporters use it.

    x = (column + s*sigmoid(tx) - (s-1)/2) * stride     w = exp(tw) * anchor_w
    new_coords=1: tx is a probability already (the convolution before the head is logistic), w = 4*tw^2 * anchor_w

with s = scale_x_y. Source: darknet src/yolo_layer.c: get_yolo_box.
"""

import torch
from torch import Tensor


def decode_boxes(
    raw: Tensor, cells: Tensor, anchors: Tensor, stride: Tensor, scale_x_y: float = 1.0, new_coords: bool = False
) -> Tensor:
    """Raw (..., 4) tx, ty, tw, th -> (..., 4) centre x, centre y, width, height in input pixels.

    `cells` (..., 2) column and row, `anchors` (..., 2) in pixels, `stride` (2,) in pixels per cell, x before y; all
    broadcast against raw's leading dimensions.
    """
    xy, wh = raw[..., :2], raw[..., 2:4]
    if not new_coords:
        xy = xy.sigmoid()
    xy = (cells + scale_x_y * xy - (scale_x_y - 1) / 2) * stride
    wh = (4 * wh**2 if new_coords else wh.exp()) * anchors
    return torch.cat((xy, wh), dim=-1)


def decode_scores(raw: Tensor, new_coords: bool = False) -> Tensor:
    """Raw objectness and class values -> probabilities, any shape."""
    return raw if new_coords else raw.sigmoid()


def cell_grid(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2): column and row of each cell, on `like`'s device and in its type."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), dim=-1)
