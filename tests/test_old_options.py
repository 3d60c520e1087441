"""Options that were removed: an error on the command line, one warning for an old file or checkpoint, which load."""

import json
import os
import signal
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch

from tests.commands import assert_refused, run
from tests.training.small import make_set
from train import TrainOptions, train
from utils.errors import InputError, Stopped
from utils.network.weights import Checkpoint
from utils.old_options import REMOVED, current_arguments
from utils.options import run_command
from utils.pruning.options import PruneOptions
from utils.training.checkpoint import stored_options
from utils.training.classify_options import ClassTrainOptions
from utils.training.options import read_hyp
from utils.training.recovery import reopen

OLD = {"sparsity_schedule": "auto", "assign": "shape", "focal_gamma": 0.0, "shear": 0, "sparsity_share": 0.7}


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train.py", "--assign shape", "error: --assign: removed; objects are always assigned by quality"),
        ("train.py", "--assign=quality", "error: --assign: removed"),
        ("train.py", "--focal-gamma 1.5", "error: --focal-gamma: removed; the loss is plain cross-entropy"),
        ("train.py", "--focal_gamma 1.5", "error: --focal_gamma: removed"),
        ("train.py", "--shear 5", "error: --shear: removed; use --degrees"),
        ("train.py", "--schedule one-cycle", "error: --schedule one-cycle: removed; use cosine or linear"),
        ("train.py", "--perspective 0.01", "error: --perspective 0.01: removed; expected 0 to 0.001"),
        ("train.py", "--perspective -0.1", "error: --perspective -0.1: expected 0 to 0.001"),
        ("train.py", "--sparsity-schedule auto", "error: --sparsity-schedule auto: removed; use constant or global-"),
        ("train.py", "--sparsity-schedule=local-decay", "error: --sparsity-schedule local-decay: removed; use const"),
        ("train.py", "--sparsity-share 0.5", "error: --sparsity-share: removed"),
        ("train.py", "--sparsity-max-drop 0.5", "error: --sparsity-max-drop: removed"),
        ("classify.py", "train --schedule=one-cycle", "error: --schedule one-cycle: removed; use cosine or linear"),
        ("prune.py", "--strategy shortcut", "error: --strategy shortcut: removed; use slim or normal"),
        (
            "prune.py",
            "--auto --sparsity-epochs 3",
            "error: --sparsity-epochs: removed; --auto has no sparsity training",
        ),
    ],
)
def test_on_the_command_line(tmp_path: Path, command: str, arguments: str, message: str) -> None:
    done = run(command, *arguments.split(), folder=tmp_path)
    assert_refused(done, message, tmp_path)
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_values_that_are_left_are_no_error() -> None:
    arguments = "--schedule linear --strategy normal --perspective 0.001 --name one-cycle --percent=0.5".split()
    arguments += "--sparsity-schedule global-decay --sparsity-schedule=constant --name auto".split()
    assert current_arguments(arguments) == arguments


def test_what_was_removed_is_no_option() -> None:
    names = {field.name for kind in (TrainOptions, ClassTrainOptions, PruneOptions) for field in fields(kind)}
    assert {name for name, each in REMOVED.items() if each.values} <= names
    assert names.isdisjoint(name for name, each in REMOVED.items() if each.values is None)


@pytest.mark.parametrize(
    ("arguments", "strength"),
    [
        ("-sr", 0.001),
        ("-sr --s 0.01", 0.01),
        ("--s=0.02 -sr", 0.02),
        ("--s 0.03", 0.03),
        ("--noval -sr --vote off", 0.001),
    ],
)
def test_other_spellings_of_sparsity(arguments: str, strength: float) -> None:
    given: list[TrainOptions] = []
    run_command(given.append, TrainOptions, "", [*arguments.split(), "--epochs", "3"])
    switches = {"noval": True, "vote": False} if "--noval" in arguments else {}
    assert given == [TrainOptions(sparsity=strength, epochs=3, **switches)]


@pytest.mark.parametrize("arguments", ["-sr --sparsity 0", "--sparsity=0.0 --sr", "--s 0 -sr", "-sr --s 0.1 --s 0"])
def test_the_switch_and_no_sparsity(arguments: str) -> None:
    with pytest.raises(InputError, match=r"^-sr with --sparsity 0(\.0)?: expected a strength above 0, such as 0\.001$"):
        current_arguments(arguments.split(), {"sparsity"})


@pytest.mark.parametrize("arguments", ["--name -sr", "--name --s --epochs 3", "--vote -sr", "--name=a --project --sr"])
def test_values_that_look_like_the_switch(arguments: str) -> None:
    assert current_arguments(arguments.split(), {"sparsity", "name", "project", "vote", "epochs"}) == arguments.split()


@pytest.mark.parametrize(("command", "arguments"), [("classify.py", "train -sr"), ("prune.py", "--sr")])
def test_the_switch_is_that_of_commands_with_sparsity(tmp_path: Path, command: str, arguments: str) -> None:
    done = run(command, *arguments.split(), folder=tmp_path)
    assert done.returncode == 2 and arguments.split()[-1] in done.stderr and "sparsity" not in done.stderr


def test_other_spellings_are_not_in_the_help(tmp_path: Path) -> None:
    shown = run("train.py", "--help", folder=tmp_path).stdout.split()
    assert "--sparsity" in shown and not {"--s", "-sr", "--sr"} & set(shown)


def test_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(
        "lr: 0.01\nassign: shape\nschedule: one-cycle\nfocal_gamma: 0\nshear: 0\nperspective: 0.1\nsr: true\n"
    )
    assert read_hyp(str(file)) == {"lr": 0.01, "sparsity": 0.001}
    names = "assign shape, schedule one-cycle, focal_gamma 0, shear 0, perspective 0.1"
    assert capsys.readouterr().err == f"{file}: ignored what was removed: {names}\n"
    left = {"schedule": "linear", "perspective": 0.0005, "sparsity": 0.01, "sparsity_schedule": "global-decay"}
    file.write_text("".join(f"{name}: {value}\n" for name, value in left.items()) + "sr: true\n")
    assert read_hyp(str(file)) == left
    assert capsys.readouterr().err == ""
    file.write_text("perspective: much\n")
    with pytest.raises(InputError, match=r"perspective: expected float, got 'much'"):
        read_hyp(str(file))


@pytest.mark.slow
def test_in_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped training, its checkpoint made to look like one of an older version, is resumed."""
    make_set(tmp_path, images=8)
    monkeypatch.chdir(tmp_path)
    options = TrainOptions(cfg="x.cfg", data="s.data", epochs=2, batch_size=4, workers=0, device="cpu", sparsity=0.5)
    with pytest.raises(Stopped):
        train(options, lambda end: os.kill(os.getpid(), signal.SIGTERM))
    last = tmp_path / "runs/train/exp/last.pt"
    content = torch.load(last, weights_only=True)
    content["training"]["options"] |= {**OLD, "sr": True, "sparsity": None, "schedule": "one-cycle"}
    content["training"]["regulariser"] |= {"strength": 0.1, "wanted": 0.2, "care": 1.0, "factors": torch.ones(3)}
    torch.save(content, last)
    done = run("train.py", "--resume", last.parent, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    names = "schedule one-cycle, " + ", ".join(f"{name} {value}" for name, value in OLD.items())
    told = [line for line in done.stderr.splitlines() if "removed" in line]
    assert told == [f"{last}: ignored what was removed: {names}"]
    rows = (last.parent / "results.csv").read_text().splitlines()
    assert [row.split(",")[-1] for row in rows] == ["sparsity", "0.5", "0.001"]  # sr without a strength is 0.001


def test_in_the_options_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (TrainOptions, ClassTrainOptions):
        path, values = tmp_path / f"{kind.__name__}.pt", asdict(kind()) | OLD | {"epochs": 3, "schedule": "one-cycle"}
        checkpoint = Checkpoint("", (), {}, 0, {"options": values | {"sr": False}})
        for _ in range(2):  # as often as it is read, one warning
            assert stored_options(path, checkpoint, kind) == kind(epochs=3)
        warning = capsys.readouterr().err
        assert warning.startswith(f"{path}: ignored what was removed: schedule one-cycle, ")
        assert set(warning.rstrip().split(", ")[1:]) == {f"{name} {value}" for name, value in OLD.items()}


def test_in_the_options_of_a_pruning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {"weights": "w.pt", "data": "d.data", "auto": True, "strategy": "shortcut", "sparsity_epochs": None}
    (tmp_path / "prune.json").write_text(json.dumps(old))
    options, folder = reopen(PruneOptions(resume=str(tmp_path)))
    assert options == PruneOptions(weights="w.pt", data="d.data", auto=True) and folder == tmp_path
    words = f"{tmp_path / 'prune.json'}: ignored what was removed: strategy shortcut, sparsity_epochs None\n"
    assert capsys.readouterr().err == words
