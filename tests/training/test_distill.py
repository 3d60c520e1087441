"""A teacher's parts of the loss against their formulas, and what a training with one leaves as it was."""

import csv
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import Darknet, load_model, save_weights
from tests.commands import assert_refused, run, torchrun
from tests.conftest import randomise
from tests.training.small import CFG, make_set, stop_at_change
from train import TrainOptions, head_specs, train
from utils.errors import InputError, Stopped
from utils.files import PROJECT
from utils.network.fuse import fuse
from utils.network.graph import parse_graph
from utils.training import engine
from utils.training.assign import HeadSpec
from utils.training.distill import MARGIN, Distilled, DistillLoss, DistillOptions, Lesson, soft_entropy
from utils.training.loss import HEADS, JOINT_OBJECTNESS, DetectionLoss, LossOptions
from utils.training.options import check_options

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


# ---- Trainings -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, x.cfg, and a teacher as .pt and as .weights with its cfg."""
    folder = tmp_path_factory.mktemp("distill")
    make_set(folder, images=48)
    teacher = network(TEACHER, 1)
    teacher.names = ["class_0"]
    save_weights(teacher, folder / "t.pt")
    save_weights(teacher, folder / "t.weights")
    (folder / "t.cfg").write_text(TEACHER)
    return folder


OPTIONS: dict[str, Any] = {"cfg": "x.cfg", "data": "s.data", "batch_size": 8, "amp": "off", "device": "cpu"}


def options(**changes: Any) -> TrainOptions:
    return TrainOptions(**{**OPTIONS, "epochs": 3, "workers": 0, "t_weights": "t.pt", **changes})


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").open()))


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A training with a teacher that was never disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        train(options(name="whole"))
    return place / "runs/train/whole"


@pytest.mark.slow
def test_what_it_leaves_is_the_students_alone(whole: Path) -> None:
    student = Darknet(parse_graph(STUDENT))
    for name in ("best.pt", "last.pt"):
        content = torch.load(whole / name, weights_only=True)
        assert set(content["model"]) == set(student.state_dict()) and content.get("training") is None
    assert load_model(whole / "model.cfg", whole / "best.weights").graph.nodes == student.graph.nodes
    assert load_model(None, whole / "best.pt").graph.nodes == student.graph.nodes


@pytest.mark.slow
def test_columns_with_and_without_a_teacher(whole: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    own = ["distill_logits", "distill_box", "distill_features"]
    assert list(rows(whole)[0])[:9] == ["epoch", "box", "objectness", "classes", "ap50", "ap", *own]
    assert all(float(row[name]) > 0 for row in rows(whole) for name in own)
    off = dict.fromkeys(own[:2], 0.0)
    features = rows(train(options(epochs=1, name="features", **off)).folder)[0]
    assert [float(features[name]) > 0 for name in own] == [False, False, True]
    alone = rows(train(options(epochs=1, name="alone", t_weights=None)).folder)[0]
    assert not any("distill" in name for name in alone)
    assert alone["box"] != features["box"]


@pytest.mark.slow
def test_stopped_and_resumed_bit_for_bit(whole: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an epoch, and from another folder."""
    monkeypatch.chdir(place)
    stop_at_change(monkeypatch, 9)
    with pytest.raises(Stopped):
        train(options(name="middle"))
    folder = place / "runs/train/middle"
    content = torch.load(folder / "last.pt", weights_only=True)
    assert (content["training"]["epoch"], content["training"]["totals"]["steps"]) == (1, 3)
    assert "adapters.0.weight" in content["training"]["model"] and not any("adapters" in n for n in content["model"])
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    train(TrainOptions(resume=str(folder)))
    for name in ("last.pt", "best.pt"):
        one, other = (torch.load(each / name, weights_only=True)["model"] for each in (folder, whole))
        assert all(torch.equal(one[key], other[key]) for key in other)
    losses = [[{k: v for k, v in row.items() if "distill" in k} for row in rows(each)] for each in (folder, whole)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_with_all_that_a_training_may_have(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Darknet teacher, frozen layers, accumulated steps, several scales, bfloat16, assignment by shape."""
    monkeypatch.chdir(place)
    changes: dict[str, Any] = {"accumulate": 2, "multi_scale": True, "freeze": "2", "amp": "bf16", "assign": "shape"}
    taught = options(epochs=1, t_cfg="t.cfg", t_weights="t.weights", name="all", average=0.0, **changes)
    stopped = replace(taught, epochs=2, name="stopped")
    folder = train(taught).folder
    assert all(float(value) > 0 for name, value in rows(folder)[0].items() if "distill" in name)
    with pytest.raises(Stopped):
        train(stopped, lambda end: os.kill(os.getpid(), signal.SIGTERM))
    state = torch.load("runs/train/stopped/last.pt", weights_only=True)["training"]["model"]
    fresh = torch.load(folder / "last.pt", weights_only=True)["model"]
    frozen = [name for name in fresh if name.startswith(("blocks.0.", "blocks.1."))]
    assert frozen and all(torch.equal(state[f"module.{name}"], fresh[name]) for name in frozen)
    others = [name for name in fresh if name.endswith("weight") and name not in frozen]
    assert others and not any(torch.equal(state[f"module.{name}"], fresh[name]) for name in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_cfg": "t.cfg"}, "--t-cfg: expected --t-weights with it"),
        ({"distill_box": 2.0}, "--distill-box: expected --t-weights with it"),
        (
            {"t_weights": "t.pt", "distill_logits": 0.0, "distill_box": 0.0, "distill_features": 0.0},
            "--t-weights with --distill-logits, --distill-box, --distill-features 0: expected one of them above 0",
        ),
        ({"t_weights": "t.pt", "distill_box": -1.0}, "--distill-box -1.0: expected 0 or more"),
        ({"t_weights": "t.pt", "distill_temperature": 0.0}, "--distill-temperature 0.0: expected above 0"),
    ],
)
def test_options_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_options(TrainOptions(**change))
    assert message in str(caught.value)


OTHERS = {
    "classes": (TEACHER.replace("filters=12", "filters=14").replace("classes=1", "classes=2"), "expected 1 classes"),
    "anchors": (TEACHER.replace("12,12,24,24", "12,12,24,25"), "head 0 has anchors [(12.0, 12.0), (24.0, 25.0)]"),
    "count": (TEACHER.replace("filters=12", "filters=6").replace("mask=0,1", "mask=0"), "head 0 has anchors"),
    "scale": (TEACHER.replace("scale_x_y=2", "scale_x_y=1.2"), "head 0 has scale_x_y 1.2, that of the network"),
    "coords": (TEACHER.replace("scale_x_y=2", "scale_x_y=2\nnew_coords=1"), "head 0 has new_coords True"),
    "stride": (TEACHER.replace("stride=2", "stride=1", 1), "expected heads at strides 8, as in the network in"),
    "channels": (TEACHER.replace("width=64", "width=64\nchannels=1"), "expected images of 3 channels"),
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_teacher_that_cannot_teach(place: Path, tmp_path: Path, name: str) -> None:
    cfg, message = OTHERS[name]
    save_weights(Darknet(parse_graph(cfg)), tmp_path / "other.pt")
    arguments = ["--cfg", place / "x.cfg", "--data", place / "s.data", "--t_weights", "other.pt", "--workers", 0]
    assert_refused(run("train.py", *arguments, folder=tmp_path), message, tmp_path)
    if name in {"classes", "anchors", "scale"}:  # features alone can be compared
        only = ["--distill-logits", 0, "--distill-box", 0, "--epochs", 1, "--batch-size", 8]
        done = run("train.py", *arguments, *only, folder=tmp_path)
        assert done.returncode == 0, done.stderr


def test_teachers_files(place: Path, tmp_path: Path) -> None:
    arguments = ["--cfg", place / "x.cfg", "--data", place / "s.data", "--workers", 0]
    for given, message in (
        (["--t_weights", "none.pt"], "none.pt: no such file"),
        (["--t_weights", place / "t.weights"], "expected --t-cfg with it (only a .pt brings its own)"),
        (["--t_weights", place / "t.pt", "--t_cfg", "none.cfg"], "none.cfg: no such file"),
        (["--t_weights", place / "t.weights", "--t_cfg", place / "x.cfg"], "t.weights"),
    ):
        assert_refused(run("train.py", *arguments, *given, folder=tmp_path), message, tmp_path)
    teacher = network(TEACHER, 1)
    teacher.names = ["cat"]
    save_weights(teacher, tmp_path / "cat.pt")
    done = run("train.py", *arguments, "--t-weights", "cat.pt", folder=tmp_path)
    assert_refused(done, "teacher cat.pt: expected the classes of the data, ", tmp_path)


# ---- Several processes ---------------------------------------------------------------------------------------------

STEPS = """
import sys, torch
sys.path.insert(0, {project!r})
from tests.training.test_distill import pair
from train import head_specs
from utils.training import distill
from utils.training.distill import DistillLoss, DistillOptions
from utils.training.distributed import join_ranks
from utils.training.loss import DetectionLoss, LossOptions

distill.MARGIN = 1.0  # all boxes are pushed
with join_ranks("cpu") as (ranks, device):
    torch.manual_seed(0)
    images, results = torch.rand(4, 3, 64, 64), []
    share = 4 // ranks.world
    mine = slice(ranks.rank * share, (ranks.rank + 1) * share)
    for assign in ("shape", "quality"):
        both = pair().train()
        for module in both.modules():  # batch normalisation frozen: each rank would normalise over its own images
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        targets = torch.tensor({targets})
        targets = targets[(targets[:, 0] >= mine.start) & (targets[:, 0] < mine.stop)]
        targets[:, 0] -= mine.start
        detection = DetectionLoss(head_specs(both.module), LossOptions(assign=assign), ranks)
        network = ranks.wrap(both, torch.device("cpu"))
        loss, parts = DistillLoss(detection, DistillOptions(features=1.0))(network(images[mine]), targets, (64, 64))
        loss.backward()
        results.append(dict(parts=ranks.mean(parts), gradients=[p.grad for p in both.parameters()]))
    if ranks.first:
        torch.save(results, {output!r})
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    targets = [[0, 0, 0.3, 0.5, 0.25, 0.3], [0, 0, 0.6, 0.5, 0.2, 0.3], [1, 0, 0.4, 0.4, 0.3, 0.3]]
    results = []
    for processes in (1, 2):
        output, script = tmp_path / f"{processes}.pt", tmp_path / f"{processes}.py"
        script.write_text(STEPS.format(project=str(PROJECT), targets=targets, output=str(output)))
        done = torchrun(tmp_path, processes, str(script))
        assert done.returncode == 0, done.stderr
        results.append(torch.load(output, weights_only=True))
    for one, two in zip(*results, strict=True):
        assert (one["parts"] > 0).all()
        torch.testing.assert_close(one["parts"], two["parts"], rtol=1e-4, atol=1e-6)
        assert all(gradient.any() for gradient in one["gradients"][-2:])  # the adapter's
        for a, b in zip(one["gradients"], two["gradients"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_training_of_two_processes_stopped_and_resumed_in_one(place: Path, tmp_path: Path) -> None:
    arguments = ["--cfg", "x.cfg", "--data", "s.data", "--batch-size", "8", "--workers", "0", "--amp", "off"]
    arguments += ["--t-weights", "t.pt", "--epochs", "3", "--accumulate", "2", "--project", str(tmp_path)]
    script = tmp_path / "stopping.py"
    script.write_text(
        "import os, signal\nfrom train import TrainOptions, train\nfrom utils.options import run_command\n"
        "def stop(end):\n    if end.record.epoch == 2:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "run_command(lambda options: train(options, stop), TrainOptions, '')\n"
    )
    stopped = torchrun(place, 2, str(script), *arguments)
    assert len(rows(tmp_path / "exp")) == 2, stopped.stderr
    state = torch.load(tmp_path / "exp/last.pt", weights_only=True)["training"]
    assert state["epoch"] == 2 and "adapters.0.weight" in state["model"]
    done = run("train.py", "--resume", tmp_path / "exp", folder=place)
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "exp")) == 3
