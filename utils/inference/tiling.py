"""Large pictures in parts: where the tiles lie, and how what each of them shows becomes one list without doubles.

A box that ends at an inner border of its tile may be a part of an object. It goes where another tile, or the whole
picture, has the object uncut; where two tiles each have a part, and the parts agree in the strip that both see, they
become one box. What is left passes NMS. Objects narrower than the overlap are never cut in all tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.inference.postprocess import suppress

Window = tuple[int, int, int, int]
"""Left, top, right, bottom of a part of the picture, in pixels."""

EDGE = 0.02  # of the tile's side: so near to its border a box may be cut by it
CERTAIN = 0.5  # share of a part's score that the box needs which it goes for
SAME = 0.5  # share of a part that must lie in the uncut box, and IoU of two parts where both tiles look


@dataclass(frozen=True)
class Merge:
    """How tiles are put together: the picture's (width, height), and as in NMS."""

    size: tuple[int, int]
    iou: float = 0.45
    agnostic: bool = False


def tile_windows(width: int, height: int, tile: tuple[int, int], overlap: float = 0.2) -> list[Window]:
    """Windows of `tile` (width, height) that cover a picture, neighbours overlapping by at least that share of it.

    They are spread evenly; along a side that is no longer than the tile there is one.
    """
    columns, rows = (_starts(side, part, overlap) for side, part in zip((width, height), tile, strict=True))
    return [(x, y, min(x + tile[0], width), min(y + tile[1], height)) for y in rows for x in columns]


def _starts(side: int, part: int, overlap: float) -> list[int]:
    if side <= part:
        return [0]
    step = max(1, int(part * (1 - overlap)))
    return np.linspace(0, side - part, -(-(side - part) // step) + 1).round().astype(int).tolist()


def merge_tiles(found: Sequence[np.ndarray], windows: Sequence[Window], how: Merge) -> np.ndarray:
    """Each window's (N, 6) rows x1, y1, x2, y2, score, class in the picture's pixels -> (M, 6), best first."""
    rows = np.concatenate(found) if found else np.zeros((0, 6), np.float32)
    owner = np.repeat(np.arange(len(found)), [len(part) for part in found])
    views = np.array(windows, np.float32).reshape(-1, 4)[owner]  # (N, 4)
    cut = _cut_sides(rows, views, how.size).any(axis=1)
    group = np.zeros(len(rows)) if how.agnostic else rows[:, 5]
    left = np.flatnonzero(cut)
    left = left[~_inside(rows[left], group[left], rows[~cut], group[~cut])]
    parts, of = _join(rows[left], views[left], group[left])
    parts = parts[~_inside(parts, of, parts, of)]
    joined = np.concatenate((rows[~cut], parts)).astype(np.float32)
    joined = joined[np.argsort(-joined[:, 4], kind="stable")]
    labels = np.zeros(len(joined)) if how.agnostic else joined[:, 5]
    return joined[suppress(joined[:, :4], labels, how.iou, len(joined))]


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
    covered = _shared(parts[:, :4], rows[:, :4]) > SAME * area[:, None]
    certain = rows[None, :, 4] >= CERTAIN * parts[:, None, 4]
    result: np.ndarray = (covered & certain & (of[:, None] == group[None]) & (larger[None] > area[:, None])).any(axis=1)
    return result


def _join(rows: np.ndarray, views: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts of one object, from different tiles, as one box with the best score; until nothing fits any more.

    Also returns their groups.
    """
    rows, views = rows.copy(), views.copy()
    order = np.argsort(-rows[:, 4], kind="stable")
    rows, views, group = rows[order], views[order], group[order]
    done = 0
    while done < len(rows):
        strip = np.column_stack((np.maximum(views[done, :2], views[:, :2]), np.minimum(views[done, 2:], views[:, 2:])))
        mine = _clip(np.broadcast_to(rows[done, :4], strip.shape), strip)
        other = _clip(rows[:, :4], strip)
        shared = _area(_clip(mine, other))
        union = _area(mine) + _area(other) - shared
        fits = (shared > SAME * union) & (group == group[done]) & (views != views[done]).any(axis=1)
        fits[: done + 1] = False
        if not fits.any():
            done += 1
            continue
        partner = int(np.flatnonzero(fits)[0])
        for each in (rows, views):
            each[done, :2] = np.minimum(each[done, :2], each[partner, :2])
            each[done, 2:4] = np.maximum(each[done, 2:4], each[partner, 2:4])
        rows, views, group = (np.delete(each, partner, axis=0) for each in (rows, views, group))
    return rows, group


def _clip(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    return np.column_stack((np.maximum(boxes[:, :2], windows[:, :2]), np.minimum(boxes[:, 2:], windows[:, 2:])))


def _area(boxes: np.ndarray) -> np.ndarray:
    sides: np.ndarray = np.clip(boxes[:, 2:4] - boxes[:, :2], 0, None)
    return sides.prod(axis=1)


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4), (M, 4) -> (N, M) areas of what both cover."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    area: np.ndarray = np.clip(high - low, 0, None).prod(axis=2)
    return area
