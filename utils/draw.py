"""Boxes with labels on a picture: one colour per class, text that stays legible at any size and in any script."""

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.files import whole_file

MAX_SIDE = 1920  # pixels of a grid of tiles
GOLDEN = 0.618033988749895  # steps of the hue circle that keep any number of classes apart


def class_colour(index: int) -> tuple[int, int, int]:
    """The RGB colour of a class; the same index always has the same colour."""
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN % 1, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def draw_boxes(
    image: np.ndarray,
    boxes_xyxy: np.ndarray,
    labels: Sequence[str],
    classes: Sequence[int],
    thickness: int | None = None,
) -> np.ndarray:
    """A copy of an (H, W, 3) BGR picture with its boxes (N, 4, pixels) and their labels drawn in class colours.

    An empty label is left out. `thickness` of the lines in pixels: by default what suits the picture's size.
    """
    height, width = image.shape[:2]
    line = thickness or max(2, round((height + width) * 0.0015))
    font = _font(max(11, round((height + width) * 0.011)))
    canvas = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    pen = ImageDraw.Draw(canvas)
    for box, label, index in zip(boxes_xyxy, labels, classes, strict=True):
        x1, y1, x2, y2 = np.clip(box, -line, [width + line, height + line] * 2).tolist()  # far ones overflow
        colour = class_colour(index)
        pen.rectangle((x1, y1, max(x2, x1), max(y2, y1)), outline=colour, width=line)
        if not label:
            continue
        _, _, text_width, text_height = pen.textbbox((0, 0), label, font=font)
        text_width, text_height = text_width + 6, text_height + 4
        left = min(max(x1, 0), max(width - text_width, 0))
        top = y1 - text_height if y1 >= text_height else y1  # inside the box where there is no room above
        pen.rectangle((left, top, left + text_width, top + text_height), fill=colour)
        dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        pen.text((left + 3, top + 1), label, font=font, fill="black" if dark else "white")
    return cv2.cvtColor(np.asarray(canvas), cv2.COLOR_RGB2BGR)


def write_image(path: Path, picture: np.ndarray) -> None:
    """Write an (H, W, 3) BGR picture, whole or not at all, as what the path's suffix says."""
    with whole_file(path) as partial:
        partial.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())


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
