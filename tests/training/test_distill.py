"""A teacher's parts of the loss against their formulas, and what one step with a teacher leaves as it was."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from models import Darknet
from tests.conftest import randomise
from tests.training.small import CFG
from utils.network.fuse import fuse
from utils.network.graph import parse_graph
from utils.training import engine
from utils.training.assign import HeadSpec, head_specs
from utils.training.distill import MARGIN, Distilled, DistillLoss, DistillOptions, Lesson, soft_entropy
from utils.training.loss import HEADS, JOINT_OBJECTNESS, DetectionLoss, LossOptions

STUDENT = CFG.replace("classes=1", "classes=1\nscale_x_y=2")
TEACHER = STUDENT.replace("filters=32", "filters=48")
SPEC = HeadSpec(torch.tensor([[16.0, 16.0]]), 2)
OBJECT = torch.tensor([[0, 1, 1.5 / 4, 2.5 / 4, 32 / 64, 16 / 64]])  # 32x16 pixels, at row 2, column 1 of 4x4


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(probability: float, wanted: float) -> float:
    return -wanted * math.log(probability) - (1 - wanted) * math.log(1 - probability)


def head(width: float = 0.0, scores: tuple[float, ...] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    """Raw (1, 1, 4, 4, 7), empty but for one prediction at the object's cell, 16 * exp(width) x 16 pixels."""
    raw = torch.full((1, 1, 4, 4, 7), -20.0)
    raw[0, 0, 2, 1] = torch.tensor([0.0, 0.0, width, 0.0, *scores])
    return raw


def lesson(student: torch.Tensor, teacher: torch.Tensor, maps: Any = ()) -> Lesson:
    return Lesson([student], [teacher], [teacher[..., 4].sigmoid()], list(maps))


def distill(given: Lesson, **gains: float) -> torch.Tensor:
    """(3,) the weighted parts that a teacher adds: logits, box, features."""
    options = DistillOptions(**{"logits": 1.0, "box": 1.0, "features": 0.0, **gains})
    total, parts = DistillLoss(DetectionLoss([SPEC]), options)(given, OBJECT, (64, 64))
    plain, own = DetectionLoss([SPEC])(given.student, OBJECT, (64, 64))
    torch.testing.assert_close(parts[:3], own)
    torch.testing.assert_close(total - plain, parts[3:].sum())
    return parts[3:]


# ---- The parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_entropy_by_hand(temperature: float) -> None:
    """T^2 (BCE - entropy of the target), and its gradient, T (sigmoid(s / T) - sigmoid(t / T))."""
    student, teacher = torch.tensor([1.5, -3.0], requires_grad=True), torch.tensor([-0.5, -3.0])
    loss = soft_entropy(student, teacher, temperature)
    p, q = sigmoid(1.5 / temperature), sigmoid(-0.5 / temperature)
    assert loss[0].item() == pytest.approx(temperature**2 * (entropy(p, q) - entropy(q, q)), rel=1e-5)
    assert loss[1].item() == 0
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad[0].item() == pytest.approx(temperature * (p - q), rel=1e-5)
    assert student.grad[1].item() == 0


def test_logits_by_hand() -> None:
    """Classes count as much as the teacher's objectness, whose sum divides both."""
    gains = LossOptions()
    t = 2.0
    parts = distill(lesson(head(scores=(1.0, 2.0, -1.0)), head(scores=(3.0, -2.0, 0.5))), box=0.0, temperature=t)

    def apart(student: float, teacher: float) -> float:
        p, q = sigmoid(student / t), sigmoid(teacher / t)
        return t**2 * (entropy(p, q) - entropy(q, q))

    classes = (apart(2.0, -2.0) + apart(-1.0, 0.5)) * sigmoid(3.0)
    wanted = (apart(1.0, 3.0) * gains.objectness * JOINT_OBJECTNESS + classes * gains.classes) * HEADS
    # the sum of the teacher's objectness is 0.95: of less than one object, it counts as one
    assert parts[0].item() == pytest.approx(wanted, rel=1e-4) and parts[1] == parts[2] == 0


def test_more_objects_of_the_teacher_divide() -> None:
    student, teacher = head(scores=(1.0, 0.0, 0.0)), head(scores=(4.0, 0.0, 0.0))
    one = distill(lesson(student, teacher), box=0.0)[0]
    student[0, 0, 0, 0], teacher[0, 0, 0, 0] = student[0, 0, 2, 1], teacher[0, 0, 2, 1]
    two = distill(lesson(student, teacher), box=0.0)[0]
    assert two.item() == pytest.approx(2 * one.item() / (2 * sigmoid(4.0)), rel=1e-5)


def test_probabilities_of_new_coords_are_compared_as_logits() -> None:
    spec = replace(SPEC, new_coords=True)
    raw = [torch.full((1, 1, 4, 4, 7), 0.5), torch.full((1, 1, 4, 4, 7), 0.5)]
    raw[0][..., 4:], raw[1][..., 4:] = 0.2, 0.9
    criterion = DistillLoss(DetectionLoss([spec]), DistillOptions(1, box=0, features=0, temperature=1))
    _, parts = criterion(Lesson(raw[:1], raw[1:], [raw[1][..., 4]], []), OBJECT, (64, 64))
    apart = entropy(0.2, 0.9) - entropy(0.9, 0.9)
    wanted = HEADS * (apart / 0.9 * JOINT_OBJECTNESS + 2 * apart * LossOptions().classes)
    assert parts[3].item() == pytest.approx(wanted, rel=1e-4)


def ciou_error(width: float) -> float:
    """1 - CIoU of 16 * exp(width) x 16 with 32x16 at the same centre."""
    w = 16 * math.exp(width)
    iou = min(w, 32) / max(w, 32)
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(w / 16)) ** 2
    return 1 - iou + v * v / (1 - iou + v + 1e-7)


@pytest.mark.parametrize(
    ("student", "teacher", "pushed"),
    [
        (0.0, math.log(2), True),  # the teacher is perfect
        (0.4, 0.4, True),  # as good as the teacher
        (0.42, 0.4, True),  # better, but not by the margin
        (0.6, 0.3, False),  # better by more than the margin
        (math.log(2), 0.0, False),
    ],
)
def test_boxes_are_bounded_by_the_teacher(student: float, teacher: float, pushed: bool) -> None:
    assert (ciou_error(student) + MARGIN > ciou_error(teacher)) == pushed
    parts = distill(lesson(head(student), head(teacher)), logits=0.0)
    wanted = ciou_error(student) * LossOptions().box * HEADS if pushed else 0
    assert parts[1].item() == pytest.approx(wanted, abs=1e-6) and parts[0] == parts[2] == 0


def test_the_box_part_pushes_towards_the_object() -> None:
    raw = head(0.0).requires_grad_()
    gains = {"logits": 0.0, "features": 0.0}
    both, alone = (
        torch.autograd.grad(
            DistillLoss(DetectionLoss([SPEC]), options)(lesson(raw, head(0.3)), OBJECT, (64, 64))[0], raw
        )[0]
        for options in (DistillOptions(box=1.0, **gains), DistillOptions(box=0.0, **gains))
    )
    torch.testing.assert_close(both[0, 0, 2, 1, :4], 2 * alone[0, 0, 2, 1, :4])  # the box loss once more
    assert both[0, 0, 2, 1, 2] < 0 and torch.equal(both[..., 4:], alone[..., 4:])


def test_features_by_hand() -> None:
    """Squared differences over the teacher's squares, weighted by its greatest objectness; the mean over maps."""
    teacher, sure = torch.full((1, 2, 1, 2), 4.0), torch.tensor([[[[0.9, 0.0]], [[0.1, 0.3]]]])  # (1, 2 anchors, 1, 2)
    student = torch.tensor([[[[3.0, 0.0]], [[4.0, 4.0]]]])
    whole = (torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 7.0))
    maps = [(student, teacher), whole]
    both = Lesson([head()], [head()], [sure, torch.full((1, 1, 2, 2), 0.2)], maps)
    parts = distill(both, logits=0.0, box=0.0, features=2.0)
    first = (0.9 * 1 + 0.3 * 16) / (0.9 * 32 + 0.3 * 32)
    assert parts[2].item() == pytest.approx(2.0 * (first + 1) / 2) and parts[0] == parts[1] == 0


# ---- Student, teacher and adapters ---------------------------------------------------------------------------------


def network(cfg: str, seed: int) -> Darknet:
    torch.manual_seed(seed)
    model = Darknet(parse_graph(cfg))
    randomise(model, seed)
    return model


def pair(hints: bool = True) -> Distilled:
    return Distilled(network(STUDENT, 0), fuse(network(TEACHER, 1).eval()).requires_grad_(False), hints)


def test_its_own_teacher_teaches_nothing_new() -> None:
    """Logits and features that are the teacher's have no gradient."""
    student = network(STUDENT, 0).eval()
    both = Distilled(student, network(STUDENT, 0).eval().requires_grad_(False))
    nn.init.dirac_(both.adapters[0].weight)
    nn.init.zeros_(both.adapters[0].bias)
    student.forward = student.raw  # type: ignore[method-assign]
    seen = both(torch.rand(2, 3, 64, 64))
    criterion = DistillLoss(DetectionLoss(head_specs(student)), DistillOptions(features=1.0))
    added = criterion._logits(seen.student, seen.teacher, seen.sure) + criterion._features(seen)
    assert added.item() == pytest.approx(0, abs=1e-12)
    added.backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in both.parameters())


def test_maps_are_what_the_last_convolutions_read() -> None:
    both = pair().train()
    images = torch.rand(2, 3, 64, 64)
    seen = both(images)
    ((mine, theirs),) = seen.maps
    assert mine.shape == theirs.shape == (2, 48, 8, 8) and mine.requires_grad and not theirs.requires_grad
    teacher = both.pair[1]
    last = teacher.graph.heads()[0].sources[0]
    torch.testing.assert_close(teacher.blocks[last](theirs), teacher.heads(images)[0])
    unfused = network(TEACHER, 1).eval()
    torch.testing.assert_close(seen.teacher[0], unfused.raw(images)[0], rtol=1e-3, atol=1e-3)
    assert not any(module._forward_pre_hooks for each in both.pair for module in each.modules())


def test_without_hints_there_are_no_adapters() -> None:
    both = pair(hints=False).train()
    assert not list(both.adapters.parameters()) and both(torch.rand(1, 3, 64, 64)).maps == []


def test_the_teacher_stays_as_it_is() -> None:
    both = pair()
    teacher = both.pair[1]
    assert isinstance(both.module, Darknet) and engine.network_of(both) is both.module
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in both.parameters()}
    assert set(both.state_dict()) == {f"module.{name}" for name in both.module.state_dict()} | {
        "adapters.0.weight",
        "adapters.0.bias",
    }


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_changes_student_and_adapters_alone(fused: bool) -> None:
    teacher = network(TEACHER, 1).eval().requires_grad_(False)
    teacher = fuse(teacher) if fused else teacher
    both = Distilled(network(STUDENT, 0), teacher)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    own = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    both.train()
    norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    assert both.module.training and not any(module.training for module in (teacher, *norms))
    assert (len(norms) == 0) == fused
    optimizer = torch.optim.SGD(both.parameters(), lr=0.01)
    criterion = DistillLoss(DetectionLoss(head_specs(both.module)), DistillOptions())
    target = torch.tensor([[0, 0, 0.4, 0.5, 0.25, 0.3]])
    criterion(both(torch.rand(2, 3, 64, 64)), target, (64, 64))[0].backward()
    optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    changed = {name for name, tensor in both.state_dict().items() if not torch.equal(own[name], tensor)}
    assert changed == set(own)
