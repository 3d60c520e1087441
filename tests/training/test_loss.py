"""The detection loss against its formula, and that it teaches."""

import math
from dataclasses import replace

import pytest
import torch

from models import Darknet
from tests.training.small import CFG
from utils.network.graph import parse_graph
from utils.training.assign import REACH_MARGIN, HeadSpec, head_specs
from utils.training.loss import DetectionLoss, LossOptions, reached_cells

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


def ciou_of(width: float) -> float:
    """That of width x 16 with 32x16 pixels at the same centre."""
    iou = min(width, 32) / max(width, 32)
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(width / 16)) ** 2
    return iou - v * v / (1 - iou + v)


def entropy(logit: float, wanted: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)


GAINS = LossOptions(box=1 / 3, objectness=100 / 3, classes=1 / 3)  # each part is then a plain sum over one object


@pytest.mark.parametrize("logit", [2.0, -3.0])
@pytest.mark.parametrize("width", [16.0, 24.0])
def test_parts_by_formula(logit: float, width: float) -> None:
    """Box: 1 - CIoU, worked out by hand; objectness: BCE against that CIoU, elsewhere against 0; class: BCE."""
    raw, target = perfect(2, 1)
    raw[0, 0, 2, 1, 2] = math.log(width / 16)  # the width predicted, 32 wanted, same centre
    raw[0, 0, 2, 1, 4:] = torch.tensor([logit, -1.5, 0.5])
    raw[0, 0, 0, 3, 4] = 1.0  # a false alarm
    total, (box, objectness, classes) = DetectionLoss([HeadSpec(ANCHORS, 2)], GAINS)([raw], target, (64, 64))
    assert box.item() == pytest.approx(1 - ciou_of(width), rel=1e-4)
    assert objectness.item() == pytest.approx(entropy(logit, ciou_of(width)) + entropy(1.0, 0), rel=1e-4)
    assert classes.item() == pytest.approx(entropy(-1.5, 0) + entropy(0.5, 1), rel=1e-4)
    assert total.item() == pytest.approx((box + objectness + classes).item(), rel=1e-6)


def test_the_default_gains() -> None:
    raw, target = perfect(2, 1)
    raw[0, 0, 2, 1, 2:] = torch.tensor([0.0, 0.0, 2.0, -1.5, 0.5])
    _, parts = DetectionLoss([HeadSpec(ANCHORS, 2)])([raw], target, (64, 64))
    classes = entropy(-1.5, 0) + entropy(0.5, 1)
    wanted = [0.15 * (1 - ciou_of(16)), 0.03 * entropy(2.0, ciou_of(16)), 0.09 * classes]
    assert parts.tolist() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, (0.5, 3.0)])
def test_smoothing_and_class_weights_by_formula(smoothing: float, weights: tuple[float, ...] | None) -> None:
    raw, target = perfect(2, 1)
    raw[0, 0, 2, 1, 5:] = torch.tensor([-1.5, 0.5])
    gains = replace(GAINS, label_smoothing=smoothing, class_weights=weights)
    _, (box, objectness, classes) = DetectionLoss([HeadSpec(ANCHORS, 2)], gains)([raw], target, (64, 64))
    first, second = weights or (1.0, 1.0)
    wanted = first * entropy(-1.5, smoothing / 2) + second * entropy(0.5, 1 - smoothing / 2)
    assert classes.item() == pytest.approx(wanted, rel=1e-5)
    assert box < 1e-4 and objectness < 1e-4  # these have neither


def test_more_objects_share_the_loss() -> None:
    """Means over assigned predictions: two objects like one have its parts, but for empty cells."""
    raw, target = perfect(2, 1)
    raw[0, 0, 2, 1, 2:] = torch.tensor([0.0, 0.0, 2.0, -1.5, 0.5])
    _, one = DetectionLoss([HeadSpec(ANCHORS, 2)])([raw], target, (64, 64))
    second = target + torch.tensor([1.0, 0, 0, 0, 0, 0])
    _, two = DetectionLoss([HeadSpec(ANCHORS, 2)])([raw.repeat(2, 1, 1, 1, 1)], torch.cat((target, second)), (64, 64))
    torch.testing.assert_close(two, one)


# ---- What is neither learnt nor background -------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_cells_that_reach_a_box(scale: float, seed: int) -> None:
    """By trying centres all over the boxes: a cell reaches so far beyond its edges."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(5, 6, generator=generator)
    targets[:, 0] = torch.tensor([0.0, 0, 2, 2, 2])
    targets[:, 4:] *= 0.5
    spec = HeadSpec(ANCHORS, 2, scale_x_y=scale)
    found = reached_cells(targets, spec, batch=3, rows=6, columns=9)
    assert found.shape == (3, 1, 6, 9)
    reach = REACH_MARGIN * (scale - 1) / 2
    expected = torch.zeros(3, 1, 6, 9, dtype=torch.bool)
    for image, _, cx, cy, w, h in targets.tolist():
        for row in range(6):
            for column in range(9):
                across = column - reach < (cx + w / 2) * 9 and column + 1 + reach > (cx - w / 2) * 9
                down = row - reach < (cy + h / 2) * 6 and row + 1 + reach > (cy - h / 2) * 6
                expected[int(image), 0, row, column] |= across and down
    assert torch.equal(found, expected) and 0 < found.sum() < found.numel()
    assert not reached_cells(targets[:0], spec, 3, 6, 9).any()


def test_predictions_on_an_ignored_box_are_neither_right_nor_wrong() -> None:
    raw, target = perfect(2, 1)
    raw[..., 4] = 1.0  # all over the place
    raw.requires_grad_()
    criterion = DetectionLoss([HeadSpec(ANCHORS, 2)])
    plain = torch.autograd.grad(criterion([raw], target, (64, 64))[0], raw)[0]
    # a box over the cells of row 0, columns 1 and 2; and one over the object's own cell
    tiny = torch.tensor([[0, -1, 2 / 4, 0.5 / 4, 0.2, 0.1], [0, -1, 1.5 / 4, 2.5 / 4, 0.01, 0.01]])
    got = torch.autograd.grad(criterion([raw], torch.cat((tiny, target)), (64, 64))[0], raw)[0]
    assert (got[0, 0, 0, 1:3] == 0).all() and (plain[0, 0, 0, 1:3, 4] > 0).all()
    got[0, 0, 0, 1:3] = plain[0, 0, 0, 1:3]
    torch.testing.assert_close(got, plain)


def test_only_ignored_boxes() -> None:
    raw = perfect(2, 1)[0] + 18
    everything = torch.tensor([[0, -1, 0.5, 0.5, 1.0, 1.0]])
    total, parts = DetectionLoss([HeadSpec(ANCHORS, 2)])([raw], everything, (64, 64))
    assert total == 0 and parts.tolist() == [0, 0, 0]


# ---- Other kinds of values -----------------------------------------------------------------------------------------


def test_new_coords_take_probabilities() -> None:
    raw, target = perfect(2, 1)
    spec = HeadSpec(ANCHORS, 2, scale_x_y=2.0, new_coords=True)
    probabilities = torch.full_like(raw, 1e-6)
    probabilities[0, 0, 2, 1] = torch.tensor([0.5, 0.5, 0.5**0.5, 0.5, 1 - 1e-6, 1e-6, 1 - 1e-6])  # 4*.5*16 = 32
    _, parts = DetectionLoss([spec])([probabilities], target, (64, 64))
    assert parts[0].item() < 1e-4 and parts[2].item() < 1e-4


@pytest.mark.parametrize("new_coords", [False, True])
@pytest.mark.parametrize("value", [-1e4, -20.0, -1e-30, 0.0, 1e-30, 20.0, 1e4])
@pytest.mark.parametrize("place", [0, 2, 3, (2, 3), range(7)])
def test_extreme_values_have_finite_gradients(new_coords: bool, value: float, place: int | tuple[int, ...]) -> None:
    raw, target = perfect(2, 1)
    raw = raw.sigmoid() if new_coords else raw
    raw[0, 0, 2, 1, place] = value  # of the prediction that answers for the object
    raw.requires_grad_()
    total, _ = DetectionLoss([HeadSpec(ANCHORS, 2, new_coords=new_coords)])([raw], target, (64, 64))
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(raw.grad).all()


def test_no_objects_and_extreme_values_stay_finite() -> None:
    for value in (-1e4, 1e4):
        raw = torch.full((2, 1, 4, 4, 7), value, requires_grad=True)
        loss = DetectionLoss([HeadSpec(ANCHORS, 2)])
        for targets in (torch.zeros(0, 6), perfect(2, 1)[1]):
            total, _ = loss([raw], targets, (64, 64))
            total.backward()
            assert torch.isfinite(total) and torch.isfinite(raw.grad).all()


NEW_COORDS = CFG.replace("activation=linear", "activation=logistic").replace("classes=1", "classes=1\nnew_coords=1")


def test_sure_false_alarms_of_new_coords_have_a_gradient_in_bfloat16() -> None:
    """An objectness of 0.9999 is 1 in bfloat16, and the logit of 1 would have no gradient."""
    gradients = []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = Darknet(parse_graph(NEW_COORDS)).train()
        bias = next(model.blocks[4].units()).conv.bias
        with torch.no_grad():
            bias.view(2, 6)[:, 4] = 9.0
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            raw = model(torch.rand(2, 3, 64, 64))
        DetectionLoss(head_specs(model))(raw, torch.zeros(0, 6), (64, 64))[0].backward()
        gradients.append(bias.grad.view(2, 6)[:, 4].clone())
    assert gradients[0].min() > 0.1
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=0)


def test_an_anchor_without_area_learns_nothing_and_breaks_nothing() -> None:
    """Darknet reads such anchors, too: no box is as wide as they are."""
    text = "[net]\nwidth=32\nheight=32\n[convolutional]\nfilters=16\nstride=8\nactivation=linear\n"
    model = Darknet(parse_graph(text + "[yolo]\nanchors=0,3,8,8\nnum=2\nclasses=3\n"))
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.25, 0.25], [1, 2, 0.3, 0.3, 0.2, 0.3]])
    loss, parts = DetectionLoss(head_specs(model))(model(torch.rand(2, 3, 32, 32)), targets, (32, 32))
    loss.backward()
    assert parts.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())
    assert (parts > 0).all()
