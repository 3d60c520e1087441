"""Reading threads, and the end of a process while one of them waits inside a library."""

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable

LONGEST_WAIT = 15.0  # seconds; a read gives up before


class ReadingThread(threading.Thread):
    """A daemon thread that may wait inside a library, for an address that is silent.

    An interpreter that ends meanwhile is aborted when the library comes back, so it waits for such threads at its end;
    a command, which has nothing left to do, ends at once by `end_process`.
    """

    def __init__(self, name: str, target: Callable[[], None] | None = None) -> None:
        super().__init__(target=target, name=name, daemon=True)


def _reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, ReadingThread)]


def end_process(code: int) -> None:
    """End the process with `code` if a reading thread still waits; else return."""
    if _reading():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@atexit.register
def _wait() -> None:
    end = time.monotonic() + LONGEST_WAIT
    for thread in _reading():
        thread.join(max(0.0, end - time.monotonic()))
