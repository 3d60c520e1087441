"""Augmentation: boxes stay on their objects."""

import numpy as np
import pytest

from utils.data.augment import Augmentation, affine, fit, flip, hsv, mosaic

WHITE = np.uint8(255)


def picture(width: int, height: int, box: tuple[int, int, int, int], label: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A black picture with one white rectangle."""
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = WHITE
    return image, np.array([[label, *box]], np.float32)


def white_box(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image[:, :, 0] > 200)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_fit_and_flip() -> None:
    image, boxes = fit(picture(200, 100, (20, 10, 60, 50)), 100, 100)
    assert image.shape == (50, 100, 3)
    np.testing.assert_allclose(boxes, [[1, 10, 5, 30, 25]])
    image, boxes = flip((image, boxes))
    np.testing.assert_allclose(boxes, [[1, 70, 5, 90, 25]])
    np.testing.assert_allclose(white_box(image), boxes[0, 1:], atol=1)


@pytest.mark.parametrize("seed", range(10))
def test_affine_moves_boxes_with_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, boxes = affine(picture(160, 120, (60, 40, 100, 80)), 128, 96, Augmentation(scale=0.3, translate=0.1), rng)
    assert image.shape == (96, 128, 3) and len(boxes) == 1
    np.testing.assert_allclose(white_box(image), boxes[0, 1:], atol=1.6)


def test_rotation_takes_the_hull() -> None:
    rng = np.random.default_rng(1)
    image, boxes = affine(
        picture(100, 100, (40, 40, 60, 60)), 100, 100, Augmentation(scale=0, translate=0, degrees=45), rng
    )
    np.testing.assert_allclose(white_box(image), boxes[0, 1:], atol=3)
    assert boxes[0, 3] - boxes[0, 1] > 20


def test_boxes_cut_off_are_clipped_or_dropped() -> None:
    how = Augmentation(scale=0, translate=0)
    inside = picture(100, 100, (90, 40, 100, 60))[1]
    image = np.zeros((100, 100, 3), np.uint8)
    # a window of 50x50 around the centre: the first box is outside, the second half outside
    boxes = np.concatenate((inside, [[2, 60, 40, 90, 60]])).astype(np.float32)
    _, left = affine((image, boxes), 50, 50, how, np.random.default_rng(0))
    np.testing.assert_allclose(left, [[2, 35, 15, 50, 35]], atol=0.5)


@pytest.mark.parametrize("seed", range(8))
def test_mosaic_keeps_every_object_that_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = [picture(64, 48, (20, 10, 40, 30), label) for label in range(4)]
    image, boxes = mosaic(pictures, 64, 48, rng)
    assert image.shape == (96, 128, 3) and len(boxes) == 4
    for _, x1, y1, x2, y2 in boxes.astype(int):
        if x2 > x1 and y2 > y1:
            assert (image[y1:y2, x1:x2] == WHITE).all()
    shown = sum(int(x2 - x1) * int(y2 - y1) for _, x1, y1, x2, y2 in boxes)
    assert (image[:, :, 0] == WHITE).sum() == shown


def test_hsv_with_no_gain_changes_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 20, 3), np.uint8)
    same = hsv(image, Augmentation(hue=0, saturation=0, value=0), rng)
    assert np.abs(same.astype(int) - image).max() <= 6  # 8-bit HSV is coarse
    assert np.abs(hsv(image, Augmentation(), rng).astype(int) - image).max() > 6
