"""Objects keep their numbers, and are counted where they cross a line."""

from dataclasses import replace

import numpy as np
import pytest

from utils.data.frames import Frame, VideoInfo
from utils.errors import InputError
from utils.inference.result import Result
from utils.inference.tracking import Line, Tracker

VIDEO = VideoInfo(10, 200, 100, 40)
BLANK = np.zeros((100, 200, 3), np.uint8)


def result(index: int, boxes: list[list[float]], scores: list[float], path: str = "v.mp4") -> Result:
    frame = Frame(BLANK, path, index, VIDEO, index / 10)
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    classes = np.zeros(len(rows), np.int64)
    return Result(frame, rows, np.array(scores, np.float32), classes, ["thing"], {})


def two(index: int) -> list[list[float]]:
    """One goes right at 4 pixels a frame, one goes left; they pass each other at different heights."""
    right, left = 10 + 4 * index, 170 - 4 * index
    return [[right, 10, right + 20, 30], [left, 60, left + 20, 90]]


def test_numbers_stay_and_crossings_are_counted() -> None:
    tracker = Tracker(0.25, Line(100, 0, 100, 100))  # looking down: right of it is the picture's left
    seen, crossed = [], []
    for index in range(40):
        tracked = tracker(result(index, two(index), [0.9, 0.8]))
        assert tracked.track_ids is not None and tracked.line is not None
        seen.append(tracked.track_ids.tolist())
        crossed += [(seen[-1][crossing.box], crossing.to_right, index) for crossing in tracked.line.now]
    assert seen[0] == [-1, -1]  # an object is one in its second frame
    assert all(ids == [1, 2] for ids in seen[1:])
    first, second = sorted(crossed)
    assert first[:2] == (1, False) and second[:2] == (2, True)
    assert abs(first[2] - 20.5) <= 1 and abs(second[2] - 20.5) <= 1  # centre 20 + 4 n over 100
    assert list(tracker.counts()) == [("v.mp4", 1, 1)]
    assert tracked.traces[0].shape == (30, 2) and tracked.traces[0][-1].tolist() == [20 + 4 * 39, 20]


def test_a_gap_is_bridged_and_faint_boxes_only_go_on() -> None:
    tracker = Tracker(0.5)
    for index in range(5):
        tracker(result(index, two(index), [0.9, 0.3]))
    for index in range(5, 8):
        assert len(tracker(result(index, [], []))) == 0
    after = tracker(result(8, two(8), [0.2, 0.3]))  # the first goes on, faint; the second never was one
    assert after.track_ids is not None
    assert after.track_ids.tolist() == [1] and len(after) == 1 and after.scores[0] == pytest.approx(0.2)


def test_each_video_has_its_own_numbers() -> None:
    tracker = Tracker(0.25)
    for index in range(3):
        one, other = (tracker(result(index, two(index)[:1], [0.9], path)) for path in ("a.mp4", "b.mp4"))
    assert one.track_ids is not None and other.track_ids is not None
    assert one.track_ids.tolist() == other.track_ids.tolist() == [1]
    assert one.to_dict()["boxes"][0]["id"] == 1


def test_an_object_that_is_hidden_while_it_crosses_is_counted() -> None:
    tracker = Tracker(0.25, Line(100, 0, 100, 100))
    for index in range(40):
        visible = two(index)[:1] if abs(index - 20) > 3 else []
        tracker(result(index, visible, [0.9] * len(visible)))
    assert list(tracker.counts()) == [("v.mp4", 0, 1)]


def test_going_round_the_end_of_the_line_is_no_crossing(capfd: pytest.CaptureFixture[str]) -> None:
    """The line ends below the object's way; another lies outside of the picture, which is said."""
    tracker = Tracker(0.25, Line(100, 40, 100, 100))
    for index in range(40):
        tracker(result(index, two(index)[:1], [0.9]))
    assert list(tracker.counts()) == [("v.mp4", 0, 0)] and not capfd.readouterr().err
    Tracker(0.25, Line(100, 140, 300, 140))(result(0, two(0), [0.9, 0.8]))
    assert "outside of v.mp4, which has 200x100 pixels" in capfd.readouterr().err


@pytest.mark.parametrize("pattern", ["alternating", "random", "slow"])
def test_trembling_on_the_line_is_no_crossing(pattern: str) -> None:
    """An object that stands on the line, its centre up to a pixel beside it; then it goes on, and is counted once."""
    generator = np.random.default_rng(0)
    offsets = {
        "alternating": [(-1) ** index for index in range(60)],
        "random": generator.uniform(-1, 1, 60).tolist(),
        "slow": [1 if index // 7 % 2 else -1 for index in range(60)],
    }[pattern]
    tracker = Tracker(0.25, Line(100, 0, 100, 100))
    centres = [*range(60, 100, 4), *(100 + offset for offset in offsets), *range(104, 140, 4)]
    for index, x in enumerate(centres):
        tracker(result(index, [[x - 10, 40, x + 10, 60]], [0.9]))
        assert list(tracker.counts()) in ([("v.mp4", 0, 0)], [("v.mp4", 0, 1)])
        if index == 60:
            assert list(tracker.counts()) == [("v.mp4", 0, 0)]
    assert list(tracker.counts()) == [("v.mp4", 0, 1)]


def along(x: float, start: int, stop: int) -> list[tuple[float, float]]:
    return [(x, y) for y in range(start, stop, 4 if start < stop else -4)]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("first", "near", "last", "crossings"),
    [
        (20, along(100, 24, 150), 146, 0),  # along the line, and over it beyond its end
        (170, along(100, 166, 80), 80, 1),  # along the line from beyond its end, and over it
        (20, along(99, 24, 150), 146, 0),
        (50, along(101, 54, 150), 146, 1),  # over it at once, then along it
        (170, along(99, 166, 80), 80, 1),
        (146, along(101, 142, 50), 54, 0),
        (-30, along(101, -26, 50), 50, 0),
        (-30, along(99, -26, 50), 50, 1),
        (20, [(100 + (-1) ** step, 24 + 4 * step) for step in range(31)], 146, 0),  # trembling past the end
        (170, [(100 + (-1) ** step, 166 - 4 * step) for step in range(22)], 80, 1),
        (100, [], 100, 1),  # through its end
        (0, [], 0, 1),
        (101, [], 101, 0),
        (-1, [], -1, 0),
    ],
)
def test_a_crossing_counts_where_the_centre_goes_over_the_line(
    first: int, near: list[tuple[float, float]], last: int, crossings: int, mirrored: bool
) -> None:
    """The centre comes at one height, goes along the line, and leaves at another; the line goes from y 0 to 100."""
    tracker = Tracker(0.25, Line(100, 0, 100, 100))
    way = [*((x, first) for x in range(60, 97, 4)), *near, *((x, last) for x in range(103, 130, 4))]
    for index, (x, y) in enumerate((200 - x, y) if mirrored else (x, y) for x, y in way):
        tracker(result(index, [[x - 10, y - 10, x + 10, y + 10]], [0.9]))
    assert list(tracker.counts()) == [("v.mp4", crossings if mirrored else 0, 0 if mirrored else crossings)]


def test_there_and_back_is_counted_both_ways() -> None:
    tracker = Tracker(0.25, Line(0, 0, 100, 100))  # a slanting line
    for index, step in enumerate([*range(20), *range(20, 0, -1)]):
        x, y = 30 + 2 * step, 70 - 2 * step  # at right angles to it
        tracker(result(index, [[x - 10, y - 10, x + 10, y + 10]], [0.9]))
    assert list(tracker.counts()) == [("v.mp4", 1, 1)]
    assert Line(0, 0, 30, 40).distance((40, -30)) == pytest.approx(50)


def test_seconds_between_frames_do_not_matter() -> None:
    tracker = Tracker(0.25)
    for index in range(4):
        tracked = tracker(
            replace(result(index, two(index), [0.9, 0.8]), frame=Frame(BLANK, "v", index, VIDEO, 5.0 * index))
        )
    assert tracked.track_ids is not None and tracked.track_ids.tolist() == [1, 2]


def test_what_is_gone_is_forgotten() -> None:
    tracker = Tracker(0.25)
    for index in range(5):
        tracker(result(index, two(index), [0.9, 0.8]))
    for index in range(5, 100):
        tracker(result(index, [], []))
    (video,) = tracker.videos.values()
    assert not video.traces and not video.seen


@pytest.mark.parametrize("text", ["1,2,3,9999999", "1,2,3", "a,b,c,d", "5,5,5,5", ""])
def test_bad_lines(text: str) -> None:
    with pytest.raises(InputError, match="--count-line"):
        Line.parse(text)
