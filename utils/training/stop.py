"""Ctrl-C, SIGTERM and SIGHUP end a training at the next step instead of anywhere."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.errors import Stopped
from utils.training.distributed import Ranks


class StopRequest:
    """`number` is the signal that asked to stop, 0 before."""

    def __init__(self) -> None:
        self.number = 0

    def check(self, ranks: Ranks) -> None:
        """Raise Stopped if a signal has come, to any of the processes: then all stop at the same step."""
        number = ranks.largest(self.number)
        if number:
            raise Stopped(number)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Note the first SIGINT, SIGTERM or SIGHUP (a closed terminal; unless it is ignored, as under nohup).

    A second SIGINT acts as always, a second SIGTERM or SIGHUP ends the process at once, even inside of C code.
    Without effect outside the main thread.
    """
    request = StopRequest()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    try:
        before = {number: signal.getsignal(number) for number in numbers}

        def note(number: int, _: FrameType | None) -> None:
            request.number = number
            for each, handler in before.items():
                signal.signal(each, handler if each == signal.SIGINT else signal.SIG_DFL)

        for number in numbers:
            signal.signal(number, note)
    except ValueError:  # not the main thread
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
