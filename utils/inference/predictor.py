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

    def __call__(self, image: np.ndarray) -> Result:
        """Detect in one (H, W, 3) BGR uint8 picture."""
        start = time.perf_counter()
        picture, placement = (stretch if self.stretched else letterbox)(image, *self.size)
        device = next(self.model.parameters()).device
        batch = torch.from_numpy(to_input(picture))[None].to(device, memory_format=torch.channels_last)
        with torch.inference_mode():
            rows = detections(self.model(batch), self.confidence, self.iou)[0].cpu().numpy()
        corners = placement.to_image(rows[:, :4])
        boxes = tuple(
            Box(x1, y1, x2, y2, score, int(label), self.names[int(label)])
            for (x1, y1, x2, y2), (score, label) in zip(corners.tolist(), rows[:, 4:].tolist(), strict=True)
        )
        milliseconds = (time.perf_counter() - start) * 1000
        return Result(image.shape[1], image.shape[0], boxes, milliseconds, "stretch" if self.stretched else "letterbox")
