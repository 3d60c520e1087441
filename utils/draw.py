"""Boxes with labels on a picture: one colour per class, text that stays legible at any size and in any script."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.errors import DataError
from utils.files import whole_file
from utils.log import warn
from utils.names import fits_line

MAX_SIDE = 1920  # pixels of a grid of tiles
GOLDEN = 0.618033988749895  # steps of the hue circle that keep any number of classes apart
WHITE = (255, 255, 255)


def class_colour(index: int) -> tuple[int, int, int]:
    """The RGB colour of a class; the same index always has the same colour."""
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN % 1, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _own_font() -> Path:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic and more."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def _characters(font: str | Path) -> set[int]:
    from matplotlib.ft2font import FT2Font

    return set(FT2Font(str(font)).get_charmap())


@lru_cache(maxsize=1)
def _own_characters() -> set[int]:
    return _characters(_own_font())


@lru_cache(maxsize=64)
def _font_file(foreign: frozenset[int]) -> str:
    """A font of the system that has these characters; the project's own where none has, or there are none."""
    if not foreign:
        return str(_own_font())
    from matplotlib.font_manager import findSystemFonts  # here: it takes a while

    for file in sorted(findSystemFonts()):
        try:
            if foreign <= _characters(file):
                return file
        except (OSError, RuntimeError):
            continue
    missing = "".join(chr(code) for code in sorted(foreign))
    warn(f"labels: no font here has {missing!r}, drawn as boxes; install one (for Chinese, Japanese, Korean: Noto CJK)")
    return str(_own_font())


@lru_cache(maxsize=256)
def _word(text: str, size: int) -> np.ndarray:
    """A text as an (H, W) uint8 mask, 0 to 255, `size` pixels high; the same height for every text of a font."""
    text = "".join(each if fits_line(each) else "\N{REPLACEMENT CHARACTER}" for each in text)
    foreign = frozenset(ord(letter) for letter in text if not letter.isspace()) - _own_characters()
    font = ImageFont.truetype(_font_file(foreign), size)
    ascent, descent = font.getmetrics()
    left, _, right, _ = font.getbbox(text)
    mask = Image.new("L", (max(1, round(right - left)), ascent + descent))
    ImageDraw.Draw(mask).text((-left, 0), text, font=font, fill=255)
    return np.asarray(mask)


def _line_width(image: np.ndarray, thickness: int | None) -> int:
    return thickness or max(2, round(sum(image.shape[:2]) * 0.0015))


def _text_size(image: np.ndarray) -> int:
    return max(11, round(sum(image.shape[:2]) * 0.011))


def draw_boxes(
    image: np.ndarray,
    boxes_xyxy: np.ndarray,
    labels: Sequence[str],
    classes: Sequence[int],
    thickness: int | None = None,
) -> np.ndarray:
    """A copy of an (H, W, 3) BGR picture with its boxes (N, 4, pixels) and their labels drawn in class colours.

    An empty label is left out. `thickness` of the lines in pixels: by default what suits the picture's size. The first
    box comes to lie on top.
    """
    height, width = image.shape[:2]
    line, size = _line_width(image, thickness), _text_size(image)
    canvas = image.copy()
    for box, label, index in reversed(list(zip(boxes_xyxy, labels, classes, strict=True))):
        x1, y1, x2, y2 = np.clip(box, -line, [width + line, height + line] * 2).round().astype(int).tolist()
        colour = class_colour(index)
        _frame(canvas, (x1, y1, max(x2, x1), max(y2, y1)), line, colour)
        if label:
            mask = _word(label, size)
            tall = mask.shape[0] + 2
            _label(canvas, x1, y1 - tall if y1 >= tall else y1, mask, colour)  # inside where there is no room above
    return canvas


def _frame(canvas: np.ndarray, box: tuple[int, int, int, int], line: int, rgb: tuple[int, int, int]) -> None:
    """The outline of a box, corners included, `line` pixels inwards."""
    x1, y1, x2, y2 = box
    for left, top, right, bottom in (
        (x1, y1, x2, y1 + line - 1),
        (x1, y2 - line + 1, x2, y2),
        (x1, y1, x1 + line - 1, y2),
        (x2 - line + 1, y1, x2, y2),
    ):
        canvas[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = rgb[::-1]


def _label(canvas: np.ndarray, left: int, top: int, mask: np.ndarray, rgb: tuple[int, int, int]) -> None:
    """A filled bar with a text, moved into the picture where it would leave it."""
    height, width = canvas.shape[:2]
    text_height, text_width = mask.shape[0] + 2, mask.shape[1] + 6
    left, top = min(max(left, 0), max(width - text_width, 0)), min(max(top, 0), max(height - text_height, 0))
    bar = canvas[top : top + text_height, left : left + text_width]
    bar[:] = rgb[::-1]
    inside = bar[1 : 1 + mask.shape[0], 3 : 3 + mask.shape[1]]
    share = mask[: inside.shape[0], : inside.shape[1], None].astype(np.float32) / 255
    dark = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140
    inside[:] = (inside * (1 - share) + (0 if dark else 255) * share).round()


def draw_path(picture: np.ndarray, points: np.ndarray, rgb: tuple[int, int, int], thickness: int | None = None) -> None:
    """Draw a line through (K, 2) points, pixels, into an (H, W, 3) BGR picture."""
    if len(points) > 1:
        path = np.clip(points, -1e4, 1e4).round().astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(picture, [path], False, rgb[::-1], _line_width(picture, thickness), cv2.LINE_AA)


def draw_line(picture: np.ndarray, ends: tuple[int, int, int, int], text: str, thickness: int | None = None) -> None:
    """Draw an arrow from (x1, y1) to (x2, y2) with a text at its start into an (H, W, 3) BGR picture."""
    start, end, line = ends[:2], ends[2:], _line_width(picture, thickness)
    cv2.arrowedLine(picture, start, end, (0, 0, 0), line + 2, cv2.LINE_AA, tipLength=0.03)
    cv2.arrowedLine(picture, start, end, WHITE, line, cv2.LINE_AA, tipLength=0.03)
    _label(picture, start[0], start[1], _word(text, _text_size(picture)), WHITE)


def write_image(path: Path, picture: np.ndarray) -> None:
    """Write an (H, W, 3) BGR picture, whole or not at all, as what the path's suffix says."""
    try:
        done, content = cv2.imencode(path.suffix, picture)
    except cv2.error:  # larger than the format allows
        done = False
    if not done:
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        raise DataError(f"{path}: a picture of {size} cannot be written as {path.suffix}")
    with whole_file(path) as partial:
        partial.write_bytes(content.tobytes())


def write_tiles(path: Path, tiles: Sequence[np.ndarray], columns: int | None = None) -> None:
    """Pictures of one size, (H, W, 3) BGR, side by side, in a near-square grid by default, as one file."""
    columns = columns or int(np.ceil(np.sqrt(len(tiles))))
    blank = np.full_like(tiles[0], 255)
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    grid = np.vstack([np.hstack(padded[first : first + columns]) for first in range(0, len(padded), columns)])
    ratio = MAX_SIDE / max(grid.shape[:2])
    if ratio < 1:
        grid = cv2.resize(grid, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    write_image(path, grid)
