"""A second SIGTERM ends a process that hangs in C code, where no handler of Python's is ever called."""

import os
import subprocess
import sys

import pytest

from tests.commands import PROJECT

HANG = """
lib, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
lib.pthread_mutex_lock(mutex)
print("hangs", flush=True)
lib.pthread_mutex_lock(mutex)
"""
COMMAND = """
import ctypes, signal
from utils.errors import Stopped
from utils.options import stopped_by_signals
with stopped_by_signals():
    try:
        signal.raise_signal(signal.SIGTERM)
    except Stopped:
        pass
"""
TRAINING = """
import ctypes, signal
from utils.options import stopped_by_signals
from utils.training.stop import stop_on_signal
with stopped_by_signals(), stop_on_signal() as request:
    signal.raise_signal(signal.SIGTERM)
    assert request.number == signal.SIGTERM
"""


@pytest.mark.parametrize("code", [COMMAND, TRAINING])
def test_a_second_signal_ends_what_hangs(code: str) -> None:
    command = [sys.executable, "-c", code + HANG.replace("\n", "\n    ")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "hangs\n"
            process.terminate()
            assert process.wait(10) == -15
        finally:
            process.kill()
