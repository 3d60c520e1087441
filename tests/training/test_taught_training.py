"""Trainings with a teacher: what they leave, stopped and resumed, in several processes, and what is refused."""

import csv
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models import Darknet, load_model, save_weights
from tests.commands import assert_refused, by_processes, run, torchrun
from tests.training.small import make_set, stop_at_change
from tests.training.test_distill import STUDENT, TEACHER, network
from train import TrainOptions, train
from utils.errors import InputError, Stopped
from utils.network.graph import parse_graph
from utils.training.options import check_options


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
    """A Darknet teacher, frozen layers, accumulated steps, several scales, bfloat16."""
    monkeypatch.chdir(place)
    changes: dict[str, Any] = {"accumulate": 2, "multi_scale": True, "freeze": "2", "amp": "bf16"}
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
from utils.training import distill
from utils.training.assign import head_specs
from utils.training.distill import DistillLoss, DistillOptions
from utils.training.distributed import join_ranks
from utils.training.loss import DetectionLoss

distill.MARGIN = 1.0  # all boxes are pushed
with join_ranks("cpu") as (ranks, device):
    torch.manual_seed(0)
    images = torch.rand(4, 3, 64, 64)
    share = 4 // ranks.world
    mine = slice(ranks.rank * share, (ranks.rank + 1) * share)
    both = pair().train()
    for module in both.modules():  # batch normalisation frozen: each rank would normalise over its own images
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    targets = torch.tensor({targets})
    targets = targets[(targets[:, 0] >= mine.start) & (targets[:, 0] < mine.stop)]
    targets[:, 0] -= mine.start
    detection = DetectionLoss(head_specs(both.module), ranks=ranks)
    network = ranks.wrap(both, torch.device("cpu"))
    loss, parts = DistillLoss(detection, DistillOptions(features=1.0))(network(images[mine]), targets, (64, 64))
    loss.backward()
    parts = ranks.mean(parts)
    if ranks.first:
        torch.save(dict(parts=parts, gradients=[p.grad for p in both.parameters()]), {output!r})
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    targets = [[0, 0, 0.3, 0.5, 0.25, 0.3], [0, 0, 0.6, 0.5, 0.2, 0.3], [1, 0, 0.4, 0.4, 0.3, 0.3]]
    one, two = by_processes(tmp_path, STEPS, targets=targets)
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
