"""What detection in one picture gives."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data.frames import Frame
from utils.draw import class_colour, draw_boxes, draw_line, draw_path

if TYPE_CHECKING:
    import supervision

NOT_TRACKED = -1


@dataclass(frozen=True)
class Crossing:
    """An object that crosses the line in this frame."""

    box: int
    """Its place among the result's boxes."""
    to_right: bool
    """To the right side of the line, as one stands at its first point and looks to its second; else to the left."""


@dataclass(frozen=True)
class LineCount:
    """A line from (x1, y1) to (x2, y2) in pixels, and how many objects have crossed it, up to and in this frame."""

    ends: tuple[int, int, int, int]
    to_right: int
    to_left: int
    now: tuple[Crossing, ...]


@dataclass(frozen=True, eq=False)
class Result:
    """The boxes of one picture, best first, and what making them took."""

    frame: Frame
    """The picture and where it comes from."""
    boxes_xyxy_px: np.ndarray
    """(N, 4) float32: left, top, right, bottom in the picture's pixels, clipped to it."""
    scores: np.ndarray
    """(N,) float32, 0..1: objectness times class probability."""
    class_ids: np.ndarray
    """(N,) int64."""
    names: Sequence[str]
    """Of all classes the network knows."""
    milliseconds: Mapping[str, float]
    """read, preprocess, inference, nms; of a batch, a picture's share."""
    resize: str = "letterbox"
    """How it came to the network's size: letterbox or stretch."""
    track_ids: np.ndarray | None = None
    """(N,) int64 from 1, an object's number in all frames, -1 while it has none; None without tracking."""
    traces: Sequence[np.ndarray] = ()
    """With tracking, where each box's object has been, (K, 2) pixels, the last one here."""
    line: LineCount | None = None
    """With a line to count at."""

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8, BGR."""
        return self.frame.image

    @property
    def path(self) -> str:
        """The file or address."""
        return self.frame.path

    @property
    def frame_index(self) -> int | None:
        """The frame's number in its video or stream, from 0; None for an image."""
        return self.frame.index

    @property
    def width(self) -> int:
        """In pixels."""
        return self.frame.image.shape[1]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.frame.image.shape[0]

    def __len__(self) -> int:
        return len(self.scores)

    def counts(self) -> str:
        """`2 dog, 1 truck`, or `nothing`."""
        counter = Counter(self.names[index] for index in self.class_ids.tolist())
        return ", ".join(f"{number} {name}" for name, number in counter.most_common()) or "nothing"

    def rows(self) -> np.ndarray:
        """(N, 6) float64: x1, y1, x2, y2, score, class."""
        return np.column_stack((self.boxes_xyxy_px, self.scores, self.class_ids)).astype(np.float64).reshape(-1, 6)

    def to_dict(self) -> dict[str, Any]:
        """Of plain numbers and strings, as in detections.json."""
        boxes = []
        ids = [None] * len(self) if self.track_ids is None else self.track_ids.tolist()
        for row, score, label, track in zip(self.boxes_xyxy_px.tolist(), self.scores, self.class_ids, ids, strict=True):
            box = {key: round(value, 2) for key, value in zip(("x1", "y1", "x2", "y2"), row, strict=True)}
            box |= {"score": round(float(score), 5), "class": int(label), "name": self.names[label]}
            boxes.append(box if track is None else {**box, "id": None if track == NOT_TRACKED else track})
        row = {"path": self.path, "width": self.width, "height": self.height, "boxes": boxes}
        return row if self.frame_index is None else {**row, "frame": self.frame_index}

    def to_supervision(self) -> "supervision.Detections":
        """As the supervision library takes them, class names in `data["class_name"]`."""
        import supervision

        return supervision.Detections(
            xyxy=self.boxes_xyxy_px.astype(np.float32),
            confidence=self.scores,
            class_id=self.class_ids,
            tracker_id=self.track_ids,
            data={"class_name": np.array([self.names[index] for index in self.class_ids.tolist()], dtype=np.str_)},
        )

    def plot(self, labels: bool = True, scores: bool = True, thickness: int | None = None) -> np.ndarray:
        """A copy of the picture, (H, W, 3) uint8 BGR, with its boxes, their classes, ids and scores drawn."""
        words = [""] * len(self)
        if labels:
            words = [self.names[index] for index in self.class_ids.tolist()]
            if self.track_ids is not None:
                known = zip(words, self.track_ids.tolist(), strict=True)
                words = [word if track == NOT_TRACKED else f"#{track} {word}" for word, track in known]
            if scores:
                words = [f"{word} {score:.2f}" for word, score in zip(words, self.scores, strict=True)]
        picture = draw_boxes(self.image, self.boxes_xyxy_px, words, self.class_ids.tolist(), thickness)
        for trace, label in zip(self.traces, self.class_ids.tolist(), strict=False):
            draw_path(picture, trace, class_colour(label), thickness)
        if self.line is not None:
            draw_line(picture, self.line.ends, f"left {self.line.to_left}, right {self.line.to_right}", thickness)
        return picture


def label_lines(found: np.ndarray, width: int, height: int) -> str:
    """(N, 6) x1, y1, x2, y2 in pixels, score, class -> lines `class cx cy w h score`, the box in 0..1 of the image."""
    boxes = found[:, :4] / np.array([width, height] * 2)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.column_stack((found[:, 5], centres, sides, found[:, 4]))
    return "".join(f"{row[0]:.0f} " + " ".join(f"{value:.6f}" for value in row[1:]) + "\n" for row in rows)
