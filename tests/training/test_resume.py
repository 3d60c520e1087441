"""A training that is killed, stopped or out of disk goes on, and ends with the same weights bit for bit."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.small import make_set, stop_at_change
from train import TrainOptions, main, train
from utils.errors import InputError, Stopped
from utils.options import run_command
from utils.training import detection
from utils.training.checkpoint import find_run
from utils.training.options import command_defaults

OPTIONS = {"cfg": "x.cfg", "data": "s.data", "epochs": 4, "batch_size": 8, "amp": "off", "device": "cpu"}
KILLS = 10

# Processes forked from one that has imported all but computed nothing: they start in no time.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["train", "matplotlib.figure", "matplotlib.backends.backend_agg", "torch._dynamo"])


def work(folder: Path, log: Path, write_kills: int, options: dict[str, Any]) -> None:
    """A training in a process of its own; with `write_kills` N it kills itself half way through its Nth last.pt."""
    os.setpgrp()
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    write, count = Path.write_bytes, 0

    def half(self: Path, data: bytes) -> int:
        nonlocal count
        if "last" in self.name and self.suffix == ".pt":
            count += 1
            if count == write_kills:
                write(self, bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        return write(self, data)

    Path.write_bytes = half  # type: ignore[method-assign,assignment]
    run_command(train, TrainOptions, "", [f"--{k.replace('_', '-')}={v}" for k, v in options.items()])


@dataclass
class Training:
    """A training process and its log."""

    folder: Path
    options: dict[str, Any]
    write_kills: int = 0

    def __post_init__(self) -> None:
        self.log = self.folder / "log.txt"
        self.log.unlink(missing_ok=True)
        arguments = (self.folder, self.log, self.write_kills, self.options)
        self.process = FORKS.Process(target=work, args=arguments)
        self.process.start()

    def wait_for(self, text: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not self.log.is_file() or text not in self.log.read_text():
            assert time.monotonic() < deadline and self.process.is_alive(), self.log.read_text()
            time.sleep(0.005)

    def end(self) -> int:
        self.process.join(300)
        assert self.process.exitcode is not None
        return self.process.exitcode


def weights(file: Path) -> dict[str, torch.Tensor]:
    content = torch.load(file, weights_only=True)
    return {**content["model"], "seen": torch.tensor(content["seen"])}


def assert_same(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and a training that was never disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    make_set(folder, images=48)
    assert Training(folder, {**OPTIONS, "name": "whole"}).end() == 0
    return folder


@pytest.mark.slow
def test_killed_at_random_moments(whole: Path) -> None:
    """SIGKILL, 10 times, then on to the end: training, validation and the writing of files are all hit."""
    rng = random.Random(0)
    folder = whole / "runs/train/killed"
    options = {**OPTIONS, "epochs": 30}
    training = Training(whole, {**options, "name": "killed"})
    training.wait_for("epoch 1/")
    for _ in range(KILLS):
        time.sleep(rng.uniform(0, 1.0))
        training.process.kill()
        assert training.end() == -signal.SIGKILL, "it came to its end before it was killed"
        training = Training(whole, {"resume": folder})
        training.wait_for("going on at")
    assert training.end() == 0
    assert Training(whole, {**options, "name": "unkilled"}).end() == 0
    assert_same(folder / "last.pt", whole / "runs/train/unkilled/last.pt")
    assert_same(folder / "best.pt", whole / "runs/train/unkilled/best.pt")
    assert not list(folder.glob(".*partial*"))
    rows = [(f / "results.csv").read_text().splitlines() for f in (folder, whole / "runs/train/unkilled")]
    assert [row.split(",")[:7] for row in rows[0]] == [row.split(",")[:7] for row in rows[1]]


@pytest.mark.slow
def test_killed_while_it_writes_the_checkpoint(whole: Path) -> None:
    folder = whole / "runs/train/writing"
    assert Training(whole, {**OPTIONS, "name": "writing"}, write_kills=3).end() == -signal.SIGKILL
    assert len(list(folder.glob(".last*partial*"))) == 1
    assert Training(whole, {"resume": folder}).end() == 0
    assert_same(folder / "last.pt", whole / "runs/train/whole/last.pt")
    assert not list(folder.glob(".*partial*"))


@pytest.mark.slow
@pytest.mark.parametrize("kill", [os.kill, os.killpg])  # the second as torchrun, `timeout` and a terminal do
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_in_good_order(whole: Path, number: int, code: int, kill: Callable[..., None]) -> None:
    name = f"{kill.__name__}{number}"
    folder = whole / "runs/train" / name
    training = Training(whole, {**OPTIONS, "name": name})
    training.wait_for("epoch 1/4: AP")
    kill(training.process.pid or 0, number)
    assert training.end() == code
    output = training.log.read_text()
    assert f"go on with: python train.py --resume {Path('runs/train') / name}" in output and "Traceback" not in output
    training = Training(whole, {"resume": "last"})
    assert training.end() == 0
    assert f"{Path('runs/train') / name}: going on at epoch" in training.log.read_text()
    assert_same(folder / "last.pt", whole / "runs/train/whole/last.pt")


@pytest.mark.slow
def test_stopped_in_the_middle_of_an_epoch(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with two loading processes and mid-epoch positions that differ from them."""
    monkeypatch.chdir(whole)
    stop_at_change(monkeypatch, 9)
    options = TrainOptions(cfg="x.cfg", data="s.data", epochs=4, batch_size=8, amp="off", device="cpu", name="middle")
    with pytest.raises(Stopped):
        train(options)
    state = torch.load("runs/train/middle/last.pt", weights_only=True)["training"]
    assert (state["epoch"], state["totals"]["steps"]) == (1, 3)
    train(TrainOptions(resume="runs/train/middle", workers=0))
    assert_same(whole / "runs/train/middle/last.pt", whole / "runs/train/whole/last.pt")


@pytest.mark.slow
def test_stopped_in_sparsity_training(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its second half, where its strength is no longer that of the start."""
    monkeypatch.chdir(whole)
    options = TrainOptions(**OPTIONS, sparsity=0.3, sparsity_schedule="global-decay", sparsity_groups=True)
    train(replace(options, name="sparse-whole"))
    stop_at_change(monkeypatch, 15)
    with pytest.raises(Stopped):
        train(replace(options, name="sparse"))
    state = torch.load("runs/train/sparse/last.pt", weights_only=True)["training"]
    assert (state["epoch"], state["totals"]["steps"]) == (2, 3) and len(state["regulariser"]["counts"]) == 2
    shown: list[int] = []
    monkeypatch.setattr(detection, "draw_gammas", lambda path, counts, title: shown.append(len(counts)))
    train(TrainOptions(resume="runs/train/sparse"))
    assert shown[-1] == 4
    folders = [whole / "runs/train" / name for name in ("sparse-whole", "sparse")]
    assert_same(folders[0] / "last.pt", folders[1] / "last.pt")
    rows = [(folder / "results.csv").read_text().splitlines() for folder in folders]
    assert [row.split(",")[-2:] for row in rows[0]] == [row.split(",")[-2:] for row in rows[1]]


@pytest.mark.slow
def test_stopped_in_validation(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    original, calls = detection.collect, 0

    def collect(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(detection, "collect", collect)
    with pytest.raises(Stopped):
        train(TrainOptions(**OPTIONS, name="validation"))
    state = torch.load("runs/train/validation/last.pt", weights_only=True)["training"]
    assert (state["epoch"], state["totals"]["steps"], len(state["records"])) == (1, 6, 1)
    (whole / "elsewhere").mkdir()
    monkeypatch.chdir(whole / "elsewhere")
    train(TrainOptions(resume=str(whole / "runs/train/validation")))
    assert_same(whole / "runs/train/validation/last.pt", whole / "runs/train/whole/last.pt")


@pytest.mark.slow
def test_what_cannot_be_resumed(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(whole)
    with pytest.raises(InputError, match="this training is finished"):
        train(TrainOptions(resume="runs/train/whole"))
    with pytest.raises(InputError, match="--resume 'nowhere': expected `last`, a run's folder"):
        train(TrainOptions(resume="nowhere"))
    (whole / "empty").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=r"--resume empty: .* holds no last\.pt"):
        train(TrainOptions(resume="empty"))
    monkeypatch.chdir(whole / "empty")
    with pytest.raises(InputError, match="--resume last: expected a training under runs/train, found none"):
        find_run("last")


@pytest.mark.slow
def test_changed_data_and_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path, images=16)
    monkeypatch.chdir(tmp_path)

    def stop(_: object) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    options = TrainOptions(cfg="x.cfg", data="s.data", epochs=2, batch_size=8, workers=0)
    with pytest.raises(Stopped):
        train(options, stop)
    with pytest.raises(InputError, match=r"--resume with --epochs 50: this training was started with 2 and keeps it"):
        train(TrainOptions(resume="last", epochs=50))
    given = command_defaults(["--resume", "last"])
    assert given.epochs == 2 and given.workers == 0
    with pytest.raises(InputError, match=r"--resume with --epochs 100: "):  # the default, but given on purpose
        main(replace(given, resume="last", epochs=100))
    description = Path("s.data").read_text()
    Path("another.names").write_text("another\n")
    Path("s.data").write_text(f"{description}names=another.names\n")
    with pytest.raises(InputError, match=r"expected the classes that this training was started with, .*; got another"):
        train(TrainOptions(resume="last"))
    Path("s.data").write_text(description)
    state = torch.load("runs/train/exp/last.pt", weights_only=True)
    state["training"]["totals"]["steps"] = 3  # as after the third step of a longer epoch
    Path("longer").mkdir()
    torch.save(state, "longer/last.pt")
    with pytest.raises(InputError, match=r"stopped after step 3 of an epoch, which has only 2"):
        train(TrainOptions(resume="longer"))
    next(Path("set").glob("*.txt")).write_text("0 0.5 0.5 0.5 0.5\n")
    result = train(TrainOptions(resume="last", workers=1))
    assert "the images or labels have changed" in capsys.readouterr().err
    assert (
        result.folder == Path("runs/train/exp") and len((result.folder / "results.csv").read_text().splitlines()) == 3
    )


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_set(tmp_path, images=16)
    monkeypatch.chdir(tmp_path)
    write = Path.write_bytes
    written = 0

    def full(self: Path, data: bytes) -> int:
        nonlocal written
        if "last" in self.name and self.suffix == ".pt":
            written += 1
            if written == 3:
                write(self, bytes(data)[:1000])
                raise OSError(28, "No space left on device", str(self))
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(TrainOptions(cfg="x.cfg", data="s.data", epochs=4, batch_size=8, workers=0))
    monkeypatch.setattr(Path, "write_bytes", write)
    folder = tmp_path / "runs/train/exp"
    assert torch.load(folder / "last.pt", weights_only=True)["training"]["epoch"] == 1
    assert not list(folder.glob(".*partial*"))
    assert train(TrainOptions(resume="last")).metrics.images == 16
