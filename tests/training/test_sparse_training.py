"""Trainings with --sparsity: what is seen of it, in several processes, and its options."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import assert_refused, run, torchrun
from tests.training.small import CFG, make_set
from train import TrainOptions, train
from utils.errors import InputError
from utils.files import PROJECT
from utils.pruning.sparsity import SparsityOptions
from utils.training.options import check_options, read_hyp


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    make_set(tmp_path, images=16)
    monkeypatch.chdir(tmp_path)
    return {"cfg": "x.cfg", "data": "s.data", "epochs": 2, "batch_size": 4, "workers": 0, "device": "cpu"}


@pytest.mark.slow
def test_progress_is_seen(small: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    result = train(TrainOptions(**{**small, "epochs": 4}, sparsity=1.0, amp="bf16", average=0.0, tensorboard=True))
    rows = list(csv.DictReader((result.folder / "results.csv").open()))
    tensors = torch.load(result.folder / "last.pt", weights_only=True)["model"]
    gammas = torch.cat([tensor for name, tensor in tensors.items() if name.endswith(".1.weight")])
    share = (gammas.abs() < 0.01).float().mean().item()
    assert len(gammas) == 112 and share > 0.5  # 16 steps, each of up to 0.16
    assert float(rows[3]["near_zero"]) == pytest.approx(share, rel=1e-4) and float(rows[3]["sparsity"]) == 1
    output = capsys.readouterr().out
    assert f"{share:.1%} of gammas below 0.01 (S 1), " in output
    assert f"gammas below 0.01: {share:.1%} in last.pt (sparsity.png)" in output
    assert {"gammas.png", "sparsity.png"} <= {path.name for path in result.folder.iterdir()}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(result.folder))
    events.Reload()
    assert [event.step for event in events.Scalars("near_zero")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_without_it_nothing_is_filled_in(small: dict[str, Any]) -> None:
    result = train(TrainOptions(**{**small, "epochs": 1}))
    lines = (result.folder / "results.csv").read_text().splitlines()
    older = "epoch,box,objectness,classes,ap50,ap,lr,images_per_second,seconds,validation_seconds,memory_bytes,skipped"
    assert lines[0] == f"{older}_steps,near_zero,sparsity" and lines[1].endswith(",0,,")
    assert not (result.folder / "gammas.png").exists() and not (result.folder / "sparsity.png").exists()


@pytest.mark.slow
def test_every_rank_pulls_alike(tmp_path: Path) -> None:
    make_set(tmp_path, images=16)
    script = tmp_path / "both.py"
    script.write_text(
        f"import os, sys, torch\nsys.path.insert(0, {str(PROJECT)!r})\n"
        "from train import TrainOptions, train\n"
        "from utils.options import run_command\n"
        "from utils.training.detection import DetectionRun\n"
        "finish = DetectionRun.finish\n"
        "def saved(self, checks):\n"
        "    torch.save((self.model.state_dict(), self.sparsity.strength), f\"{os.environ['RANK']}.pt\")\n"
        "    return finish(self, checks)\n"
        "DetectionRun.finish = saved\n"
        "run_command(train, TrainOptions, '')\n"
    )
    arguments = "--cfg x.cfg --data s.data --epochs 3 --batch-size 4 --accumulate 2 --workers 0".split()
    pulled = "--sparsity 0.6 --sparsity-groups --sparsity-schedule global-decay".split()
    done = torchrun(tmp_path, 2, str(script), *arguments, *pulled)
    assert done.returncode == 0, done.stderr
    (first, strength), (second, other) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert strength == other == pytest.approx(0.006)
    gammas = torch.cat([tensor for name, tensor in first.items() if name.endswith(".1.weight")])
    assert gammas.abs().mean() < 0.8
    for name in first:
        assert torch.equal(first[name], second[name]), name


# ---- Options -------------------------------------------------------------------------------------------------------


def test_strength_schedule_and_groups() -> None:
    assert TrainOptions().sparsity_options() is None and TrainOptions(sparsity=0.0).sparsity_options() is None
    assert TrainOptions(sparsity=0.01, sparsity_groups=True).sparsity_options() == SparsityOptions(0.01, grouped=True)
    decay = TrainOptions(sparsity=0.01, sparsity_schedule="global-decay").sparsity_options()
    assert decay == SparsityOptions(0.01, "global-decay", False)


def test_its_options_in_files(tmp_path: Path) -> None:
    file = tmp_path / "h.yaml"
    file.write_text("sparsity: 1e-3\nsparsity_groups: true\nsparsity_schedule: global-decay\n")
    expected = {"sparsity": 0.001, "sparsity_groups": True, "sparsity_schedule": "global-decay"}
    assert read_hyp(str(file)) == expected
    file.write_text("sparsity: much\n")
    with pytest.raises(InputError, match="sparsity: expected float, got 'much'"):
        read_hyp(str(file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--s -0.1", "--sparsity -0.1: expected 0 to 1, such as 0.001"),
        ("--s nan", "--sparsity nan: expected 0 to 1"),
        ("--sparsity-groups", "--sparsity-groups: expected --sparsity with it"),
        ("--sparsity-schedule global-decay", "--sparsity-schedule: expected --sparsity with it"),
        ("-sr --cfg bare.cfg", "--sparsity: expected a batch normalisation that is trained and whose channels may go"),
        ("-sr --freeze 4", "--sparsity: expected a batch normalisation that is trained"),
    ],
)
def test_what_is_refused(tmp_path: Path, arguments: str, message: str) -> None:
    make_set(tmp_path, images=4)
    (tmp_path / "bare.cfg").write_text(CFG.replace("batch_normalize=1\n", "batch_normalize=0\n"))
    given = ["--cfg", "x.cfg", "--data", "s.data", "--workers", "0", *arguments.split()]
    assert_refused(run("train.py", *given, folder=tmp_path), message, tmp_path)


def test_a_strength_of_another_type() -> None:
    with pytest.raises(InputError, match=r"--sparsity: expected float, got '0\.1'"):
        check_options(TrainOptions(sparsity="0.1"))  # type: ignore[arg-type]
