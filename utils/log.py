"""What a command says while it works: lines that do not tear a progress bar, and the bar itself."""

import os
import sys
from collections.abc import Iterable
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the process that speaks: of several that torchrun started, rank 0."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str = "") -> None:
    """Print one line to stdout, above a progress bar where one is showing; rank 0 alone."""
    if is_first():
        _write(message, sys.stdout)


def warn(message: str) -> None:
    """Print one line to stderr: something was skipped or differs from what one would expect."""
    _write(message, sys.stderr)


def _write(message: str, file: TextIO) -> None:
    """Above a bar that someone watches; in a log, without drawing the bar again."""
    message = message.encode("utf-8", "backslashreplace").decode()  # file names need not be text
    if sys.stderr.isatty():
        tqdm.write(message, file=file)
    else:
        print(message, file=file, flush=True)


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
