"""The embedded default data: circles, squares and triangles on textured ground, drawn on first use.

Every machine draws the same pixels: all numbers are integers from PCG64, all geometry is fixed point, and the two
OpenCV functions used (fillConvexPoly with LINE_8, resize with INTER_LINEAR_EXACT) are integer algorithms.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.files import whole_folder
from utils.log import progress

NAMES = ("circle", "square", "triangle")

SHIFT = 4  # polygon corners are in 1/16 pixel
UNIT = 1 << 14  # sine and cosine are in 1/16384, far too coarse for math libraries to disagree
SINES = np.array([round(math.sin(math.radians(angle)) * UNIT) for angle in range(360)], np.int64)

MAX_OBJECTS = 6
DIAMETERS = ((24, 44), (44, 84), (84, 170))  # in pixels of a 416 image; each range is as likely as the others
ATTEMPTS = 30  # to place one object
MIN_VISIBLE = 60  # percent of an object that those drawn later leave uncovered
MIN_CONTRAST = 60  # sum over B, G and R of the difference between an object's colour and the mean of what it covers
JPEG_QUALITY = 92
SPLITS = ("train", "valid")


@dataclass
class _Object:
    label: int
    mask: np.ndarray  # (size, size) bool, within the image
    uncovered: np.ndarray  # (size, size) bool, what later objects left of the mask


def generate(folder: Path, train: int = 600, valid: int = 150, size: int = 416, seed: int = 0) -> None:
    """Draw a data set into `folder/images/{train,valid}` (JPEG, size x size pixels) and `folder/labels/{train,valid}`.

    The folder appears when it is complete. One that exists is left as it is, also when another process wins the race.
    """
    if (folder / "images").exists():
        return
    jobs = [(split, index) for split, count in zip(SPLITS, (train, valid), strict=True) for index in range(count)]
    with suppress(FileExistsError), whole_folder(folder) as partial:
        for split in SPLITS:
            (partial / "images" / split).mkdir(parents=True)
            (partial / "labels" / split).mkdir(parents=True)

        def save(job: tuple[str, int]) -> None:
            split, index = job
            image, labels = draw(split, index, size, seed)
            _save_image(partial / "images" / split / f"{index:04}.jpg", image)
            lines = [f"{int(label)} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n" for label, cx, cy, w, h in labels]
            (partial / "labels" / split / f"{index:04}.txt").write_text("".join(lines), encoding="utf-8")

        with ThreadPoolExecutor() as pool:
            for _ in progress(pool.map(save, jobs), f"drawing {folder}", unit="image", total=len(jobs)):
                pass


def draw(split: str, index: int, size: int = 416, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw image `index` of `split`: (size, size, 3) uint8 BGR, and its labels (N, 5) float64 as in a label file.

    A label is the tight box of the part of a shape that lies within the image, whatever other shapes cover of it.
    """
    random = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), index]))
    image = _background(random, size)
    objects: list[_Object] = []
    for _ in range(_pick(random, 1, MAX_OBJECTS)):
        _add_object(random, image, objects)
    noise = _pick(random, 2, 20)
    image += random.integers(-noise, noise + 1, image.shape, np.int16)
    labels = [(found.label, *_box(found.mask)) for found in objects]
    return np.clip(image, 0, 255).astype(np.uint8), np.array(labels, np.float64).reshape(-1, 5)


def _pick(random: np.random.Generator, low: int, high: int) -> int:
    """A random integer, both ends included."""
    return int(random.integers(low, high + 1))


def _field(random: np.random.Generator, height: int, width: int, cells: int, amplitude: int) -> np.ndarray:
    """Smooth colour noise in -amplitude..amplitude: (height, width, 3) int16, `cells` random values along each side."""
    grid = random.integers(0, 2 * amplitude + 1, (cells, cells, 3), np.uint8)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT).astype(np.int16) - amplitude


def _background(random: np.random.Generator, size: int) -> np.ndarray:
    """Blotches of two grains over a colour, crossed by bars: (size, size, 3) int16, about 0..255."""
    image = random.integers(40, 216, 3, np.int16) + _field(random, size, size, _pick(random, 2, 6), 50)
    image += _field(random, size, size, _pick(random, 12, 60), 25)
    for _ in range(_pick(random, 0, 4)):
        length, width = _pick(random, size // 8, size), _pick(random, 2, max(3, size // 50))
        corners = np.array([[-length, -width], [length, -width], [length, width], [-length, width]]) * 8
        centre = random.integers(0, size, 2)
        bar = _fill(_turn(corners, _pick(random, 0, 359)), centre, size)
        window = _window(bar)
        image[window][bar[window]] += random.integers(-60, 61, 3, np.int16)
    return image


def _add_object(random: np.random.Generator, image: np.ndarray, objects: list[_Object]) -> None:
    """Draw one more object where it stands out and leaves enough of the others; none if no such place is found."""
    size = image.shape[0]
    for _ in range(ATTEMPTS):
        label, radius = _pick(random, 0, len(NAMES) - 1), _radius(random, size)
        centre = random.integers(radius // 2, size - radius // 2, 2)
        mask = _fill(_corners(random, label, radius), centre, size)
        colour = random.integers(0, 256, 3, np.int16)
        window = _window(mask)
        below = image[window][mask[window]].sum(axis=0, dtype=np.int64) // np.count_nonzero(mask)
        contrast = int(np.abs(below - colour).sum())
        if contrast >= MIN_CONTRAST and all(_stays_visible(other, mask) for other in objects):
            break
    else:
        return
    inside = mask[window]
    height, width = inside.shape
    texture = colour + _field(random, height, width, _pick(random, 2, 12), _pick(random, 0, 30))
    image[window][inside] = texture[inside]
    for other in objects:
        other.uncovered &= ~mask
    objects.append(_Object(label, mask, mask.copy()))


def _radius(random: np.random.Generator, size: int) -> int:
    """Half an object's extent in pixels: 12 to 85 in an image of 416, small ones as often as large ones."""
    low, high = DIAMETERS[_pick(random, 0, len(DIAMETERS) - 1)]
    return max(3, _pick(random, low, high) * size // 832)


def _stays_visible(other: _Object, mask: np.ndarray) -> bool:
    left = int(np.count_nonzero(other.uncovered & ~mask))
    return left * 100 >= int(np.count_nonzero(other.mask)) * MIN_VISIBLE


def _corners(random: np.random.Generator, label: int, radius: int) -> np.ndarray:
    """A randomly turned shape around the origin: (N, 2) in 1/16 pixel."""
    angle = _pick(random, 0, 359)
    if NAMES[label] == "circle":
        angles = np.arange(0, 360, 5)
    elif NAMES[label] == "square":
        angles = np.arange(45, 360, 90)
    else:
        angles = np.array([0, 120, 240]) + random.integers(-20, 21, 3)
    circle = np.stack([SINES[(angles + 90) % 360], SINES[angles % 360]], axis=1) * (radius << SHIFT) // UNIT
    return _turn(circle, angle)


def _turn(corners: np.ndarray, angle: int) -> np.ndarray:
    """Turn (N, 2) points about the origin by whole degrees, in integers."""
    sine, cosine = SINES[angle], SINES[(angle + 90) % 360]
    x, y = corners[:, 0], corners[:, 1]
    return np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=1) // UNIT


def _fill(corners: np.ndarray, centre: np.ndarray, size: int) -> np.ndarray:
    """The pixels of a polygon, (N, 2) in 1/16 pixel about `centre` in pixels: (size, size) bool."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(mask, (corners + (centre << SHIFT)).astype(np.int32), 1, cv2.LINE_8, SHIFT)
    return mask.astype(bool)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The tight rows and columns of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The tight box of a mask as (cx, cy, w, h) in 0..1 of its (square) image."""
    size = mask.shape[0]
    rows, columns = _window(mask)
    left, right, top, bottom = columns.start, columns.stop, rows.start, rows.stop
    return (left + right) / (2 * size), (top + bottom) / (2 * size), (right - left) / size, (bottom - top) / size


def _save_image(path: Path, image: np.ndarray) -> None:
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    content.tofile(path)
