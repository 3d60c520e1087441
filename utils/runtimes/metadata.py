"""The JSON in exported files that says what one has to know of the network: its fields, and their checks."""

import json
import reprlib
from collections.abc import Callable
from pathlib import Path

from utils.errors import InputError
from utils.options import MAX_SIZE

PRECISIONS = ("float32", "float16", "bfloat16", "int8")
TASKS = ("detect", "classify")
LARGEST = 1e9  # an anchor's side, or a measured difference; what is larger is no such number


def read_metadata(text: str, where: str | Path) -> dict[str, object]:
    """The fields of `FIELDS`, each of which fits; others are left out. Raises InputError, which names the field."""
    try:
        known = json.loads(text)
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise InputError(f"{where}: expected the metadata that export.py writes")
    found = {}
    for name, (fits, words) in FIELDS.items():
        value = known.get(name, DEFAULTS.get(name))
        if not fits(value):
            raise InputError(f"{where}: metadata {name}: expected {words}, got {reprlib.repr(value)}")
        found[name] = value
    return found


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high  # NaN is not


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and _is_number(value, 1, most)


def _is_list(value: object, fits: Callable[[object], bool], length: int | None = None) -> bool:
    return isinstance(value, list) and len(value) in {length or len(value)} and all(map(fits, value))


def _is_anchor(value: object) -> bool:
    return _is_list(value, lambda side: _is_number(side, 0, LARGEST), 2)


def _is_check(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("passed"), bool) and all(
        each is None or isinstance(each, bool) or _is_number(each, -LARGEST, LARGEST) for each in value.values()
    )  # fmt: skip


FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "names": (lambda value: value != [] and _is_list(value, lambda name: isinstance(name, str)), "class names"),
    "size": (
        lambda value: _is_list(value, lambda side: _is_count(side, MAX_SIZE), 2),
        f"a width and height of 1 to {MAX_SIZE}",
    ),
    "stride": (lambda value: _is_count(value, MAX_SIZE), f"a whole number of 1 to {MAX_SIZE}"),
    "anchors": (
        lambda value: _is_list(value, lambda head: _is_list(head, _is_anchor)),
        "a list of (width, height) for each head",
    ),
    "precision": (lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    "dynamic": (lambda value: isinstance(value, bool), "true or false"),
    "task": (lambda value: value in TASKS, " or ".join(TASKS)),
    "nms": (
        lambda value: value is None or _is_list(value, lambda limit: _is_number(limit, 0, 1), 2),
        "null, or two thresholds of 0 to 1",
    ),
    "vote": (lambda value: isinstance(value, bool), "true or false"),
    "channels": (lambda value: _is_count(value, 3) and value != 2, "1 or 3"),
    "checks": (
        lambda value: isinstance(value, dict) and all(map(_is_check, value.values())),
        "for each precision whether it passed, and numbers",
    ),
}
DEFAULTS: dict[str, object] = {"task": "detect", "vote": False, "channels": 3, "checks": {}}
"""Of what older files do not have."""
