"""Two gloo processes are one training: the same losses and gradients as one process with the whole batch."""

from pathlib import Path

import pytest
import torch

from tests.commands import by_processes, torchrun
from tests.training.small import make_set
from utils.files import PROJECT

STEPS = """
import sys, torch
sys.path.insert(0, {project!r})
from models import Darknet
from tests.training.small import CFG
from utils.network.graph import parse_graph
from utils.training.assign import head_specs
from utils.training.distributed import join_ranks
from utils.training.loss import DetectionLoss, LossOptions

with join_ranks("cpu") as (ranks, device):
    torch.manual_seed(0)
    images, results = torch.rand(4, 3, 64, 64), []
    share = 4 // ranks.world
    for targets in {cases}:
        torch.manual_seed(1)
        model = Darknet(parse_graph(CFG))
        model.train()
        for module in model.modules():  # batch normalisation frozen: each rank would normalise over its own images
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        targets = torch.tensor(targets)
        mine = targets[(targets[:, 0] >= ranks.rank * share) & (targets[:, 0] < (ranks.rank + 1) * share)].clone()
        mine[:, 0] -= ranks.rank * share
        network = ranks.wrap(model, torch.device("cpu"))
        options = LossOptions(label_smoothing=0.1)
        loss, parts = DetectionLoss(head_specs(model), options, ranks)(
            network(images[ranks.rank * share : (ranks.rank + 1) * share]), mine, (64, 64)
        )
        loss.backward()
        results.append(dict(parts=ranks.mean(parts), gradients=[p.grad for p in model.parameters()]))
    if ranks.first:
        torch.save(results, {output!r})
"""

UNEVEN = [
    [0, 0, 0.3, 0.5, 0.25, 0.3],
    [0, 0, 0.6, 0.5, 0.2, 0.3],
    [1, 0, 0.4, 0.4, 0.3, 0.3],
    [2, 0, 0.5, 0.5, 0.3, 0.3],
]
ONE_SIDED = [[0, 0, 0.3, 0.5, 0.25, 0.3], [1, 0, 0.4, 0.4, 0.3, 0.3]]  # the second rank has no object at all
IGNORED = [[0, 0, 0.3, 0.5, 0.25, 0.3], [1, -1, 0.4, 0.4, 0.3, 0.3], [3, -1, 0.5, 0.5, 0.01, 0.01]]


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    for one, two in zip(*by_processes(tmp_path, STEPS, cases=[UNEVEN, ONE_SIDED, IGNORED]), strict=True):
        torch.testing.assert_close(one["parts"], two["parts"], rtol=1e-5, atol=1e-7)
        assert max(gradient.abs().max() for gradient in one["gradients"]) > 1e-3
        for a, b in zip(one["gradients"], two["gradients"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_training_of_two_processes(tmp_path: Path) -> None:
    """An odd number of images in training and validation, one without objects; one log; rank 0 writes."""
    make_set(tmp_path, images=15)
    (tmp_path / "set/003.txt").write_text("")
    options = ["--cfg", "x.cfg", "--data", "s.data", "--epochs", "2", "--batch-size", "4", "--workers", "1"]
    options += ["--cache", "disk"]
    done = torchrun(tmp_path, 2, str(PROJECT / "train.py"), *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1 and "2 processes" in done.stdout
    assert [path.name for path in (tmp_path / "runs/train").iterdir()] == ["exp"]
    assert [path.name for path in tmp_path.glob("*.pictures")] == ["s.data.64x64.pictures"]
    assert done.stderr.count("decoding pictures: 100%") == 1  # by the first rank; the other takes its file
    assert "14" in done.stdout  # boxes of all 15 validation images
    assert len((tmp_path / "runs/train/exp/results.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_rank_that_fails_ends_all(tmp_path: Path) -> None:
    make_set(tmp_path, images=16)
    script = tmp_path / "failing.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
        "from train import TrainOptions, train\n"
        "from utils.errors import InputError\n"
        "from utils.options import run_command\n"
        "from utils.training import engine\n"
        "change = engine.Trainee.change\n"
        "def broken(self, loss):\n"
        "    if os.environ['RANK'] == '1' and self.average.updates == 2:\n"
        "        raise InputError('rank 1 has had enough')\n"
        "    return change(self, loss)\n"
        "engine.Trainee.change = broken\n"
        "run_command(train, TrainOptions, '')\n"
    )
    arguments = ["--cfg", "x.cfg", "--data", "s.data", "--epochs", "3", "--batch-size", "4", "--workers", "0"]
    done = torchrun(tmp_path, 2, str(script), *arguments)
    assert done.returncode != 0 and "error: rank 1 has had enough" in done.stderr.splitlines()
    assert "failed (exitcode: 2) local_rank: 1" in done.stderr


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared(tmp_path: Path) -> None:
    make_set(tmp_path, images=8)
    done = torchrun(tmp_path, 2, str(PROJECT / "train.py"), "--cfg", "x.cfg", "--data", "s.data", "--batch-size", "3")
    assert done.returncode != 0 and "expected a multiple of the 2 processes" in done.stderr
    assert not (tmp_path / "runs").exists()
