"""From a picture to a Result: place, run, decode, suppress, move back."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from utils.inference.postprocess import detections
from utils.inference.result import Box, Result
from utils.letterbox import letterbox, stretch, to_input


@dataclass(frozen=True)
class Predictor:
    """A network in eval mode with its thresholds. `size` is the input, (width, height) in pixels."""

    model: nn.Module
    names: Sequence[str]
    size: tuple[int, int]
    confidence: float = 0.25
    iou: float = 0.45
    stretched: bool = False
    max_detections: int = 300
    agnostic: bool = False  # NMS over all classes together
    classes: Sequence[int] | None = None  # only these
    dtype: torch.dtype | None = None  # autocast to it; None: float32

    def __call__(self, image: np.ndarray) -> Result:
        """Detect in one (H, W, 3) BGR uint8 picture."""
        start = time.perf_counter()
        picture, placement = (stretch if self.stretched else letterbox)(image, *self.size)
        device = next(self.model.parameters()).device
        batch = torch.from_numpy(to_input(picture))[None].to(device, memory_format=torch.channels_last)
        limits = self.confidence, self.iou, False, self.max_detections, self.agnostic, self.classes
        with torch.inference_mode(), torch.autocast(device.type, self.dtype, enabled=self.dtype is not None):
            rows = detections(self.model(batch), *limits)[0].cpu().numpy()
        corners = placement.to_image(rows[:, :4])
        boxes = tuple(
            Box(x1, y1, x2, y2, score, int(label), self.names[int(label)])
            for (x1, y1, x2, y2), (score, label) in zip(corners.tolist(), rows[:, 4:].tolist(), strict=True)
        )
        milliseconds = (time.perf_counter() - start) * 1000
        return Result(image.shape[1], image.shape[0], boxes, milliseconds, "stretch" if self.stretched else "letterbox")
