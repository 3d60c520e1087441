"""utils/data/images.py against Pillow's own pixels and sizes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data.images import image_size, read_image
from utils.errors import DataError


def picture(width: int, height: int) -> Image.Image:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, :, 0] = 200  # RGB: the upper half is red
    return Image.fromarray(pixels)


def test_reads_bgr(tmp_path: Path) -> None:
    picture(8, 4).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (4, 8, 3) and image.dtype == np.uint8
    assert image[0, 0].tolist() == [0, 0, 200] and image[3, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_agrees_with_pixels_whatever_the_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    picture(30, 20).save(path, exif=exif)
    height, width = read_image(path).shape[:2]
    assert image_size(path) == (width, height)
    assert (width, height) == ((20, 30) if orientation >= 5 else (30, 20))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_other_pixel_formats_become_bgr(tmp_path: Path, mode: str) -> None:
    (Image.new("I;16", (9, 5), 40000) if mode == "I;16" else picture(9, 5).convert(mode)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (5, 9, 3)


def test_any_path(tmp_path: Path) -> None:
    folder = tmp_path / "größe 大 images"
    folder.mkdir()
    picture(8, 4).save(folder / "ß.png")
    assert read_image(folder / "ß.png").shape == (4, 8, 3)


@pytest.mark.parametrize(("name", "content"), [("empty.jpg", b""), ("text.png", b"not an image" * 20)])
@pytest.mark.parametrize("function", [read_image, image_size])
def test_no_image_is_named(tmp_path: Path, function: Callable, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        function(tmp_path / name)


@pytest.mark.parametrize("function", [read_image, image_size])
def test_missing_file_is_named(tmp_path: Path, function: Callable) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg: no such file"):
        function(tmp_path / "nowhere.jpg")


def test_truncated_image_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    Image.effect_noise((200, 100), 50).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert image_size(path) == (200, 100)  # the header is whole
    with pytest.raises(DataError, match=r"half\.jpg"):
        read_image(path)
