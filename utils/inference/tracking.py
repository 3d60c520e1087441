"""The same object under the same number in all frames: ByteTrack (Zhang et al., ECCV 2022), and who crosses a line.

ByteTrack also follows faint boxes (above `FAINT`) where they go on with a track, and never starts one with them. It is
the `trackers` library's.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from utils.errors import InputError
from utils.inference.result import NOT_TRACKED, Crossing, LineCount, Result
from utils.log import warn

FAINT = 0.1  # score
KEPT = 30  # positions of an object that its trace shows
LOST = 30  # frames without an object after which it is forgotten
LARGEST = 1_000_000  # pixels
NEAR_PX, NEAR_SHARE = 2.0, 0.1  # pixels, and of the box's shorter side: so near to the line a centre is on neither side


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
        if max(map(abs, (x1, y1, x2, y2))) > LARGEST:
            raise InputError(f"--count-line {text}: expected at most {LARGEST}")
        return cls(x1, y1, x2, y2)

    @property
    def ends(self) -> tuple[int, int, int, int]:
        """Both points."""
        return self.x1, self.y1, self.x2, self.y2

    def outside(self, width: int, height: int) -> bool:
        """Whether all of it lies beyond one side of a picture of this size."""
        pairs = ((self.x1, self.x2, width), (self.y1, self.y2, height))
        return any(max(a, b) < 0 or min(a, b) > side for a, b, side in pairs)

    def distance(self, point: tuple[float, float]) -> float:
        """Pixels between a point and the line, which goes on beyond its ends."""
        (x, y), (dx, dy) = point, (self.x2 - self.x1, self.y2 - self.y1)
        return abs(dx * (y - self.y1) - dy * (x - self.x1)) / math.hypot(dx, dy)

    def side(self, point: tuple[float, float]) -> int:
        """1 for a point to its right, as one stands at the first end and looks to the second; -1 left, 0 on it."""
        return _side((self.x1, self.y1), (self.x2, self.y2), point)

    def meets(self, before: tuple[float, float], now: tuple[float, float]) -> bool:
        """Whether a step from one side to the other passes between the line's ends."""
        return _side(before, now, (self.x1, self.y1)) != _side(before, now, (self.x2, self.y2))


def _side(start: tuple[float, float], end: tuple[float, float], point: tuple[float, float]) -> int:
    """1 for a point to the right of the way from start to end, in a picture, whose y goes down; -1 left, 0 on it."""
    right = (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])
    return (right > 0) - (right < 0)


@dataclass
class _Way:
    """How an object has gone about the line."""

    clear: int = 0  # the side that it was last clearly on, as of `Line.side`; 0: on neither so far
    side: int = 0  # the side that it was last on at all
    met: bool = False  # whether it came to that side between the line's ends

    def go(self, line: Line, before: tuple[float, float], now: tuple[float, float], near: float) -> int:
        """Go on by a step; the side to which the object has crossed with it, 0: to none.

        It crosses when it has gone from clearly one side to clearly the other, for boxes tremble; where it changed
        sides for good is where it crossed.
        """
        side = line.side(now)
        if side and side != self.side:
            self.side, self.met = side, line.meets(before, now)
        if line.distance(now) < near:
            return 0
        crossed = side if self.clear == -side and self.met else 0
        self.clear = side
        return crossed


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
            if self.line is not None and self.line.outside(result.width, result.height):
                warn(
                    f"--count-line {self.line.ends}: outside of {key}, which has {result.width}x{result.height} pixels"
                )
            self.videos[key] = _Video(self.confidence, self.line)
        return self.videos[key].update(result)

    def counts(self) -> Iterator[tuple[str, int, int]]:
        """Of each video: its path, how many have crossed the line to its right and to its left."""
        for path, video in self.videos.items():
            yield path, video.to_right, video.to_left


class _Video:
    def __init__(self, confidence: float, line: Line | None) -> None:
        from trackers import ByteTrackTracker

        self.confidence, self.line = confidence, line
        # frame by frame, whatever their times: an object may be gone for LOST frames
        self.tracker = ByteTrackTracker(
            lost_track_buffer=LOST, track_activation_threshold=confidence, high_conf_det_threshold=confidence
        )
        self.traces: dict[int, deque[tuple[float, float]]] = {}
        self.seen: dict[int, int] = {}  # id -> the frame it was last seen in
        self.ways: dict[int, _Way] = {}
        self.frames = self.to_right = self.to_left = 0

    def update(self, result: Result) -> Result:
        found = result.to_supervision()
        found.data["row"] = np.arange(len(result))
        tracked = self.tracker.update(found)
        ids = np.full(len(result), NOT_TRACKED, np.int64)
        if len(tracked) and tracked.tracker_id is not None:
            # the library counts from 0
            ids[tracked.data["row"]] = np.where(tracked.tracker_id < 0, NOT_TRACKED, tracked.tracker_id + 1)
        keep = (result.scores >= self.confidence) | (ids != NOT_TRACKED)
        kept = replace(
            result,
            boxes_xyxy_px=result.boxes_xyxy_px[keep],
            scores=result.scores[keep],
            class_ids=result.class_ids[keep],
            track_ids=ids[keep],
        )
        crossings = self._trace(kept)
        assert kept.track_ids is not None
        traces = [np.array(self.traces.get(track, ()), np.float32).reshape(-1, 2) for track in kept.track_ids.tolist()]
        line = None
        if self.line is not None:
            self.to_right += sum(crossing.to_right for crossing in crossings)
            self.to_left += sum(not crossing.to_right for crossing in crossings)
            line = LineCount(self.line.ends, self.to_right, self.to_left, tuple(crossings))
        return replace(kept, traces=traces, line=line)

    def _trace(self, result: Result) -> list[Crossing]:
        """Note where each box's object is now; the ones that have crossed the line."""
        assert result.track_ids is not None
        self.frames += 1
        boxes, crossings = result.boxes_xyxy_px, []
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        for box, (track, (x, y)) in enumerate(zip(result.track_ids.tolist(), centres.tolist(), strict=True)):
            if track == NOT_TRACKED:
                continue
            trace = self.traces.setdefault(track, deque(maxlen=KEPT))
            trace.append((x, y))
            if self.line is not None:
                near = max(NEAR_PX, NEAR_SHARE * float((boxes[box, 2:] - boxes[box, :2]).min()))
                way = self.ways.setdefault(track, _Way())
                if side := way.go(self.line, trace[-2] if len(trace) > 1 else (x, y), (x, y), near):
                    crossings.append(Crossing(box, side > 0))
            self.seen[track] = self.frames
        for track in [track for track, frame in self.seen.items() if self.frames - frame > 2 * LOST]:
            del self.traces[track], self.seen[track]
            self.ways.pop(track, None)
        return crossings
