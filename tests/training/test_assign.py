"""Which predictions answer for which object."""

import math

import pytest
import torch

from utils.training.assign import HeadSpec, by_quality, candidates

HEADS = [
    HeadSpec(torch.tensor([[10.0, 10.0], [20.0, 20.0]]), 2),
    HeadSpec(torch.tensor([[100.0, 100.0]]), 2),
]


def target(cx: float, cy: float, w: float, h: float, image: int = 0, label: int = 1) -> torch.Tensor:
    """In pixels of a 64x128 (height x width) input."""
    return torch.tensor([[image, label, cx / 128, cy / 64, w / 128, h / 64]])


def test_anchors_within_a_factor_of_four_answer() -> None:
    small, large = candidates(target(37, 21, 30, 30, image=3), HEADS, [(8, 16), (2, 4)], (64, 128))
    assert small.anchor.tolist() == [0, 1] and large.anchor.tolist() == [0]  # 30/10, 30/20, 100/30 < 4
    assert small.column.tolist() == [4, 4] and small.row.tolist() == [2, 2]  # 37/8, 21/8
    assert (large.column.item(), large.row.item()) == (1, 0)
    assert small.image.tolist() == [3, 3] and small.classes.tolist() == [1, 1]
    torch.testing.assert_close(small.boxes[0], torch.tensor([37.0, 21.0, 30.0, 30.0]))


def test_the_best_anchor_always_answers() -> None:
    small, large = candidates(target(37, 21, 2, 60), HEADS, [(8, 16), (2, 4)], (64, 128))
    assert small.anchor.tolist() == [0]  # sides differ 6-fold; the others' more
    assert large.anchor.tolist() == []


def test_neighbours_answer_only_where_decoding_reaches() -> None:
    for scale, cells in ((1.0, {(4, 2)}), (1.5, {(4, 2)}), (2.0, {(4, 2), (5, 2), (4, 3)})):
        heads = [HeadSpec(torch.tensor([[10.0, 10.0]]), 2, scale_x_y=scale)]
        (found,) = candidates(target(8 * 4.7, 8 * 2.6, 10, 10), heads, [(8, 16)], (64, 128))
        assert set(zip(found.column.tolist(), found.row.tolist(), strict=True)) == cells
    # every assigned centre can be decoded: -(s-1)/2 < offset < 1 + (s-1)/2
    offset_x = 4.7 - found.column
    assert ((offset_x > -0.5) & (offset_x < 1.5)).all()


def test_borders_and_nothing() -> None:
    heads = [HeadSpec(torch.tensor([[10.0, 10.0]]), 2, scale_x_y=2.0)]
    for cx, cy, cell in ((0, 0, (0, 0)), (128, 64, (15, 7))):
        (found,) = candidates(target(cx, cy, 10, 10), heads, [(8, 16)], (64, 128))
        assert cell in set(zip(found.column.tolist(), found.row.tolist(), strict=True))
        assert found.column.min() >= 0 and found.column.max() < 16 and found.row.min() >= 0 and found.row.max() < 8
    (empty,) = candidates(torch.zeros(0, 6), heads, [(8, 16)], (64, 128))
    assert len(empty.image) == 0


QUALITY_HEADS = [HeadSpec(torch.tensor([[16.0, 16.0], [32.0, 32.0]]), 2, scale_x_y=2.0)]


def raw_map(boxes: dict[tuple[int, int, int], tuple[float, float]]) -> torch.Tensor:
    """One 4x4 head at stride 16; {(anchor, row, column): (log width, class logit)}, all else predicts the anchor."""
    raw = torch.zeros(1, 2, 4, 4, 7)
    for place, (log_width, logit) in boxes.items():
        raw[(0, *place)][2] = log_width
        raw[(0, *place)][6] = logit
    return raw


def test_quality_takes_the_best_predictions() -> None:
    """A 16x16 object in the middle of cell (1, 1): the 16x16 anchor there overlaps it fully, others hardly."""
    box = torch.tensor([[0, 1, 24 / 64, 24 / 64, 16 / 64, 16 / 64]])
    (found,) = by_quality(box, [raw_map({})], QUALITY_HEADS, (64, 64))
    assert (found.anchor.tolist(), found.row.tolist(), found.column.tolist()) == ([0], [1], [1])
    # spoil that prediction: eight times too wide; the 32x32 anchor of the cell is the better one then
    (found,) = by_quality(box, [raw_map({(0, 1, 1): (2.08, 0.0)})], QUALITY_HEADS, (64, 64))
    assert (found.anchor.tolist(), found.row.tolist(), found.column.tolist()) == ([1], [1], [1])


def test_quality_counts_the_class_too() -> None:
    box = torch.tensor([[0, 1, 24 / 64, 24 / 64, 22 / 64, 22 / 64]])  # between both anchors
    for anchor in (0, 1):
        raw = raw_map({(0, 1, 1): (0.0, -8.0), (1, 1, 1): (0.0, -8.0)})
        raw[0, anchor, 1, 1, 6] = 8.0
        (found,) = by_quality(box, [raw], QUALITY_HEADS, (64, 64))
        assert found.anchor.tolist() == [anchor]


def test_good_predictions_answer_together_and_none_for_two() -> None:
    torch.manual_seed(0)
    boxes = torch.rand(40, 6) * 0.5 + 0.2
    boxes[:, 0], boxes[:, 1] = torch.arange(40) % 4, 1
    raw = torch.randn(4, 2, 4, 4, 7) * 0.3
    (found,) = by_quality(boxes, [raw], QUALITY_HEADS, (64, 64))
    cells = list(zip(*(getattr(found, key).tolist() for key in ("image", "anchor", "row", "column")), strict=True))
    assert len(set(cells)) == len(cells)
    (all_of_them,) = candidates(boxes, QUALITY_HEADS, [(4, 4)], (64, 64))
    assert 0 < len(cells) < len(all_of_them.image)
    # one object within another: each has the anchor of its size
    twins = torch.tensor([[0, 1, 24 / 64, 24 / 64, 0.25, 0.25], [0, 0, 24 / 64, 24 / 64, 0.5, 0.5]])
    (found,) = by_quality(twins, [torch.zeros(1, 2, 4, 4, 7)], QUALITY_HEADS, (64, 64))
    assert dict(zip(found.target.tolist(), found.anchor.tolist(), strict=True)) == {0: 0, 1: 1}


def test_quality_of_nothing() -> None:
    (found,) = by_quality(torch.zeros(0, 6), [torch.zeros(1, 2, 4, 4, 7)], QUALITY_HEADS, (64, 64))
    assert len(found.image) == 0


def test_an_object_wants_the_sum_of_its_ten_best_overlaps() -> None:
    """Twelve predictions 0.95 as wide as the object: 9.5 of the best ten, so nine; of four: 3.8, so three."""
    box = torch.tensor([[0, 1, 24 / 64, 24 / 64, 16 / 64, 16 / 64]])
    for anchors, expected in ((12, 9), (4, 3)):
        raw = torch.zeros(1, anchors, 4, 4, 7)
        raw[..., 2] = math.log(0.95)
        (found,) = by_quality(box, [raw], [HeadSpec(torch.full((anchors, 2), 16.0), 2)], (64, 64))
        assert len(found.target) == expected


def test_quality_is_overlap_times_the_root_of_the_class() -> None:
    """0.9 * 0.2 ** 0.5 > 0.6 * 0.36 ** 0.5, though 0.9 * 0.2 < 0.6 * 0.36."""
    box = torch.tensor([[0, 1, 24 / 64, 24 / 64, 16 / 64, 16 / 64]])
    for better in (0, 1):
        raw = torch.zeros(1, 2, 4, 4, 7)
        for anchor, (width, share) in zip((better, 1 - better), ((0.9, 0.2), (0.6, 0.36)), strict=True):
            raw[0, anchor, 1, 1, 2], raw[0, anchor, 1, 1, 6] = math.log(width), math.log(share / (1 - share))
        (found,) = by_quality(box, [raw], [HeadSpec(torch.full((2, 2), 16.0), 2)], (64, 64))
        assert found.anchor.tolist() == [better]


@pytest.mark.parametrize("size", [16, 22, 32])
def test_two_objects_in_one_place_both_have_a_prediction(size: int) -> None:
    both = torch.tensor([[0, label, 24 / 64, 24 / 64, size / 64, size / 64] for label in (0, 1)])
    (found,) = by_quality(both, [raw_map({})], QUALITY_HEADS, (64, 64))
    assert set(found.target.tolist()) == {0, 1} and set(found.classes.tolist()) == {0, 1}


@pytest.mark.parametrize("seed", range(5))
def test_in_a_crowd_no_object_is_left_out(seed: int) -> None:
    torch.manual_seed(seed)
    targets = torch.rand(120, 6)
    targets[:, 0], targets[:, 1], targets[:, 4:] = 0, 1, 12 / 416
    heads = [HeadSpec(torch.tensor([[10.0, 14.0], [23.0, 27.0], [37.0, 58.0]]), 2, 2.0)] * 2
    raw = [torch.randn(1, 3, side, side, 7) for side in (26, 13)]
    found = by_quality(targets, raw, heads, (416, 416))
    assert set(torch.cat([one.target for one in found]).tolist()) == set(range(120))
    for one in found:
        cells = list(zip(one.anchor.tolist(), one.row.tolist(), one.column.tolist(), strict=True))
        assert len(set(cells)) == len(cells)


def test_more_objects_than_predictions_end_with_one_each() -> None:
    """Ten objects in one cell of two anchors: two of them have a prediction."""
    crowd = torch.tensor([[0, 1, 24 / 64, 24 / 64, 16 / 64, 16 / 64]] * 10)
    heads = [HeadSpec(torch.tensor([[16.0, 16.0], [18.0, 18.0]]), 2)]
    (found,) = by_quality(crowd, [torch.zeros(1, 2, 4, 4, 7)], heads, (64, 64))
    assert len(found.target) == len(set(found.target.tolist())) == 2
    assert len(set(found.anchor.tolist())) == 2
