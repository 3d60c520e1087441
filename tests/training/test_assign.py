"""Which predictions answer for which object."""

import torch

from utils.training.assign import HeadSpec, assign

HEADS = [
    HeadSpec(torch.tensor([[10.0, 10.0], [20.0, 20.0]]), 2),
    HeadSpec(torch.tensor([[100.0, 100.0]]), 2),
]


def target(cx: float, cy: float, w: float, h: float, image: int = 0, label: int = 1) -> torch.Tensor:
    """In pixels of a 64x128 (height x width) input."""
    return torch.tensor([[image, label, cx / 128, cy / 64, w / 128, h / 64]])


def test_anchors_within_a_factor_of_four_answer() -> None:
    small, large = assign(target(37, 21, 30, 30, image=3), HEADS, [(8, 16), (2, 4)], (64, 128))
    assert small.anchor.tolist() == [0, 1] and large.anchor.tolist() == [0]  # 30/10, 30/20, 100/30 < 4
    assert small.column.tolist() == [4, 4] and small.row.tolist() == [2, 2]  # 37/8, 21/8
    assert (large.column.item(), large.row.item()) == (1, 0)
    assert small.image.tolist() == [3, 3] and small.classes.tolist() == [1, 1]
    torch.testing.assert_close(small.boxes[0], torch.tensor([37.0, 21.0, 30.0, 30.0]))


def test_the_best_anchor_always_answers() -> None:
    small, large = assign(target(37, 21, 2, 60), HEADS, [(8, 16), (2, 4)], (64, 128))
    assert small.anchor.tolist() == [0]  # sides differ 6-fold; the others' more
    assert large.anchor.tolist() == []


def test_neighbours_answer_only_where_decoding_reaches() -> None:
    for scale, cells in ((1.0, {(4, 2)}), (1.5, {(4, 2)}), (2.0, {(4, 2), (5, 2), (4, 3)})):
        heads = [HeadSpec(torch.tensor([[10.0, 10.0]]), 2, scale_x_y=scale)]
        (found,) = assign(target(8 * 4.7, 8 * 2.6, 10, 10), heads, [(8, 16)], (64, 128))
        assert set(zip(found.column.tolist(), found.row.tolist(), strict=True)) == cells
    # every assigned centre can be decoded: -(s-1)/2 < offset < 1 + (s-1)/2
    offset_x = 4.7 - found.column
    assert ((offset_x > -0.5) & (offset_x < 1.5)).all()


def test_borders_and_nothing() -> None:
    heads = [HeadSpec(torch.tensor([[10.0, 10.0]]), 2, scale_x_y=2.0)]
    for cx, cy, cell in ((0, 0, (0, 0)), (128, 64, (15, 7))):
        (found,) = assign(target(cx, cy, 10, 10), heads, [(8, 16)], (64, 128))
        assert cell in set(zip(found.column.tolist(), found.row.tolist(), strict=True))
        assert found.column.min() >= 0 and found.column.max() < 16 and found.row.min() >= 0 and found.row.max() < 8
    (empty,) = assign(torch.zeros(0, 6), heads, [(8, 16)], (64, 128))
    assert len(empty.image) == 0
