"""Large pictures in parts: what covers what, and no seam or double where tiles meet."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import detect
from utils.data.frames import Frame
from utils.errors import InputError
from utils.inference import postprocess
from utils.inference.predictor import Predictor
from utils.inference.tiling import Merge, merge_tiles, tile_windows
from utils.runtimes.runtime import NetworkInfo, Runtime


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(20, 900), st.integers(20, 900), st.floats(0, 0.9)
)  # fmt: skip
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.filter_too_much])
def test_windows_cover_the_picture_and_overlap(width: int, height: int, across: int, down: int, overlap: float) -> None:
    steps = max(1, int(across * (1 - overlap))), max(1, int(down * (1 - overlap)))
    assume((width / steps[0] + 1) * (height / steps[1] + 1) < 2000)
    windows = np.array(tile_windows(width, height, (across, down), overlap))
    for low, high, side, part in ((0, 2, width, across), (1, 3, height, down)):
        spans = np.unique(windows[:, [low, high]], axis=0)
        assert spans[0, 0] == 0 and spans[-1, 1] == side
        assert (spans[:, 1] - spans[:, 0] == min(part, side)).all()
        assert (spans[:-1, 1] - spans[1:, 0] >= int(part * overlap) - 1).all()  # whole pixels
    assert len(np.unique(windows, axis=0)) == len(windows)


class Blobs(Runtime):
    """Finds each solid colour of its input: red level times 10 tells the object, one box each, what is seen of it."""

    def __init__(self, smallest: int) -> None:
        super().__init__(NetworkInfo(("blob",), (160, 160), 32, ()))
        self.smallest = smallest  # pixels; smaller ones are overlooked

    def run(self, images: np.ndarray) -> np.ndarray:
        rows = []
        red = (images[0, ..., 0] / 10).round()
        for level in range(1, 20):
            ys, xs = ((red == level) & (images[0, ..., 2] < 25)).nonzero()
            if len(xs) and min(xs.max() - xs.min(), ys.max() - ys.min()) + 1 >= self.smallest:
                x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
                rows.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, 1.0])
        rows += [[0.0] * 6] * (20 - len(rows))
        return np.array([rows], np.float32)


def predictor(tile: tuple[int, int] | None, smallest: int = 8) -> Predictor:
    return Predictor(Blobs(smallest), ["blob"], (160, 160), tile=tile)


def picture(objects: list[tuple[int, int, int, int]], width: int = 800, height: int = 640) -> Frame:
    image = np.full((height, width, 3), 200, np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(objects, start=1):
        image[y1:y2, x1:x2] = (0, 0, number * 10)
    return Frame(image, "")


OBJECTS = [
    (10, 10, 30, 30),  # small, in one tile
    (120, 300, 150, 330),  # small, across a seam
    (380, 5, 600, 60),  # wide, across two seams
    (250, 200, 520, 500),  # large, in no tile whole
    (780, 620, 800, 640),  # in the corner
]


def test_small_objects_are_found_and_nothing_twice() -> None:
    whole = predictor(None)([picture(OBJECTS)])[0]
    assert len(whole) == 2  # the small ones have 4 to 6 of the input's pixels
    tiled = predictor((160, 160))([picture(OBJECTS)])[0]
    got = sorted(tiled.boxes_xyxy_px.round().astype(int).tolist())
    np.testing.assert_allclose(got, sorted(OBJECTS), atol=5)  # 5 pixels of the picture are one of the whole's input
    exact = [box for box in OBJECTS if box[2] - box[0] < 40]
    assert all(any(np.abs(np.subtract(box, other)).max() <= 1 for other in got) for box in exact)


def test_parts_are_joined_where_no_view_has_the_whole() -> None:
    """Without the whole picture: three tiles in a row each see a part of one object."""
    windows = [(0, 0, 100, 100), (80, 0, 180, 100), (160, 0, 260, 100)]
    parts = [[20, 30, 100, 60, 0.8, 0], [80, 31, 180, 61, 0.9, 0], [160, 30, 230, 60, 0.7, 0]]
    found = [np.array([part], np.float32) for part in parts]
    (row,) = merge_tiles(found, windows, Merge((260, 100)))
    assert row.tolist() == pytest.approx([20, 30, 230, 61, 0.9, 0])


def test_two_objects_at_a_seam_stay_two() -> None:
    """One ends where the other goes on, at another height; and one of another class in the same place."""
    windows = [(0, 0, 100, 100), (80, 0, 180, 100)]
    first = np.array([[40, 10, 100, 30, 0.9, 0]], np.float32)
    second = np.array([[80, 60, 140, 90, 0.8, 0], [80, 10, 150, 30, 0.7, 1]], np.float32)
    assert len(merge_tiles([first, second], windows, Merge((180, 100)))) == 3
    assert len(merge_tiles([first, second], windows, Merge((180, 100), agnostic=True))) == 2
    assert merge_tiles([first[:0], second[:0]], windows, Merge((180, 100))).shape == (0, 6)


TILE, NEXT, WHOLE = (0, 0, 100, 100), (80, 0, 180, 100), (0, 0, 180, 100)


def merged(*seen: tuple[tuple[int, int, int, int], list[list[float]]], **how: Any) -> list[list[float]]:
    """Merge boxes (x1, y1, x2, y2, score) of one class, given window by window."""
    found = [np.array([[*row, 0] for row in rows], np.float32).reshape(-1, 6) for _, rows in seen]
    rows = merge_tiles(found, [window for window, _ in seen], Merge((180, 100), **how))
    return [[round(value, 4) for value in row[:5]] for row in rows.tolist()]


@pytest.mark.parametrize(("right", "cut"), [(100, True), (98, True), (97, False)])
def test_a_box_within_two_percent_of_the_border_is_a_part(right: float, cut: bool) -> None:
    """It goes where the whole picture has the object; else it is one of two boxes of which NMS takes the better."""
    part, uncut = [40, 10, right, 30, 0.9], [40, 10, 150, 30, 0.8]
    assert merged((TILE, [part]), (WHOLE, [uncut])) == [uncut if cut else part]


@pytest.mark.parametrize(("score", "goes"), [(0.46, True), (0.44, False)])
def test_a_part_goes_for_a_box_of_half_its_score(score: float, goes: bool) -> None:
    part, uncut = [80, 10, 100, 30, 0.9], [80, 0, 170, 40, score]
    assert merged((TILE, [part]), (WHOLE, [uncut])) == ([uncut] if goes else [part, uncut])


@pytest.mark.parametrize(("left", "goes"), [(64, True), (76, False)])
def test_a_part_goes_for_a_box_that_has_half_of_it(left: float, goes: bool) -> None:
    """Of its 60 pixels 36, and 24."""
    part, uncut = [40, 10, 100, 30, 0.9], [left, 0, 170, 40, 0.8]
    assert merged((TILE, [part]), (WHOLE, [uncut])) == ([uncut] if goes else [part, uncut])


def test_a_part_inside_a_joined_box_goes() -> None:
    """It agrees with neither part: where both tiles look it is a third of what they have."""
    first, second, inside = [20, 30, 100, 60, 0.9], [80, 31, 180, 61, 0.8], [60, 35, 100, 55, 0.7]
    assert merged((TILE, [first, inside]), (NEXT, [second])) == [[20, 30, 180, 61, 0.9]]


def test_nms_is_the_end_and_the_best_stay() -> None:
    first, second = [82, 10, 96, 30, 0.8], [83, 10, 96, 30, 0.9]  # IoU 0.93, in both tiles
    assert merged((TILE, [first]), (NEXT, [second])) == [second]
    assert merged((TILE, [first]), (NEXT, [second]), iou=0.95) == [second, first]
    many = [[10.0 * place, 10, 10 * place + 8, 20, 0.9 - place / 100] for place in (3, 1, 2, 4)]
    assert merged((TILE, many), limit=2) == [many[1], many[2]]


def test_of_equals_the_first_windows_stays() -> None:
    first, second = [82, 10, 96, 30, 0.5], [84, 10, 96, 30, 0.5]
    assert merged((TILE, [first]), (NEXT, [second])) == [first]


def test_a_predictor_joins_parts_and_keeps_the_best() -> None:
    """The whole picture, five times smaller, overlooks the first, which no tile has whole; one box may stay."""
    wide = (300, 100, 560, 130)
    for at_once in (1, 4):
        (tiled,) = replace(predictor((160, 160)), batch=at_once)([picture([wide])])
        np.testing.assert_allclose(tiled.boxes_xyxy_px, [wide], atol=1)
    (one,) = replace(predictor((160, 160)), max_detections=1)([picture(OBJECTS)])
    assert len(one) == 1


def by_loops(found: list[np.ndarray], windows: list[tuple[int, int, int, int]], how: Merge) -> list[list[float]]:
    """The rules, box by box; scores differ."""

    def shared(a: Any, b: Any) -> list[float]:
        return [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])]

    def around(a: Any, b: Any) -> list[float]:
        return [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]

    def area(box: Any) -> float:
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    def inside(part: Any, boxes: list[Any]) -> bool:
        larger = [box for box in boxes if box[5] == part[5] and area(box) > area(part)]
        return any(area(shared(part, box)) > area(part) / 2 and box[4] >= part[4] / 2 for box in larger)

    whole, parts = [], []
    for rows, view in zip(found, windows, strict=True):
        for row in rows.astype(float).tolist():
            inner = view[0] > 0, view[1] > 0, view[2] < how.size[0], view[3] < how.size[1]
            near = [0.02 * (view[2] - view[0]), 0.02 * (view[3] - view[1])] * 2
            cut = any(inner[side] and abs(row[side] - view[side]) <= near[side] for side in range(4))
            (parts if cut else whole).append(([*row, windows.index(view)], list(view)))
    left = [each for each in parts if not inside(each[0], [row for row, _ in whole])]
    left.sort(key=lambda each: -each[0][4])
    joined = []
    while left:
        row, view = left.pop(0)
        place = 0
        while place < len(left):
            other, its = left[place]
            strip = shared(view, its)
            own, theirs = shared(row, strip), shared(other, strip)
            both = area(shared(own, theirs))
            place += 1
            if both > (area(own) + area(theirs) - both) / 2 and row[5] == other[5] and view != its:
                del left[place - 1]
                row = [
                    min(row[0], other[0]),
                    min(row[1], other[1]),
                    max(row[2], other[2]),
                    max(row[3], other[3]),
                    *row[4:6],
                    -1 - len(left),
                ]
                view = around(view, its)
                place = 0
        joined.append(row)
    rows = [row for row, _ in whole] + [row for row in joined if not inside(row, joined)]
    kept: list[list[float]] = []
    for row in sorted(rows, key=lambda row: -row[4]):
        both = [area(shared(row, other)) if row[5] == other[5] and row[6] != other[6] else 0.0 for other in kept]
        if all(one <= how.iou * (area(row) + area(other) - one) for one, other in zip(both, kept, strict=True)):
            kept.append(row)
    return [row[:6] for row in kept[: how.limit]]


@pytest.mark.parametrize("seed", range(8))
def test_merging_equals_loops(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, size = np.random.default_rng(seed), (300, 240)
    windows = [(0, 0, *size), *tile_windows(*size, (100, 80), 0.3)]
    scores = iter(rng.permutation(np.linspace(0.1, 0.9, 10 * len(windows))))
    found = []
    for x1, y1, x2, y2 in windows:
        corner = rng.integers((x1, y1), (x2 - 10, y2 - 10), (10, 2))
        corners = np.hstack((corner, np.minimum(corner + rng.integers(10, 90, (10, 2)), (x2, y2))))
        rows = [[*box, next(scores), rng.integers(2)] for box in corners]
        found.append(np.array(rows, np.float32))
    monkeypatch.setattr(postprocess, "PAIRS", 50)
    how = Merge(size, limit=40)
    np.testing.assert_allclose(merge_tiles(found, windows, how), by_loops(found, windows, how), rtol=1e-6)


def test_many_boxes_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 in 400 tiles, of which parts and others make 4 million pairs."""
    monkeypatch.setattr(postprocess, "PAIRS", 2**14)
    windows = tile_windows(4000, 4000, (220, 220), 0.1)
    rng, found = np.random.default_rng(0), []
    for x1, y1, x2, y2 in windows:
        corner = rng.uniform((x1, y1), (x2 - 60, y2 - 60), (4_000 // len(windows), 2))
        corners = np.minimum(np.hstack((corner, corner + rng.uniform(20, 90, corner.shape))), (x2, y2) * 2)
        found.append(np.column_stack((corners, rng.random(len(corner)), np.zeros(len(corner)))).astype(np.float32))
    tracemalloc.start()
    merge_tiles(found, windows, Merge((4000, 4000)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8e6


def test_too_many_windows() -> None:
    with pytest.raises(InputError, match="expected at most 10,000 tiles a picture, got 12,000,000"):
        tile_windows(4000, 3000, (1, 1), 0.2)
    assert len(tile_windows(100, 100, (1, 1), 0)) == 10_000


def test_a_file_of_too_many_tiles_is_skipped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that cannot be read; an error where there is no other."""
    monkeypatch.setattr("utils.inference.tiling.MAX_WINDOWS", 120)
    monkeypatch.setattr(detect, "make_predictor", lambda *_: predictor((20, 20)))
    for name, width in (("a.png", 40), ("large.png", 1200), ("z.png", 48)):
        Image.new("RGB", (width, 40)).save(tmp_path / name)
    job = detect.Job(detect.DetectOptions("x.pt", str(tmp_path), batch_size=2))
    assert [Path(result.path).name for result in job.results()] == ["a.png", "z.png"]
    assert job.source.problems == 1
    said = "large.png: --tile 20,20 --overlap 0.2: expected at most 120 tiles a picture, got 225"
    assert f"skipped: {tmp_path}/{said}" in capfd.readouterr().err
    alone = detect.Job(detect.DetectOptions("x.pt", str(tmp_path / "large.png")))
    with pytest.raises(InputError, match=r"large\.png: --tile 20,20"):
        list(alone.results())
