"""What was made while the detection loss was the mean times the batch size: stopped trainings, --hyp files."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from utils.errors import InputError
from utils.network.weights import Checkpoint, save_checkpoint
from utils.training.checkpoint import read_stopped, reopen, resumed_options
from utils.training.classify_options import ClassTrainOptions
from utils.training.optimizers import make_optimizer
from utils.training.options import TrainOptions, read_hyp

BATCH = 4
OLD_OPTIONS: dict[str, Any] = {  # as they were stored then
    "cfg": "x.cfg", "data": "s.data", "weights": None, "cutoff": None, "backbone": None, "freeze": None, "hyp": None,
    "t_cfg": None, "t_weights": None, "distill_logits": 0.3, "distill_box": 1.0, "distill_features": 0.03,
    "distill_temperature": 1.0, "epochs": 9, "batch_size": BATCH, "accumulate": 1, "device": "cpu", "amp": "off",
    "workers": 0, "seed": 0, "name": "exp", "project": None, "resume": None, "optimizer": "muon", "lr": None,
    "momentum": 0.9, "weight_decay": None, "schedule": "cosine", "final_lr": 0.05, "warmup_epochs": 3.0, "clip": 10.0,
    "average": 0.998, "patience": 0, "noval": False, "save_period": 0, "tensorboard": False, "sync_bn": False,
    "autobatch": False, "img_size": 64, "multi_scale": False, "rect": False, "single_cls": False, "cache": "auto",
    "assign": "quality", "box_gain": 0.05, "obj_gain": 1.0, "cls_gain": 0.03, "label_smoothing": 0.0,
    "focal_gamma": 0.0, "class_weights": False, "mosaic": 1.0, "close_mosaic": 10, "mixup": 0.0, "cutmix": 0.0,
    "scale": 0.5, "translate": 0.1, "degrees": 0.0, "shear": 0.0, "perspective": 0.0, "hue": 0.015, "saturation": 0.7,
    "value": 0.4, "flip_lr": 0.5, "flip_ud": 0.0, "scale_x_y": 2.0, "autoanchor": False, "sparsity": None, "sr": False,
    "sparsity_schedule": "constant", "sparsity_share": 0.7, "sparsity_max_drop": 0.02, "sparsity_groups": False,
    "evolve": 0,
}  # fmt: skip


def optimizer_state(name: Any, size: int) -> dict[str, Any]:
    """Of an optimizer after three steps with gradients of a loss times `size`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, groups=3))
    optimizer = make_optimizer(model, name, 0.0, 0.9, 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (model(torch.randn(2, 2, 8, 8)).square().mean() * size).backward()
        optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


def write(path: Path, state: dict[str, Any], **options: Any) -> Path:
    training = {"options": OLD_OPTIONS | options, "epoch": 2, "optimizer": state}
    save_checkpoint(path, Checkpoint("", (), {}, 0, training))
    return path


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_the_optimizer_goes_on_with_gradients_of_the_present_size(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "last.pt", optimizer_state(name, BATCH), optimizer=name)
    checkpoint, options = reopen(file, TrainOptions(resume=str(file)))
    assert options.clip == 2.5 and checkpoint.training is not None  # 10 of a loss four times as large
    found, wanted = checkpoint.training["optimizer"], optimizer_state(name, 1)
    assert found["param_groups"] == wanted["param_groups"] and found["state"].keys() == wanted["state"].keys()
    for key, values in wanted["state"].items():
        assert values.keys() == found["state"][key].keys()
        for part, value in values.items():
            torch.testing.assert_close(found["state"][key][part], value, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("batch", "clip", "wanted"), [(16, 10.0, TrainOptions.clip), (8, 10.0, 1.25), (16, 0.0, 0.0)])
def test_the_limit_of_the_gradient(tmp_path: Path, batch: int, clip: float, wanted: float) -> None:
    write(tmp_path / "last.pt", {"state": {}}, batch_size=batch, clip=clip)
    options = resumed_options(["--resume", str(tmp_path)], TrainOptions, "runs/train")
    assert options is not None and options.clip == wanted


def test_what_was_written_since_stays(tmp_path: Path) -> None:
    file, state = tmp_path / "last.pt", optimizer_state("adamw", 1)
    training = {"options": OLD_OPTIONS, "loss": 2, "optimizer": state}
    save_checkpoint(file, Checkpoint("", (), {}, 0, training))
    found = read_stopped(file, TrainOptions).training
    assert found is not None and found["options"]["clip"] == 10
    assert all(found["optimizer"]["state"][key]["exp_avg"].equal(state["state"][key]["exp_avg"]) for key in (0, 1))
    training = {"options": {"clip": 10.0}, "optimizer": state}  # a classifier's loss has always been a mean
    save_checkpoint(file, Checkpoint("", (), {}, 0, training))
    assert read_stopped(file, ClassTrainOptions).training is not None
    assert read_stopped(file, ClassTrainOptions).training["options"]["clip"] == 10  # type: ignore[index]


def test_sgd_does_not_go_on(tmp_path: Path) -> None:
    file = write(tmp_path / "last.pt", {"state": {}}, optimizer="sgd", lr=0.02)
    with pytest.raises(
        InputError, match=r"last\.pt: .* older version's, whose SGD .*; start anew with --weights"
    ) as told:
        reopen(file, TrainOptions(resume=str(file)))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("lines", "warned"),
    [
        ("clip: 10", True),
        ("optimizer: sgd\nlr: 0.02", True),
        ("optimizer: sgd\nlr: 0.02\nclip: 10.0", True),
        ("optimizer: sgd\nlr: 0.32", False),
        ("optimizer: sgd", False),
        ("optimizer: adamw\nlr: 0.02\nclip: 1", False),
    ],
)
def test_files_of_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str, warned: bool) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(lines + "\n")
    for _ in range(2):
        read_hyp(str(file))
    told = capsys.readouterr().err.splitlines()
    assert len(told) == warned and all(line.startswith(f"{file}: ") for line in told)
