"""Messages: the logger of the project, how a command shows it on a terminal, and progress bars.

In Python, `logging.getLogger("ghost_yolo")` silences or redirects the messages as any library's: without a handler,
warnings go to stderr and information nowhere. `run_command` shows both.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOGGER = logging.getLogger("ghost_yolo")


def is_first() -> bool:
    """Whether this is the process that speaks: of several that torchrun started, rank 0."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str = "") -> None:
    """Log information; rank 0 alone."""
    if is_first():
        LOGGER.info("%s", message)


def warn(message: str, every_rank: bool = False) -> None:
    """Log a warning: something was skipped or differs from what one would expect.

    Rank 0 alone, unless `every_rank`: of what one process alone can know.
    """
    if every_rank or is_first():
        LOGGER.warning("%s", message)


@cache
def warn_once(message: str) -> None:
    """`warn`, but of each message only the first time."""
    warn(message)


class TerminalHandler(logging.Handler):
    """Prints information to stdout and warnings to stderr, above a progress bar that someone watches.

    Errors of the streams, such as a broken pipe, are the caller's.
    """

    def emit(self, record: logging.LogRecord) -> None:
        file = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        if sys.stderr.isatty():
            tqdm.write(self.format(record), file=file)
        else:  # a log, in which the bar is not drawn again
            print(self.format(record), file=file, flush=True)


@contextmanager
def terminal_output() -> Iterator[None]:
    """Print what is logged, by this logger's other handlers or not at all before, to the terminal."""
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers, LOGGER.propagate = [TerminalHandler()], False
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.handlers, _, LOGGER.propagate = before
        LOGGER.setLevel(before[1])


def quiet_opencv() -> None:
    """Silence OpenCV and its FFmpeg in this process, unless the environment says otherwise.

    What they say about a file, our own message says with the file's name.
    """
    if "OPENCV_LOG_LEVEL" not in os.environ and "cv2" in sys.modules:
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # for when it is imported later, and for child processes
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def progress(
    items: Iterable[T], description: str, unit: str = "it", total: int | None = None, initial: int = 0
) -> "tqdm[T]":
    """A progress bar over `items`, drawn on stderr, of rank 0 alone; `initial` of `total` are done before.

    A log file gets a line every half minute and one at the end, not one per refresh.
    """
    watched = sys.stderr.isatty()
    return tqdm(
        items,
        desc=description,
        unit=unit,
        total=total,
        initial=initial,
        disable=not is_first(),
        mininterval=0.1 if watched else 30.0,
        delay=0 if watched else 1e-9,  # no line at 0 %
        dynamic_ncols=True,
    )


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """`1 box`, `2 boxes`: a number with its noun."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
