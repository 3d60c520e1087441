"""Loading processes where shared memory is small or missing."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils.data import Dataset

from utils.data import shared_memory
from utils.data.dataset import batch_loader
from utils.options import run_command


class Usage(NamedTuple):
    free: int


@dataclass
class Options:
    """None."""


class Megabytes(Dataset[torch.Tensor]):
    """Images of a megabyte each."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((2**20,), index, dtype=torch.uint8)


@pytest.mark.parametrize(("free", "workers"), [(2**40, 8), (64 * 2**20, 8), (32 * 2**20, 4), (7 * 2**20, 0), (0, 0)])
def test_as_many_processes_as_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free: int, workers: int
) -> None:
    """Each holds three batches of 2 MB; a fifth of the memory stays free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free))
    loader = batch_loader(Megabytes(), [[0, 1], [2, 3]], torch.stack, 8)
    assert loader.num_workers == workers
    error = capsys.readouterr().err
    assert ("--shm-size" in error and "shared memory" in error) == (workers < 8)


def test_memory_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(shared_memory, "SHARED", tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    loader = batch_loader(Megabytes(), [[0, 1], [2, 3]], torch.stack, 2)
    assert [int(batch[1, 0]) for batch in loader] == [1, 3]
    assert "cannot be written: the main process loads the images; " in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "local", "lines"), [(0, 0, 1), (1, 1, 0), (2, 0, 1), (3, 1, 0)])
@pytest.mark.parametrize("writable", [True, False])
def test_each_machine_warns_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: int,
    local: int,
    lines: int,
    writable: bool,
) -> None:
    """Two machines of two processes."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0))
    monkeypatch.setattr("os.access", lambda path, mode: writable)
    batch_loader(Megabytes(), [[0, 1], [2, 3]], torch.stack, 2)
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize("message", [
    "DataLoader worker (pid 9) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit.",
    "unable to open shared memory object </torch_9> in read-write mode: No space left on device (28)",
])  # fmt: skip
def test_every_command_tells_it_in_one_line(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Options) -> None:
        raise RuntimeError(message)

    with pytest.raises(SystemExit) as stop:
        run_command(fail, Options, "", argv=[])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "shared memory (/dev/shm)" in line and "--shm-size" in line and "--workers" in line


def test_other_errors_keep_their_traceback() -> None:
    def fail(_: Options) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_command(fail, Options, "", argv=[])
