"""Image files: the pixels as the network takes them, or only the size. Every error names its file."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from utils.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
UNREADABLE_SUFFIXES = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".exr", ".heic", ".heif", ".hif", ".jxl"}
    | {".nef", ".orf", ".psd", ".raf", ".rw2", ".svg", ".tga"}
)
"""Images, too, but of formats that neither OpenCV nor Pillow reads here."""

EXIF_ORIENTATION = 0x0112  # 5 to 8: the camera was held upright, so width and height change places


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file to (H, W, 3) uint8, BGR, turned upright by its EXIF orientation.

    Raises `DataError` naming the file when it is missing or cannot be decoded.
    """
    try:
        content = np.fromfile(path, np.uint8)  # cv2.imread fails on non-ASCII paths on Windows
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"{path}: {_reason(error)}") from None
    return decode_image(content, str(path))


def decode_image(content: np.ndarray, name: str) -> np.ndarray:
    """Decode the bytes of an image file, (N,) uint8, as `read_image` does; `name` is for the error message."""
    if content.size == 0:
        raise DataError(f"{name}: the file is empty")
    try:
        if content[4:8].tobytes() == b"ftyp":  # AVIF, which OpenCV does not turn upright
            with Image.open(io.BytesIO(content.data), formats=["AVIF"]) as opened:
                return from_pillow(opened)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except Exception:  # a size beyond OpenCV's limits; Pillow's plugins raise errors of all kinds
        image = None
    if image is None:
        raise DataError(f"{name}: not an image, or a damaged one")
    return image


def from_pillow(image: Image.Image) -> np.ndarray:
    """A PIL image of any mode as (H, W, 3) uint8, BGR, turned upright.

    Of integers of 16 bits (I;16, I) the upper eight are taken; floats (F) are scaled from 0..1, 0..255 or 0..65535,
    the least range that has them all.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        values = np.nan_to_num(np.asarray(upright)).clip(0, 65535)
        top = next(top for top in (1, 255, 65535) if values.max() <= top)
        return cv2.cvtColor((values * (255 / top)).round().astype(np.uint8), cv2.COLOR_GRAY2BGR)
    if upright.mode.startswith("I"):
        return cv2.cvtColor((np.asarray(upright).clip(0, 65535) >> 8).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(np.asarray(upright.convert("RGB")), cv2.COLOR_RGB2BGR)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels, read from the header alone, turned upright as `read_image` does.

    Raises `DataError` naming the file when it is missing or its header is no image's.
    """
    return _size(path, str(path))


def content_size(content: bytes, name: str) -> tuple[int, int]:
    """`image_size`, of the bytes of an image file; `name` is for the error message."""
    return _size(io.BytesIO(content), name)


def _size(file: str | Path | io.BytesIO, name: str) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            width, height = image.size
            # Pillow already turns a TIFF's size.
            exif = Image.Image.getexif(image)  # a PNG's own would decode all of it, to look behind the pixels
            orientation = exif.get(EXIF_ORIENTATION, 1)  # of any type, in damaged files
            turned = image.format != "TIFF" and isinstance(orientation, int) and 5 <= orientation <= 8
    except Exception as error:  # Pillow's plugins raise errors of all kinds for damaged files
        raise DataError(f"{name}: {_reason(error)}") from None
    return (height, width) if turned else (width, height)


def _reason(error: Exception) -> str:
    """Why a file could not be read, without repeating its path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.DecompressionBombError):
        return "far more pixels than a photo has"
    return "not an image, or a damaged one"
