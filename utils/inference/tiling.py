"""Large pictures in parts: where the tiles lie, and how what each of them shows becomes one list without doubles.

A box that ends at an inner border of its tile may be a part of an object. It goes where another tile, or the whole
picture, has the object uncut; where two tiles each have a part, and the parts agree in the strip that both see, they
become one box. What is left passes NMS, in which boxes of one tile, that have passed its own, leave each other alone.
Objects narrower than the overlap are never cut in all tiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.errors import InputError
from utils.inference.postprocess import MAX_CANDIDATES, pairs_within, suppress

Window = tuple[int, int, int, int]
"""Left, top, right, bottom of a part of the picture, in pixels."""

EDGE = 0.02  # of the tile's side: so near to its border a box may be cut by it
CERTAIN = 0.5  # share of a part's score that the box needs which it goes for
SAME = 0.5  # share of a part that must lie in the uncut box, and IoU of two parts where both tiles look
MAX_WINDOWS = 10_000  # of a picture


@dataclass(frozen=True)
class Merge:
    """How tiles are put together: the picture's (width, height), and as in NMS; `limit` boxes are kept, the best."""

    size: tuple[int, int]
    iou: float = 0.45
    agnostic: bool = False
    limit: int = 300


def tile_windows(width: int, height: int, tile: tuple[int, int], overlap: float = 0.2) -> list[Window]:
    """Windows of `tile` (width, height) that cover a picture, neighbours overlapping by at least that share of it.

    They are spread evenly; along a side that is no longer than the tile there is one. Raises InputError for too many.
    """
    check_windows(width, height, tile, overlap)
    columns, rows = (_starts(side, part, overlap) for side, part in zip((width, height), tile, strict=True))
    return [(x, y, min(x + tile[0], width), min(y + tile[1], height)) for y in rows for x in columns]


def check_windows(width: int, height: int, tile: tuple[int, int], overlap: float) -> None:
    """Raise InputError for a picture of more windows than allowed."""
    count = math.prod(_count(side, part, overlap) for side, part in zip((width, height), tile, strict=True))
    if count > MAX_WINDOWS:
        raise InputError(
            f"--tile {tile[0]},{tile[1]} --overlap {overlap:g}: expected at most {MAX_WINDOWS:,} tiles a picture, got "
            f"{count:,} of one of {width}x{height} pixels; larger tiles or less overlap make fewer"
        )


def _count(side: int, part: int, overlap: float) -> int:
    step = max(1, int(part * (1 - overlap)))
    return max(0, -(-(side - part) // step)) + 1


def _starts(side: int, part: int, overlap: float) -> list[int]:
    return np.linspace(0, max(0, side - part), _count(side, part, overlap)).round().astype(int).tolist()


def merge_tiles(found: Sequence[np.ndarray], windows: Sequence[Window], how: Merge) -> np.ndarray:
    """Each window's (N, 6) rows x1, y1, x2, y2, score, class in the picture's pixels -> (M, 6), best first.

    The best MAX_CANDIDATES of all windows are looked at.
    """
    rows = np.concatenate(found) if found else np.zeros((0, 6), np.float32)
    owner = np.repeat(np.arange(len(found)), [len(part) for part in found])
    best = np.argsort(-rows[:, 4], kind="stable")[:MAX_CANDIDATES]
    rows, owner = rows[best], owner[best]
    views = np.array(windows, np.float32).reshape(-1, 4)[owner]  # (N, 4)
    cut = _cut_sides(rows, views, how.size).any(axis=1)
    group = np.zeros(len(rows)) if how.agnostic else rows[:, 5]
    left = np.flatnonzero(cut)
    left = left[~_inside(rows[left], group[left], rows[~cut], group[~cut])]
    parts, of, origin = _join(rows[left], views[left], group[left], owner[left])
    kept = ~_inside(parts, of, parts, of)
    joined = np.concatenate((rows[~cut], parts[kept])).astype(np.float32)
    origin = np.concatenate((owner[~cut], origin[kept]))
    order = np.argsort(-joined[:, 4], kind="stable")
    joined, origin = joined[order], origin[order]
    labels = np.zeros(len(joined)) if how.agnostic else joined[:, 5]
    return joined[suppress(joined[:, :4], labels, how.iou, how.limit, origin)]


def _cut_sides(rows: np.ndarray, views: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 4) bool: which sides of a box lie at a border of its tile that is none of the picture's."""
    margin = EDGE * (views[:, [2, 3, 2, 3]] - views[:, [0, 1, 0, 1]])
    near = np.abs(rows[:, :4] - views) <= margin
    inner = np.column_stack((views[:, 0] > 0, views[:, 1] > 0, views[:, 2] < size[0], views[:, 3] < size[1]))
    result: np.ndarray = near & inner
    return result


def _inside(parts: np.ndarray, of: np.ndarray, rows: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(N,) bool: which parts lie mostly in a larger box of their own group that is not much less certain."""
    area, larger = _area(parts), _area(rows)
    middle = (parts[:, 0] + parts[:, 2]) / 2  # lies in each box that has half of the part
    order = np.argsort(middle, kind="stable")
    low, high = (np.searchsorted(middle[order], rows[:, side] + slack) for side, slack in ((0, -1), (2, 1)))
    inside = np.zeros(len(parts), bool)
    for box, position in pairs_within(low, high):
        part = order[position]
        covered = _area(_clip(parts[part], rows[box])) > SAME * area[part]
        certain = rows[box, 4] >= CERTAIN * parts[part, 4]
        inside[part[covered & certain & (of[part] == group[box]) & (larger[box] > area[part])]] = True
    return inside


def _join(
    rows: np.ndarray, views: np.ndarray, group: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parts of one object, from different tiles, as one box with the best score; until nothing fits any more.

    Rows come best first. Also returns their groups, and their tiles; a joined box gets a negative number of its own.
    """
    rows, views, owner, left = rows.copy(), views.copy(), owner.copy(), np.ones(len(rows), bool)
    for done in range(len(rows)):
        while left[done] and (fits := _fitting(done, rows, views, left & (group == group[done]))).size:
            partner = fits[0]
            for each in (rows, views):
                each[done, :2] = np.minimum(each[done, :2], each[partner, :2])
                each[done, 2:4] = np.maximum(each[done, 2:4], each[partner, 2:4])
            left[partner], owner[done] = False, -1 - done
    return rows[left], group[left], owner[left]


def _fitting(done: int, rows: np.ndarray, views: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Which of the later rows that are left agree with one of another view, in the strip that both views see."""
    x1, y1, x2, y2 = rows[done, :4]
    later = rows[done + 1 :]
    touching = (later[:, 0] < x2) & (later[:, 2] > x1) & (later[:, 1] < y2) & (later[:, 3] > y1)
    near = done + 1 + np.flatnonzero(touching & left[done + 1 :])
    near = near[(views[near] != views[done]).any(axis=1)]
    strip = _clip(views[near], views[[done]])
    own, other = _clip(rows[[done]], strip), _clip(rows[near], strip)
    shared = _area(_clip(own, other))
    return near[shared > SAME * (_area(own) + _area(other) - shared)]


def _clip(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(N, 4...) and (N, 4...), or one of them for all -> (N, 4): what both cover, with negative sides if nothing."""
    low, high = np.maximum(boxes[:, :2], windows[:, :2]), np.minimum(boxes[:, 2:4], windows[:, 2:4])
    return np.hstack((low, high))


def _area(boxes: np.ndarray) -> np.ndarray:
    sides: np.ndarray = np.clip(boxes[:, 2:4] - boxes[:, :2], 0, None)
    return sides.prod(axis=1)
