"""Live streams: one that is silent, several in turn, and the pauses before a lost one is tried again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import cv2
import numpy as np
import pytest

from tests.conftest import PROJECT
from utils.data import streams
from utils.data.streams import Streams


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a camera that sends sixty frames and then nothing, without hanging up."""
    jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
    kept = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # closed
                return
            kept.append(connection)
            connection.recv(4096)
            connection.sendall(head + part * 60)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/live"
    for connection in kept:
        connection.close()


WATCHING = """
import signal, sys
from dataclasses import dataclass
from utils.data.sources import open_source
from utils.options import run_command

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it,
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one

@dataclass
class Options:
    source: str

def main(options):
    frames = open_source(options.source).frames()
    try:
        print(next(frames).index, flush=True)
        for _ in frames:
            pass
    finally:
        frames.close()
        print("closed", flush=True)

run_command(main, Options, "Watch a stream.")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_silent_stream_does_not_hold_up_the_end(silent: str, number: signal.Signals, code: int) -> None:
    """The reader still waits inside OpenCV; the command ends at once, in good order, with the signal's code."""
    command = [sys.executable, "-c", WATCHING, "--source", silent]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline().strip().isdecimal()
        time.sleep(0.3)  # all that was sent is read
        start = time.monotonic()
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code, err
    assert out == ("closed\n" if code == 130 else f"closed\nstopped by {number.name}\n")
    assert err == ("stopped\n" if code == 130 else "")
    assert time.monotonic() - start < 5


def test_a_program_waits_for_a_silent_stream(silent: str) -> None:
    """Without a command around it: the reader gives up, and the program's exit code is its own."""
    code = (
        "import sys\n"
        "from utils.data import frames, streams\n"
        "frames.TIMEOUT = 2\n"
        "each = streams.Streams([sys.argv[1]]).frames()\n"
        "next(each)\n"
        "each.close()\n"
        "print('closed')\n"
        "sys.exit(7)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code, silent], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "closed\n", "")


class FakeCapture:
    """A camera that always has a picture, of the grey that its address ends in."""

    def __init__(self, source: str) -> None:
        self.value = int(source.rpartition("/")[2])

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, *_: object) -> None: ...

    def get(self, _: int) -> float:
        return 25.0

    def grab(self) -> bool:
        time.sleep(0.001)
        return True

    def retrieve(self) -> tuple[bool, Any]:
        return True, np.full((4, 4, 3), self.value, np.uint8)

    def release(self) -> None: ...


def test_streams_come_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three that always have a new frame is seen as often as the others, however slow we are."""
    monkeypatch.setattr(streams, "open_capture", FakeCapture)
    source = Streams([f"http://camera/{value}" for value in (10, 20, 30)])
    seen = []
    with closing(source.frames()) as frames:  # type: ignore[type-var]
        for frame in frames:
            seen.append(int(frame.image[0, 0, 0]))
            time.sleep(0.01)  # by then each has a new one
            if len(seen) == 12:
                break
    counts = [seen[3:].count(value) for value in (10, 20, 30)]
    assert counts == [3, 3, 3], seen


def test_pauses_double_up_to_the_longest_and_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 2, 4 ... at most 30 seconds while it is away; after a frame from 1 again."""
    opened = []

    class Lost(FakeCapture):
        def __init__(self, source: str) -> None:
            opened.append(source)
            self.frames = 1 if len(opened) == 8 else 0

        def grab(self) -> bool:
            self.frames -= 1
            return self.frames >= 0

        def retrieve(self) -> tuple[bool, Any]:
            return True, np.zeros((4, 4, 3), np.uint8)

    pauses: list[float] = []
    monkeypatch.setattr(streams, "open_capture", Lost)
    reader = streams._Reader("http://camera/1", "camera", 1, threading.Condition())

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            reader.ending.set()

    monkeypatch.setattr(reader.ending, "wait", wait)
    reader.run()
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 1, 2, 4]
