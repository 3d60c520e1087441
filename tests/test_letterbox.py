"""The geometry between an image and the network's input."""

import numpy as np
import pytest

from utils.letterbox import letterbox, stretch, to_input


@pytest.mark.parametrize("place", [letterbox, stretch])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (100, 37), (416, 416)])
def test_boxes_go_there_and_back(place: object, size: tuple[int, int]) -> None:
    width, height = size
    _, placement = place(np.zeros((height, width, 3), np.uint8), 416, 320)  # type: ignore[operator]
    boxes = np.array([[0, 0, width, height], [width / 4, height / 8, width / 2, height / 2]], np.float32)
    there = placement.to_network(boxes)
    assert there.min() >= 0 and (there[:, [0, 2]] <= 416).all() and (there[:, [1, 3]] <= 320).all()
    np.testing.assert_allclose(placement.to_image(there), boxes, atol=1e-3)
    outside = placement.to_image(np.array([[-500, -500, 5000, 5000]], np.float32))
    np.testing.assert_array_equal(outside, [[0, 0, width, height]])


def test_a_drawn_square_is_where_its_box_goes() -> None:
    image = np.zeros((300, 600, 3), np.uint8)
    image[100:200, 200:400] = 255
    picture, placement = letterbox(image, 416, 416)
    x1, y1, x2, y2 = placement.to_network(np.array([[200, 100, 400, 200]], np.float32))[0]
    rows, columns = np.nonzero(picture[:, :, 0] > 200)
    np.testing.assert_allclose(
        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [x1, y1, x2, y2], atol=1.01
    )
    assert (picture[:104] == 114).all() and (picture[-104:] == 114).all()  # what PyTorch YOLOs fill with


def test_stretch_is_darknets_resize() -> None:
    """Corners aligned: value = the linear interpolation at x * (w-1)/(W-1), unrounded."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (7, 5, 3), np.uint8)
    got, _ = stretch(image, 11, 9)
    for y in range(9):
        for x in range(11):
            source_y, source_x = y * 6 / 8, x * 4 / 10
            low_y, low_x = min(int(source_y), 5), min(int(source_x), 3)
            dy, dx = source_y - low_y, source_x - low_x
            patch = image[low_y : low_y + 2, low_x : low_x + 2].astype(float)
            rows = patch[:, 0] * (1 - dx) + patch[:, 1] * dx
            np.testing.assert_allclose(got[y, x], rows[0] * (1 - dy) + rows[1] * dy, atol=1e-3)


def test_input_is_rgb_planes_in_0_to_1() -> None:
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 1] = (0, 51, 255)  # BGR
    planes = to_input(picture)
    assert planes.shape == (3, 2, 3) and planes.dtype == np.float32 and planes.flags.c_contiguous
    np.testing.assert_allclose(planes[:, 0, 1], [1.0, 0.2, 0.0])
