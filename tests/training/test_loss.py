"""The detection loss against its formula, and that it teaches."""

import math

import pytest
import torch

from utils.training.assign import HeadSpec
from utils.training.loss import DetectionLoss, LossOptions

ANCHORS = torch.tensor([[16.0, 16.0]])


def perfect(classes: int, label: int, quality: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw head (1, 1, 4, 4, 5+C) that says exactly what the target is, at stride 16."""
    raw = torch.full((1, 1, 4, 4, 5 + classes), -20.0)
    raw[0, 0, 2, 1, :4] = torch.tensor([0.0, 0.0, math.log(2.0), 0.0])  # centre of the cell, 32x16 pixels
    raw[0, 0, 2, 1, 4] = 20.0 if quality == 1 else 0.0
    raw[0, 0, 2, 1, 5 + label] = 20.0
    target = torch.tensor([[0, label, 1.5 / 4, 2.5 / 4, 32 / 64, 16 / 64]])
    return raw, target


@pytest.mark.parametrize("classes", [1, 3])
def test_a_perfect_prediction_costs_nothing(classes: int) -> None:
    raw, target = perfect(classes, classes - 1)
    total, parts = DetectionLoss([HeadSpec(ANCHORS, classes)])([raw], target, (64, 64))
    assert total.item() < 1e-5 and parts.max() < 1e-6


def test_the_class_is_learned_also_with_one_class() -> None:
    raw, target = perfect(1, 0)
    raw[0, 0, 2, 1, 5] = 0.0
    raw.requires_grad_()
    total, parts = DetectionLoss([HeadSpec(ANCHORS, 1)])([raw], target, (64, 64))
    total.backward()
    assert parts[2] > 0 and raw.grad[0, 0, 2, 1, 5] < 0


def test_parts_by_formula() -> None:
    """Box: 1 - CIoU, worked out by hand; objectness: BCE against that CIoU; class: BCE."""
    raw, target = perfect(2, 1)
    raw[0, 0, 2, 1, 2] = 0.0  # 16x16 predicted, 32x16 wanted, same centre
    raw[0, 0, 2, 1, 4:] = torch.tensor([0.0, 0.0, 0.0])
    gains = LossOptions(box=1.0, objectness=1.0, classes=1.0)
    _, (box, objectness, classes) = DetectionLoss([HeadSpec(ANCHORS, 2)], gains)([raw], target, (64, 64))
    iou = 0.5
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    ciou = iou - v * v / (1 - iou + v)
    assert box.item() / 3 == pytest.approx(1 - ciou, rel=1e-4)
    # a hundredth of the sum over the cells, for the one that is assigned
    assert objectness.item() / 3 == pytest.approx(math.log(2) * 0.01, rel=1e-3)
    assert classes.item() / 3 == pytest.approx(2 * math.log(2), rel=1e-4)


def test_new_coords_take_probabilities() -> None:
    raw, target = perfect(2, 1)
    spec = HeadSpec(ANCHORS, 2, scale_x_y=2.0, new_coords=True)
    probabilities = torch.full_like(raw, 1e-6)
    probabilities[0, 0, 2, 1] = torch.tensor([0.5, 0.5, 0.5**0.5, 0.5, 1 - 1e-6, 1e-6, 1 - 1e-6])  # 4*.5*16 = 32
    _, parts = DetectionLoss([spec])([probabilities], target, (64, 64))
    assert parts[0].item() < 1e-4 and parts[2].item() < 1e-4


def test_no_objects_and_extreme_values_stay_finite() -> None:
    raw = torch.full((2, 1, 4, 4, 7), 1e4, requires_grad=True)
    loss = DetectionLoss([HeadSpec(ANCHORS, 2)])
    for targets in (torch.zeros(0, 6), perfect(2, 1)[1]):
        total, _ = loss([raw], targets, (64, 64))
        total.backward()
        assert torch.isfinite(total) and torch.isfinite(raw.grad).all()
