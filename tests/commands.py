"""What the tests of the commands share: a small network, and running a command as a user does."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from utils.files import PROJECT

CFG = """[net]
width=96
height=96
[convolutional]
filters=16
size=3
stride=4
pad=1
batch_normalize=1
activation=leaky
[ghost]
filters=32
size=3
stride=4
pad=1
batch_normalize=1
activation=leaky
[convolutional]
filters=12
size=1
activation=linear
[yolo]
mask=0,1
anchors=20,20,40,40
num=2
classes=1
"""


@dataclass(frozen=True)
class Done:
    """A command's exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(script: str, *arguments: object, folder: Path) -> Done:
    """`python SCRIPT ARGUMENTS` in `folder`; in this process, since importing torch anew takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, [script, *map(str, arguments)]
    code = 0
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(PROJECT / script), run_name="__main__")
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    return Done(code, out.getvalue(), err.getvalue())


def assert_refused(done: Done, message: str, folder: Path) -> None:
    """Exit code 2, one line on stderr (beside progress bars), no traceback, no run folder."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "runs").exists()


def torchrun(folder: Path, processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script with its arguments in so many processes of one thread each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        [*launcher, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )


def by_processes(folder: Path, code: str, **values: object) -> list[Any]:
    """What a script, formatted with `values`, saves as {output}, in one process and in two."""
    results = []
    for processes in (1, 2):
        output, script = folder / f"{processes}.pt", folder / f"{processes}.py"
        script.write_text(code.format(project=str(PROJECT), output=str(output), **values))
        done = torchrun(folder, processes, str(script))
        assert done.returncode == 0, done.stderr
        results.append(torch.load(output, weights_only=True))
    return results
