"""From an options dataclass to a command: flags by tyro, expected errors as one line and exit code 2."""

import dataclasses
import io
import os
import re
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
import tyro

from utils.errors import InputError, Stopped
from utils.log import quiet_opencv, say, terminal_output
from utils.memory import shared_memory_words
from utils.old_options import current_arguments
from utils.threads import end_process

if TYPE_CHECKING:
    import torch

O = TypeVar("O")
OnOff = Annotated[
    bool,
    tyro.conf.FlagConversionOff,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{on,off}",
        instance_from_str=lambda words: words[0] == "on",
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: ["on" if value else "off"],
        choices=("on", "off"),
    ),
]
"""A bool that is `on` or `off` on the command line."""
NUMBERS: dict[Any, type] = {int: Integral, float: Real}  # those of NumPy, too
PARSED = {"img_size", "tile", "classes"}
MAX_SIZE = 16_384  # pixels a side; more does not fit into memory


def run_command(
    function: Callable[[O], Any],
    options_type: Any,
    description: str,
    argv: list[str] | None = None,
    defaults: Callable[[list[str]], O | None] | None = None,
) -> None:
    """Parse the command line into `options_type` (a dataclass: field docstrings are the help) and run `function` on it.

    `defaults` makes the defaults from the arguments (a file of options that they name; None: the usual ones), and may
    take from their list what it has done.
    `InputError` and `OSError` end the process with one line on stderr and exit code 2, Ctrl-C with 130, SIGTERM and
    SIGHUP (a closed terminal) with 128 + their number.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that it cannot show are escaped
            stream.reconfigure(errors="backslashreplace")
    quiet_opencv()
    with terminal_output(), stopped_by_signals():
        code = _run(function, options_type, description, argv, defaults)
    end_process(code)
    if code:
        raise SystemExit(code)


def _run(
    function: Callable[[O], Any],
    options_type: Any,
    description: str,
    argv: list[str] | None,
    defaults: Callable[[list[str]], O | None] | None,
) -> int:
    """The command's exit code."""
    try:
        arguments = current_arguments(sys.argv[1:] if argv is None else argv, _valued(options_type))
        default = None if defaults is None else defaults(arguments)
        given: Any = {} if default is None else {"default": default}
        options = tyro.cli(
            options_type, description=description, args=arguments, config=(tyro.conf.OmitArgPrefixes,), **given
        )
        function(options)
    except BrokenPipeError:  # what read the output has ended, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        words = shared_memory_words(error)  # of a loading process it is told at any moment
        if words is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Stopped as stop:
        say(str(stop))
        return 128 + stop.number
    return 0


def _valued(options_type: Any) -> set[str]:
    """The options that take a value: all but the switches; none of a command that consists of others."""
    if not dataclasses.is_dataclass(options_type):
        return set()
    kinds = typing.get_type_hints(options_type, include_extras=True)
    return {name for name, kind in kinds.items() if kind is not bool}


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise Stopped where SIGTERM or SIGHUP comes; one that is ignored (as under nohup) or handled stays so.

    A second one ends the process at once. Without effect outside the main thread.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number, whole=False)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heeded = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        heeded = []
    for number in heeded:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL)


def check_types(options: Any) -> None:
    """Raise InputError unless each value of an options dataclass is of the type that its field was declared with.

    Python callers may give a path for text, a torch.device, NumPy's numbers and bools: the options then hold what the
    command line would give. They may also give lists for sizes and classes: their parsers check these.
    """
    for name, wanted in typing.get_type_hints(type(options)).items():
        value = _plain(getattr(options, name), wanted, name)
        if name not in PARSED:
            check_type("--" + name.replace("_", "-"), value, wanted)
        vars(options)[name] = value


def _plain(value: Any, wanted: Any, name: str) -> Any:
    """What a command line gives for this value of a Python caller; one without such a counterpart stays."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike) and str in (typing.get_args(wanted) or (wanted,)):
        return os.fspath(value)
    if name == "device" and type(value).__name__ == "device":  # torch.device, without importing torch
        return str(value)
    return value


def check_type(name: str, value: Any, wanted: Any) -> None:
    """Raise InputError unless a value is of this type; `name` is what to call it."""
    union = typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else ()
    kinds = [kind for kind in (union or (wanted,)) if kind is not type(None)]
    if not (value is None and len(kinds) < len(union)) and not any(_is_a(value, kind) for kind in kinds):
        choices = [_choices(kind) for kind in kinds]
        words = " or ".join(word for words in choices for word in words)
        raise InputError(f"{name}: expected {words}, got {value!r}")


def _choices(kind: Any) -> Sequence[str]:
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    return [str(kind) if typing.get_args(kind) else kind.__name__]


def _is_a(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, NUMBERS.get(kind) or typing.get_origin(kind) or kind)


def parse_size(size: int | str | Sequence[int] | None, flag: str = "--img-size") -> tuple[int, int] | None:
    """`416` or `"416"` -> (416, 416); `"W,H"` or a pair -> (W, H) in pixels; None stays None (the cfg's own size)."""
    if size is None:
        return None
    parts = [str(side) for side in size] if isinstance(size, list | tuple) else str(size).split(",")
    if not 1 <= len(parts) <= 2 or not all(re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", part) for part in parts):
        raise InputError(f"{flag} {size}: expected N or W,H in pixels, such as 416 or 640,384")
    width, height = int(parts[0]), int(parts[-1])
    if max(width, height) > MAX_SIZE:
        raise InputError(f"{flag} {size}: expected at most {MAX_SIZE}")
    return width, height


def choose_device(name: str) -> "torch.device":
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`. Raises InputError for one that is not there."""
    import torch  # here, so that tools without networks start at once

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in {"cpu", "cuda"}:
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"--device {name}: expected auto, cpu, cuda or cuda:N, and a device that is there") from None
    return device


def set_threads(threads: int | None) -> None:
    """How many threads PyTorch computes with on a CPU; None: as it likes. Raises InputError."""
    import torch  # here, so that tools without networks start at once

    if threads is not None:
        check_at_least(1, threads=threads)
        torch.set_num_threads(threads)


def check_thresholds(confidence: float, iou: float) -> None:
    """Raise InputError unless both are in 0..1."""
    for flag, value in (("--conf", confidence), ("--iou", iou)):
        if not 0 <= value <= 1:
            raise InputError(f"{flag} {value}: expected 0 to 1")


def check_at_least(least: int, **flags: int) -> None:
    """Raise InputError for a flag (`max_det=0` for --max-det) whose number is too small."""
    for flag, number in flags.items():
        if number < least:
            raise InputError(f"--{flag.replace('_', '-')} {number}: expected at least {least}")


def check_drop(allowed: float, average_precision: float, weights: str) -> None:
    """Raise InputError where AP may fall by all there is, so that every network would pass."""
    if average_precision <= allowed:
        raise InputError(
            f"--max-map-drop {allowed:g}: expected less than {average_precision:.3f}, the AP@.5:.95 of {weights}"
        )


def check_loading(batch_size: int, workers: int) -> None:
    """Raise InputError for a batch or a number of loading processes that cannot work here."""
    most = 8 * (os.cpu_count() or 1)  # each takes hundreds of megabytes
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: expected at least 1")
    if not 0 <= workers <= most:
        raise InputError(f"--workers {workers}: expected 0 to {most} on this machine")
