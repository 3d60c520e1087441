"""Test-time augmentation: the picture also larger, mirrored; all predictions together, for NMS to choose from."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from utils.letterbox import GREY

VIEWS = ((1.0, False), (1.2, True))  # scale, mirrored; smaller views cost small networks more than they bring


class Augmented(nn.Module):
    """A network in eval mode that looks at two views of each image; predictions as its own, (B, N', 5+C).

    Views are padded with grey to multiples of `stride` pixels.
    """

    def __init__(self, model: nn.Module, stride: int, views: Sequence[tuple[float, bool]] = VIEWS) -> None:
        super().__init__()
        self.model, self.stride, self.views = model, stride, views

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in 0..1 -> boxes cx, cy, w, h in the pixels of `images`, objectness, classes."""
        return torch.cat([self._view(images, scale, mirrored) for scale, mirrored in self.views], dim=1)

    def _view(self, images: Tensor, scale: float, mirrored: bool) -> Tensor:
        height, width = images.shape[2:]
        view = images.flip(3) if mirrored else images
        if scale != 1:
            other = round(height * scale), round(width * scale)
            view = F.interpolate(view, size=other, mode="bilinear", align_corners=False)
            right, below = (-side % self.stride for side in (other[1], other[0]))
            view = F.pad(view, (0, right, 0, below), value=GREY / 255)
            ratio = images.new_tensor([width / other[1], height / other[0]] * 2)
        else:
            ratio = images.new_ones(4)
        predictions: Tensor = self.model(view.contiguous(memory_format=torch.channels_last))
        boxes = predictions[..., :4] * ratio
        if mirrored:
            boxes = torch.cat((width - boxes[..., :1], boxes[..., 1:]), dim=-1)
        return torch.cat((boxes, predictions[..., 4:]), dim=-1)
