"""What detection in one image gives."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Box:
    """One detection, in pixels of the original image, clipped to it."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    class_index: int
    name: str

    def to_dict(self) -> dict[str, Any]:
        """As in detections.json."""
        corners = {key: round(getattr(self, key), 2) for key in ("x1", "y1", "x2", "y2")}
        return {**corners, "score": round(self.score, 5), "class": self.class_index, "name": self.name}


def label_lines(found: np.ndarray, width: int, height: int) -> str:
    """(N, 6) x1, y1, x2, y2 in pixels, score, class -> lines `class cx cy w h score`, the box in 0..1 of the image."""
    boxes = found[:, :4] / np.array([width, height] * 2)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.column_stack((found[:, 5], centres, sides, found[:, 4]))
    return "".join(f"{row[0]:.0f} " + " ".join(f"{value:.6f}" for value in row[1:]) + "\n" for row in rows)


@dataclass(frozen=True)
class Result:
    """The boxes of one image, best first, and what making them took."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    milliseconds: float
    resize: str  # "letterbox" or "stretch"

    def counts(self) -> str:
        """`2 dogs`-style summary: `2 dog, 1 truck`, or `nothing`."""
        counter = Counter(box.name for box in self.boxes)
        return ", ".join(f"{number} {name}" for name, number in counter.most_common()) or "nothing"

    def rows(self) -> np.ndarray:
        """(N, 6) x1, y1, x2, y2, score, class."""
        values = [(box.x1, box.y1, box.x2, box.y2, box.score, box.class_index) for box in self.boxes]
        return np.array(values, np.float64).reshape(-1, 6)

    def corners(self) -> np.ndarray:
        """(N, 4) float32 x1, y1, x2, y2."""
        return np.array([(box.x1, box.y1, box.x2, box.y2) for box in self.boxes], np.float32).reshape(-1, 4)
