"""The same object under the same number in all frames: ByteTrack (Zhang et al., ECCV 2022), and who crosses a line.

ByteTrack also follows faint boxes (above `FAINT`) where they go on with a track, and never starts one with them. The
tracker is the `trackers` library's, the line `supervision`'s.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.inference.result import NOT_TRACKED, Crossing, LineCount, Result

FAINT = 0.1  # score
KEPT = 30  # positions of an object that its trace shows


@dataclass(frozen=True)
class Line:
    """Where objects are counted, from (x1, y1) to (x2, y2) in pixels of the picture."""

    x1: int
    y1: int
    x2: int
    y2: int

    @classmethod
    def parse(cls, text: str) -> "Line":
        """From `x1,y1,x2,y2`. Raises InputError for anything else."""
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 4 or not all(part.removeprefix("-").isdecimal() for part in parts):
            raise InputError(f"--count-line {text}: expected x1,y1,x2,y2 in pixels")
        x1, y1, x2, y2 = (int(part) for part in parts)
        if (x1, y1) == (x2, y2):
            raise InputError(f"--count-line {text}: expected two different points")
        return cls(x1, y1, x2, y2)


class Tracker:
    """Tracks each video or stream on its own; the images of a folder are taken as the frames of one video."""

    def __init__(self, confidence: float, line: Line | None = None) -> None:
        try:
            import supervision  # noqa: F401
            import trackers  # noqa: F401
        except ImportError as error:
            raise InputError(f"--track: expected the package {error.name}; pip install trackers") from None
        self.confidence, self.line = confidence, line
        self.videos: dict[str, _Video] = {}

    def __call__(self, result: Result) -> Result:
        """The result with track ids; of its faint boxes, those that go on with a track."""
        key = "images" if result.frame.video is None else result.path
        if key not in self.videos:
            fps = 30.0 if result.frame.video is None else result.frame.video.fps
            self.videos[key] = _Video(self.confidence, fps, self.line)
        return self.videos[key].update(result)

    def counts(self) -> Iterator[tuple[str, int, int]]:
        """Of each video: its path, how many have crossed the line to its right and to its left."""
        for path, video in self.videos.items():
            yield path, video.to_right, video.to_left


class _Video:
    def __init__(self, confidence: float, fps: float, line: Line | None) -> None:
        import supervision
        from trackers import ByteTrackTracker

        self.confidence, self.fps, self.line = confidence, fps, line
        self.tracker = ByteTrackTracker(
            frame_rate=fps, track_activation_threshold=confidence, high_conf_det_threshold=confidence
        )
        self.traces: dict[int, deque[tuple[float, float]]] = {}
        self.seen: dict[int, int] = {}  # id -> the frame it was last seen in
        self.frames = self.to_right = self.to_left = 0
        self.zone: Any = None
        if line is not None:
            start, end = supervision.Point(line.x1, line.y1), supervision.Point(line.x2, line.y2)
            self.zone = supervision.LineZone(start, end, triggering_anchors=[supervision.Position.CENTER])

    def update(self, result: Result) -> Result:
        found = result.to_supervision()
        found.data["row"] = np.arange(len(result))
        # an image has no time of its own, a file's is exact, and a stream's frames may lie apart
        tracked = self.tracker.update(found, timestamp=None if result.frame.video is None else result.frame.seconds)
        ids = np.full(len(result), NOT_TRACKED, np.int64)
        if len(tracked) and tracked.tracker_id is not None:
            # the library counts from 0
            ids[tracked.data["row"]] = np.where(tracked.tracker_id < 0, NOT_TRACKED, tracked.tracker_id + 1)
        keep = (result.scores >= self.confidence) | (ids != NOT_TRACKED)
        tracked_result = replace(
            result,
            boxes_xyxy_px=result.boxes_xyxy_px[keep],
            scores=result.scores[keep],
            class_ids=result.class_ids[keep],
            track_ids=ids[keep],
        )
        traces = self._trace(tracked_result)
        return replace(tracked_result, traces=traces, line=self._count(tracked_result))

    def _trace(self, result: Result) -> list[np.ndarray]:
        """Where each box's object has been, (K, 2) pixels, the last one here."""
        assert result.track_ids is not None
        self.frames += 1
        boxes = result.boxes_xyxy_px
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        for track, (x, y) in zip(result.track_ids.tolist(), centres.tolist(), strict=True):
            if track != NOT_TRACKED:
                self.traces.setdefault(track, deque(maxlen=KEPT)).append((x, y))
                self.seen[track] = self.frames
        for track in [track for track, frame in self.seen.items() if self.frames - frame > 10 * KEPT]:
            del self.traces[track], self.seen[track]
        return [np.array(self.traces.get(track, ()), np.float32).reshape(-1, 2) for track in result.track_ids.tolist()]

    def _count(self, result: Result) -> LineCount | None:
        if self.line is None:
            return None
        leftward, rightward = self.zone.trigger(result.to_supervision())
        self.to_left, self.to_right = self.zone.in_count, self.zone.out_count
        now = [Crossing(int(i), bool(rightward[i])) for i in np.flatnonzero(rightward | leftward)]
        ends = (self.line.x1, self.line.y1, self.line.x2, self.line.y2)
        return LineCount(ends, self.to_right, self.to_left, tuple(now))
