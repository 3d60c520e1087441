"""Options that were removed, and old spellings that still work: on the command line, in files and in checkpoints."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.log import warn_once

USUAL_SPARSITY = 0.001  # what the switch of the pruning forks, -sr, means
MAX_PERSPECTIVE = 0.001


@dataclass(frozen=True)
class Removed:
    """What to do instead of an option, or of those of its values for which `values` is true."""

    instead: str
    values: Callable[[Any], bool] | None = None


REMOVED = {
    "assign": Removed("objects are always assigned by quality; leave it out"),
    "focal_gamma": Removed("the loss is plain cross-entropy; leave it out"),
    "shear": Removed("use --degrees"),
    "perspective": Removed(f"expected 0 to {MAX_PERSPECTIVE}", lambda value: float(value) > MAX_PERSPECTIVE),
    "schedule": Removed("use cosine or linear", lambda value: value == "one-cycle"),
    "sparsity_schedule": Removed("use constant or global-decay", lambda value: value in ("auto", "local-decay")),
    "sparsity_share": Removed("no schedule aims at a share; give the strength by --sparsity"),
    "sparsity_max_drop": Removed("no schedule goes by AP; give the strength by --sparsity"),
    "sparsity_epochs": Removed("--auto has no sparsity training; train.py --sparsity before it is one"),
    "strategy": Removed("use slim or normal", lambda value: value == "shortcut"),
}
"""Option -> what was removed of it."""


def is_removed(option: object, value: Any) -> bool:
    """Whether an option was removed, or this value of it."""
    removed = REMOVED.get(str(option))
    if removed is None or removed.values is None:
        return removed is not None
    try:
        return removed.values(value)
    except (TypeError, ValueError):  # of another type: whoever checks types says so
        return False


def current_options(options: dict[str, Any], where: Path) -> dict[str, Any]:
    """The options of an older file or checkpoint in the present spelling; one warning names those that were removed."""
    old = {name: value for name, value in options.items() if is_removed(name, value)}
    if old:
        warn_once(f"{where}: ignored what was removed: {', '.join(f'{name} {value}' for name, value in old.items())}")
    kept = {name: value for name, value in options.items() if name not in old}
    if kept.pop("sr", False) and kept.get("sparsity") is None:
        kept["sparsity"] = USUAL_SPARSITY
    return kept


def current_arguments(arguments: Sequence[str], valued: Collection[str] = ()) -> list[str]:
    """A command line in the present spelling. Raises InputError for an option, or a value of one, that was removed.

    `valued` are the names of the command's options that take a value, which is no option whatever it looks like.
    """
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        name, value = _option(argument, following)
        if name is not None and is_removed(name, value):
            flag = argument.partition("=")[0]
            what = f"{flag} {value}" if REMOVED[name].values else flag
            raise InputError(f"{what}: removed; {REMOVED[name].instead}")
    return _with_sparsity(arguments, valued) if "sparsity" in valued else list(arguments)


def _option(argument: str, following: str) -> tuple[str | None, str]:
    """The name of the option that an argument is, None where it is none, and the value that it would have."""
    flag, equals, value = argument.partition("=")
    name = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else None
    return name, value if equals else following


def _with_sparsity(arguments: Sequence[str], valued: Collection[str]) -> list[str]:
    """A command line with --sparsity for what -sr, --sr and --s say."""
    spelled, strengths, switch, previous = [], [], False, ""
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        is_value, previous = "=" not in previous and _option(previous, "")[0] in {*valued, "s"}, argument
        if is_value:
            spelled.append(argument)
        elif argument in {"-sr", "--sr"}:
            switch = True
        else:
            name, value = _option(argument, following)
            if name == "s":
                argument = "--sparsity" + argument[3:]
            if name in {"s", "sparsity"}:
                strengths.append(value)
            spelled.append(argument)
    if switch and strengths and _is_zero(strengths[-1]):
        raise InputError(f"-sr with --sparsity {strengths[-1]}: expected a strength above 0, such as {USUAL_SPARSITY}")
    return ["--sparsity", str(USUAL_SPARSITY), *spelled] if switch and not strengths else spelled


def _is_zero(text: str) -> bool:
    try:
        return float(text) == 0
    except ValueError:
        return False
