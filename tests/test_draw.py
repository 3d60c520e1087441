"""Boxes on pictures."""

import numpy as np

from utils.draw import class_colour, draw_boxes


def test_colours_are_stable_and_distinct() -> None:
    assert class_colour(3) == class_colour(3)
    assert len({class_colour(index) for index in range(80)}) == 80


def test_boxes_are_drawn_where_they_are() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[50, 60, 150, 160]], np.float32), ["cat 0.90"], [5])
    assert image.sum() == 0 and drawn.shape == image.shape  # a copy
    red, green, blue = class_colour(5)
    assert drawn[160, 100].tolist() == [blue, green, red] and drawn[110, 50].tolist() == [blue, green, red]
    assert drawn[110, 100].sum() == 0
    rows = np.nonzero(drawn.any(axis=(1, 2)))[0]
    assert rows.min() < 60  # the label is above


def test_a_box_far_outside_is_drawn_to_the_edge() -> None:
    drawn = draw_boxes(np.zeros((60, 80, 3), np.uint8), np.array([[-1e30, 30, 1e30, 1e38]], np.float32), ["x"], [0])
    assert drawn[30].any(axis=1).all()  # its upper side crosses the picture


def test_any_size_any_script_any_position() -> None:
    for height, width in ((1, 1), (5, 900), (16, 16)):
        boxes = np.array([[0, 0, width, height], [width - 1, height - 1, width, height]], np.float32)
        assert draw_boxes(np.zeros((height, width, 3), np.uint8), boxes, ["猫 0.5", "кот"], [0, 1]).shape[:2] == (
            height,
            width,
        )
