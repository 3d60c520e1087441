"""Boxes on pictures."""

import numpy as np
import pytest

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


def test_the_first_box_lies_on_top() -> None:
    """The best box is the first; where lines meet, its colour is seen."""
    box = np.array([[20, 60, 120, 160]] * 2, np.float32)
    drawn = draw_boxes(np.zeros((200, 300, 3), np.uint8), box, ["", ""], [3, 7])
    assert drawn[160, 70].tolist() == list(class_colour(3)[::-1])


@pytest.mark.parametrize(
    ("index", "colour"), [(0, [255] * 3), (1, [255] * 3), (2, [0] * 3), (5, [0] * 3), (6, [255] * 3)]
)
def test_label_text_can_be_read(index: int, colour: list[int]) -> None:
    """White on red, blue and violet; black on yellow-green and orange."""
    drawn = draw_boxes(np.full((200, 300, 3), 128, np.uint8), np.array([[50, 60, 150, 160]]), ["MMMM"], [index])
    label = drawn[45:58, 53:75].reshape(-1, 3).astype(int)
    background = np.array(class_colour(index)[::-1])
    assert (label == background).all(1).any() and (label == colour).all(1).any()
    assert not (label == [255 - value for value in colour]).all(1).any()


@pytest.mark.parametrize("name", ["a\nb", "a\x85b", "\x1b[31ma", "a\0b", "a\u2028b", "a\udcffb", "\t\r\v"])
def test_control_characters_are_replaced(name: str) -> None:
    """Each by a sign of its own, so the label is as wide as with as many others."""
    boxes = np.array([[50, 60, 150, 160]])
    drawn = draw_boxes(np.zeros((200, 300, 3), np.uint8), boxes, [name], [5])
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    np.testing.assert_array_equal(drawn, draw_boxes(np.zeros((200, 300, 3), np.uint8), boxes, [plain], [5]))


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
