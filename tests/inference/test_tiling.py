"""Large pictures in parts: what covers what, and no seam or double where tiles meet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.frames import Frame
from utils.inference.predictor import Predictor
from utils.inference.tiling import Merge, merge_tiles, tile_windows
from utils.runtimes.runtime import NetworkInfo, Runtime


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(20, 900), st.integers(20, 900), st.floats(0, 0.9)
)  # fmt: skip
@settings(deadline=None)
def test_windows_cover_the_picture_and_overlap(width: int, height: int, across: int, down: int, overlap: float) -> None:
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
        return np.array(rows, np.float32).reshape(1, -1, 6)


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
