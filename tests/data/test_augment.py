"""Augmentation: boxes stay on their objects."""

from typing import Any, cast

import numpy as np
import pytest

from utils.data.augment import IGNORED, Augmentation, Picture, clip_boxes, colour, compose, cutmix, fit, flip, mixup

WHITE = np.uint8(255)
STILL = Augmentation(scale=0, translate=0)


def picture(width: int, height: int, box: tuple[int, int, int, int], label: int = 1) -> Picture:
    """A black picture with one white rectangle."""
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = WHITE
    return image, np.array([[label, *box]], np.float32)


def white_box(image: np.ndarray) -> np.ndarray:
    """Around the pixels that are more than half white."""
    rows, columns = np.nonzero(image[:, :, 0] > 184)  # half way between grey and white
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_fit() -> None:
    image, boxes = fit(picture(200, 100, (20, 10, 60, 50)), 100, 100)
    assert image.shape == (50, 100, 3)
    np.testing.assert_allclose(boxes, [[1, 10, 5, 30, 25]])


def test_a_still_camera_changes_nothing() -> None:
    image, boxes = compose([picture(64, 48, (20, 10, 40, 30))], 64, 48, STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(image, picture(64, 48, (20, 10, 40, 30))[0])
    np.testing.assert_allclose(boxes, [[1, 20, 10, 40, 30]])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        (Augmentation(scale=0.3, translate=0.1), 1),
        (Augmentation(scale=0.3, perspective=0.2), 1.5),
        (Augmentation(scale=0.2, degrees=10), 4),  # boxes are the hull of turned corners
    ],
)
def test_boxes_move_with_pixels(seed: int, how: Augmentation, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    image, boxes = compose([picture(160, 120, (60, 40, 100, 80))], 128, 96, how, rng)
    assert image.shape == (96, 128, 3) and len(boxes) == 1
    np.testing.assert_allclose(white_box(image), boxes[0, 1:], atol=tolerance)


def test_rotation_takes_the_hull() -> None:
    how = Augmentation(scale=0, translate=0, degrees=45)
    image, boxes = compose([picture(100, 100, (40, 40, 60, 60))], 100, 100, how, np.random.default_rng(1))
    np.testing.assert_allclose(white_box(image), boxes[0, 1:], atol=3)
    assert boxes[0, 3] - boxes[0, 1] > 20


def test_boxes_cut_off_are_clipped_or_dropped() -> None:
    # a window of 50x50 around the middle: the first box is outside, the second half outside
    boxes = np.array([[1, 90, 40, 100, 60], [2, 60, 40, 90, 60]], np.float32)
    _, left = compose([(np.zeros((100, 100, 3), np.uint8), boxes)], 50, 50, STILL, np.random.default_rng(0))
    np.testing.assert_allclose(left, [[2, 35, 15, 50, 35]], atol=0.5)


@pytest.mark.parametrize(
    ("box", "label"),
    [
        ((10, 10, 410, 16), 2),  # 400x6, whole
        ((10, 10, 12, 410), 2),  # 2x400, whole
        ((100, 10, 500, 16), 2),  # 400x6, of which 316x6 are left
        ((10, 10, 11.9, 410), IGNORED),  # thinner than 2 pixels
        ((10, 10, 11.9, 11.9), IGNORED),
        ((380, 10, 580, 110), 2),  # cut to 36 of 200 pixels
        ((-181, 10, 19, 110), IGNORED),  # cut to less than a tenth
        ((-179, 10, 21, 110), 2),  # to a bit more than a tenth
        ((-10, 10, 7, 411), IGNORED),  # cut to 7x401
        ((-10, 10, 9, 411), 2),  # to 9x401: not thinner than 1 to 50
        ((-200, 10, 0, 110), None),  # outside
        ((416, 10, 480, 110), None),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_learnt_ignored_and_dropped(box: tuple[float, ...], label: float | None, known: bool) -> None:
    """In a window of 416x416; what was ignored before stays so."""
    before = np.array([[2 if known else IGNORED, *box]], np.float32)
    left = clip_boxes(before, 416, 416)
    assert left[:, 0].tolist() == ([] if label is None else [label if known else IGNORED])
    if label is not None:
        np.testing.assert_allclose(left[0, 1:], np.clip(box, 0, 416))


@pytest.mark.parametrize("seed", range(8))
def test_mosaic_keeps_every_object_that_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = [picture(64, 48, (20, 10, 40, 30), label) for label in range(4)]
    image, boxes = compose(pictures, 128, 96, STILL, rng)  # all four corners fit
    assert image.shape == (96, 128, 3) and len(boxes) >= 3
    for _, x1, y1, x2, y2 in boxes.astype(int):
        assert (image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] == WHITE).all()
    shown = sum((x2 - x1) * (y2 - y1) for _, x1, y1, x2, y2 in boxes)
    assert (image[:, :, 0] > 184).sum() == pytest.approx(shown, rel=0.1)


def test_mosaic_tiles_do_not_overlap() -> None:
    tiles = [(np.full((40, 40, 3), 50 + 20 * i, np.uint8), np.zeros((0, 5), np.float32)) for i in range(4)]
    image, _ = compose(tiles, 80, 80, STILL, np.random.default_rng(3))
    colours, counts = np.unique(image[:, :, 0], return_counts=True)
    of_tiles = {int(c): int(n) for c, n in zip(colours, counts, strict=True) if c in (50, 70, 90, 110)}
    assert set(of_tiles) == {50, 70, 90, 110} and all(n <= 1600 for n in of_tiles.values())
    assert max(of_tiles.values()) > 1400


@pytest.mark.parametrize(("left_right", "up_down"), [(True, False), (False, True), (True, True), (False, False)])
def test_flip(left_right: bool, up_down: bool) -> None:
    image, boxes = flip(picture(50, 40, (5, 6, 15, 26)), left_right, up_down)
    expected = [35 if left_right else 5, 14 if up_down else 6, 45 if left_right else 15, 34 if up_down else 26]
    np.testing.assert_allclose(boxes[0, 1:], expected)
    np.testing.assert_array_equal(white_box(image), expected)


def test_colours() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 20, 3), np.uint8)
    still = Augmentation(hue=0, saturation=0, value=0)
    np.testing.assert_array_equal(colour(image, still, rng), image)
    little = colour(image, Augmentation(hue=0, saturation=1e-9, value=0), rng)  # there and back
    assert np.abs(little.astype(int) - image).max() <= 6  # 8-bit HSV is coarse


class Drawn:
    """In place of chance: `uniform` gives these numbers."""

    def __init__(self, *values: float) -> None:
        self.values = np.array(values)

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        assert (low, high, size) == (-1, 1, 3)
        return self.values


RED, GREEN, PINK, DARK_RED = (255, 0, 0), (0, 255, 0), (255, 128, 128), (128, 0, 0)  # RGB


@pytest.mark.parametrize(
    ("how", "drawn", "before", "after"),
    [
        (Augmentation(hue=1 / 3, saturation=0, value=0), (1, 0, 0), RED, GREEN),  # a third of the circle on
        (Augmentation(hue=1 / 3, saturation=0, value=0), (-1, 0, 0), GREEN, RED),
        (Augmentation(hue=1 / 3, saturation=0, value=0), (1, 0, 0), (90, 90, 90), (90, 90, 90)),
        (Augmentation(hue=0, saturation=0.5, value=0), (0, -1, 0), RED, PINK),  # half as colourful
        (Augmentation(hue=0, saturation=0.7, value=0), (0, 1, 0), RED, RED),  # it cannot be more so
        (Augmentation(hue=0, saturation=0, value=0.5), (0, 0, -1), RED, DARK_RED),  # half as bright
        (Augmentation(hue=0, saturation=0, value=0.4), (0, 0, 1), (100, 50, 50), (140, 70, 70)),
    ],
)
def test_a_known_colour_becomes_a_known_colour(
    how: Augmentation, drawn: tuple[float, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    image = np.full((4, 4, 3), before[::-1], np.uint8)  # BGR
    changed: Any = colour(image, how, cast(Any, Drawn(*drawn)))[..., ::-1]
    np.testing.assert_allclose(changed.astype(int), np.broadcast_to(after, (4, 4, 3)), atol=3)


def test_mixup_blends_pictures_and_takes_both_boxes() -> None:
    a, b = picture(40, 40, (0, 0, 10, 10)), picture(40, 40, (20, 20, 40, 40), 2)
    image, boxes = mixup(a, b, np.random.default_rng(0))
    assert boxes[:, 0].tolist() == [1, 2]
    assert 80 < image[5, 5, 0] < 175 and image[5, 5, 0] + int(image[30, 30, 0]) == pytest.approx(255, abs=1)


@pytest.mark.parametrize("seed", range(10))
def test_cutmix_keeps_what_shows(seed: int) -> None:
    a = picture(40, 40, (10, 10, 20, 20), 1)
    b = np.full((40, 40, 3), 90, np.uint8), np.array([[2, 0, 0, 40, 40]], np.float32)
    image, boxes = cutmix(a, b, np.random.default_rng(seed))
    patch = np.argwhere(image[:, :, 0] == 90)
    top, left = patch.min(axis=0)
    bottom, right = patch.max(axis=0) + 1
    np.testing.assert_allclose(boxes[-1], [2, left, top, right, bottom])
    visible = (image[10:20, 10:20, 0] == WHITE).mean()
    assert (1 in boxes[:, 0]) == (visible > 0.3)
    assert a[0][15, 15, 0] == WHITE  # the source is untouched
