"""From pictures to Results: place, run, decode, suppress, move back."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.data.frames import Frame
from utils.errors import DataError, InputError
from utils.inference.postprocess import detections
from utils.inference.result import Result
from utils.inference.tiling import Merge, check_windows, merge_tiles, tile_windows
from utils.letterbox import Placement, letterbox, stretch, to_channels
from utils.runtimes.runtime import Runtime


@dataclass(frozen=True)
class Predictor:
    """A network in its runtime, with its thresholds. `size` is the input, (width, height) in pixels."""

    runtime: Runtime
    names: Sequence[str]
    size: tuple[int, int]
    confidence: float = 0.25
    iou: float = 0.45
    stretched: bool = False
    max_detections: int = 300
    agnostic: bool = False  # NMS over all classes together
    classes: Sequence[int] | None = None  # only these
    tile: tuple[int, int] | None = None  # (width, height): also look at parts of this size, in pixels of the picture
    overlap: float = 0.2  # of neighbouring tiles, a share of their size
    vote: bool = True  # box voting after NMS
    batch: int = 1  # tiles that go through the network at once

    def __call__(self, frames: Sequence[Frame]) -> list[Result]:
        """Detect in a batch of pictures."""
        if self.tile is not None:
            return [self._tiled(frame, self.tile) for frame in frames]
        found, milliseconds = self._run([frame.image for frame in frames])
        return [self._result(frame, rows, milliseconds) for frame, rows in zip(frames, found, strict=True)]

    def check(self, frame: Frame) -> None:
        """Raise DataError for a picture of too many tiles."""
        if self.tile is None:
            return
        height, width = frame.image.shape[:2]
        try:
            check_windows(width, height, self.tile, self.overlap)
        except InputError as error:
            raise DataError(f"{frame.path}: {error}") from None

    def _result(self, frame: Frame, rows: np.ndarray, milliseconds: dict[str, float]) -> Result:
        resize = "stretch" if self.stretched else "letterbox"
        boxes, scores, labels = rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)
        return Result(frame, boxes, scores, labels, self.names, {"read": frame.read_ms, **milliseconds}, resize)

    def _run(self, images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], dict[str, float]]:
        """Pictures (H, W, 3) -> (N, 6) rows in their own pixels, and what each stage took for one of them."""
        iou, vote = self.runtime.info.nms_after(self.iou, self.vote, self.agnostic)
        limits = self.confidence, iou, self.max_detections, self.agnostic, self.classes, vote
        start = time.perf_counter()
        placed = [(stretch if self.stretched else letterbox)(image, *self.size) for image in images]
        pictures = np.stack([to_channels(picture, self.runtime.info.channels) for picture, _ in placed])  # (B, H, W, C)
        ready = time.perf_counter()
        predictions = self.runtime.infer(pictures)
        done = time.perf_counter()
        rows = zip(detections(predictions, *limits), placed, strict=True)
        found = [_moved(each, place) for each, (_, place) in rows]
        times = {"preprocess": ready - start, "inference": done - ready, "nms": time.perf_counter() - done}
        return found, {key: seconds * 1000 / len(images) for key, seconds in times.items()}

    def _tiled(self, frame: Frame, tile: tuple[int, int]) -> Result:
        """The whole picture and its tiles, `batch` at a time, merged."""
        height, width = frame.image.shape[:2]
        found: list[np.ndarray] = []
        total = dict.fromkeys(("preprocess", "inference", "nms"), 0.0)
        windows = list(dict.fromkeys([(0, 0, width, height), *tile_windows(width, height, tile, self.overlap)]))
        for first in range(0, len(windows), self.batch):
            batch = windows[first : first + self.batch]
            seen, milliseconds = self._run([frame.image[y1:y2, x1:x2] for x1, y1, x2, y2 in batch])
            offsets = np.array([(x1, y1, x1, y1, 0, 0) for x1, y1, _, _ in batch], np.float32)
            found += [rows + offset for rows, offset in zip(seen, offsets, strict=True)]
            total = {key: value + milliseconds[key] * len(batch) for key, value in total.items()}
        start = time.perf_counter()
        rows = merge_tiles(found, windows, Merge((width, height), self.iou, self.agnostic, self.max_detections))
        total["nms"] += (time.perf_counter() - start) * 1000
        return self._result(frame, rows, total)


def _moved(rows: np.ndarray, place: Placement) -> np.ndarray:
    return np.concatenate((place.to_image(rows[:, :4]), rows[:, 4:]), axis=1)
