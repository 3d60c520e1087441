"""utils/data/images.py against Pillow's own pixels and sizes."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.data.images import IMAGE_SUFFIXES, from_pillow, image_size, read_image
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


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 65535])
def test_size_agrees_with_pixels_whatever_the_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    picture(30, 20).save(path, exif=exif)
    height, width = read_image(path).shape[:2]
    assert image_size(path) == (width, height)
    assert (width, height) == ((20, 30) if orientation in (5, 6, 7, 8) else (30, 20))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16"])
def test_other_pixel_formats_become_bgr(tmp_path: Path, mode: str) -> None:
    (Image.new("I;16", (9, 5), 40000) if mode == "I;16" else picture(9, 5).convert(mode)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (5, 9, 3)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    image = picture(32, 16)
    if suffix in (".pbm", ".pgm"):
        image = image.convert("1" if suffix == ".pbm" else "L")
    image.save(tmp_path / f"a{suffix}")
    assert image_size(tmp_path / f"a{suffix}") == (32, 16)
    expected = np.asarray(image.convert("RGB"))[..., ::-1]
    assert np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - expected).mean() < 4  # some lose a little


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_avif_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(32, 20).save(tmp_path / "a.jpg", exif=exif)  # the same picture, which OpenCV turns
    exif[0x0112] = orientation
    picture(32, 20).save(tmp_path / "a.avif", exif=exif, quality=95)
    by_opencv = cv2.imread(str(tmp_path / "a.jpg")).astype(int)
    assert np.abs(read_image(tmp_path / "a.avif") - by_opencv).mean() < 4


@pytest.mark.parametrize("place", [0.3, 0.5, 0.8])
def test_damaged_avif_is_one_line(tmp_path: Path, place: float) -> None:
    path = tmp_path / "a.jpg"  # whatever it is called
    Image.effect_noise((64, 48), 50).save(path, "AVIF")
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 40] = bytes(40)
    path.write_bytes(content[: int(1.1 * start)])
    with pytest.raises(DataError, match=r"a\.jpg: not an image, or a damaged one"):
        read_image(path)
    with suppress(DataError):  # where the header is hurt, too
        assert image_size(path) == (64, 48)


def test_whatever_error_a_plugin_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(8, 4).save(tmp_path / "a.avif")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to decode image")

    monkeypatch.setattr(Image, "open", broken)
    for function in (read_image, image_size):
        with pytest.raises(DataError, match=r"a\.avif: not an image, or a damaged one"):
            function(tmp_path / "a.avif")


@pytest.mark.parametrize(
    ("mode", "value", "grey"),
    [
        ("I;16", 30000, 117), ("I;16B", 30000, 117), ("I", 30000, 117), ("I", 65535, 255), ("I", 300, 1),
        ("I", -5, 0), ("I", 10**6, 255), ("F", 0.46, 117), ("F", 1.0, 255), ("F", 117.2, 117), ("F", 30000.0, 117),
        ("F", float("nan"), 0), ("F", float("inf"), 255), ("F", -1.0, 0), ("L", 117, 117),
    ],
)  # fmt: skip
def test_pillow_modes_of_more_than_eight_bits(mode: str, value: float, grey: int) -> None:
    image = Image.new(mode, (3, 2))
    image.putpixel((1, 0), value)
    pixels = from_pillow(image)
    assert pixels.shape == (2, 3, 3) and pixels.dtype == np.uint8
    assert pixels[0, 1].tolist() == [grey] * 3 and not pixels[1].any()


def test_sixteen_bits_become_the_eight_of_opencv(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (5, 7), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    expected = cv2.imread(str(tmp_path / "a.png"))
    for mode in ("I;16", "I"):
        image = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.int32))
        assert image.mode == mode
        np.testing.assert_array_equal(from_pillow(image), expected)


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
