"""Metadata of files that may come from anywhere: what does not fit is told in one line that names the field."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.errors import InputError
from utils.runtimes.runtime import NetworkInfo, Runtime, with_objectness

GOOD: dict[str, Any] = {
    "names": ["a", "b"],
    "size": [96, 64],
    "stride": 32,
    "anchors": [[[20, 20], [40, 40.5]]],
    "precision": "float32",
    "dynamic": False,
    "task": "detect",
    "nms": None,
}


def test_what_was_written_is_read() -> None:
    info = NetworkInfo.from_json(json.dumps(GOOD), "x.json")
    assert info == NetworkInfo(("a", "b"), (96, 64), 32, (((20.0, 20.0), (40.0, 40.5)),))
    checks = {"float32": {"passed": True, "pixels": 0.1}, "bfloat16": {"passed": False, "ap": None}}
    full = NetworkInfo(("é",), (32, 32), 8, (), "int8", True, "classify", (0.25, 0.45), True, 1, checks)
    assert NetworkInfo.from_json(full.to_json(), "x.json") == full
    assert full.passed("float32") and not full.passed("bfloat16") and not info.passed("float32")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("task", "segment", "detect or classify"),
        ("task", [1], "detect or classify"),
        ("size", [float("inf"), 96], "a width and height of 1 to 16384"),
        ("size", [10**9, 10**9], "a width and height of 1 to 16384"),
        ("size", [96], "a width and height of 1 to 16384"),
        ("size", [96.5, 96], "a width and height of 1 to 16384"),
        ("size", [True, 96], "a width and height of 1 to 16384"),
        ("size", "96", "a width and height of 1 to 16384"),
        ("size", [0, 96], "a width and height of 1 to 16384"),
        ("stride", -32, "a whole number of 1 to 16384"),
        ("stride", None, "a whole number of 1 to 16384"),
        ("names", [], "class names"),
        ("names", "ab", "class names"),
        ("names", [1, 2], "class names"),
        ("names", {"a": 1}, "class names"),
        ("anchors", [[1, 2]], "a list of (width, height) for each head"),
        ("anchors", [[[1, float("nan")]]], "a list of (width, height) for each head"),
        ("anchors", [[[1, 2, 3]]], "a list of (width, height) for each head"),
        ("precision", "float8", "one of float32, float16, bfloat16, int8"),
        ("precision", {}, "one of float32, float16, bfloat16, int8"),
        ("dynamic", "no", "true or false"),
        ("nms", [0.25], "null, or two thresholds of 0 to 1"),
        ("nms", [0.25, 7], "null, or two thresholds of 0 to 1"),
        ("nms", 0.25, "null, or two thresholds of 0 to 1"),
        ("vote", 1, "true or false"),
        ("channels", 2, "1 or 3"),
        ("checks", [], "for each precision whether it passed, and numbers"),
        ("checks", {"bfloat16": {"passed": "yes"}}, "for each precision whether it passed, and numbers"),
        ("checks", {"bfloat16": {"passed": True, "ap": "1"}}, "for each precision whether it passed, and numbers"),
    ],
)
def test_a_field_that_does_not_fit_is_named(field: str, value: object, expected: str) -> None:
    with pytest.raises(InputError) as refused:
        NetworkInfo.from_json(json.dumps({**GOOD, field: value}), "x.json")
    words = str(refused.value)
    assert words.startswith(f"x.json: metadata {field}: expected {expected}, got ")
    assert "\n" not in words and len(words) < 200


@pytest.mark.parametrize("field", ["names", "size", "stride", "anchors", "precision", "dynamic"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    with pytest.raises(InputError, match=f"x.json: metadata {field}: expected"):
        NetworkInfo.from_json(json.dumps({key: value for key, value in GOOD.items() if key != field}), "x.json")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "7", "{", "[" * 200_000, '{"size": ' + "9" * 5000 + "}", '{"names": ' + "[" * 100_000]
)
def test_what_is_no_metadata_is_told(text: str) -> None:
    with pytest.raises(InputError, match=r"^x\.json: expected the metadata that export\.py writes$"):
        NetworkInfo.from_json(text, "x.json")


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"expected the metadata that export\.py writes"):
        NetworkInfo.beside(tmp_path)


class Fixed(Runtime):
    """Gives what it is told."""

    kind = "fixed"

    def __init__(self, info: NetworkInfo, found: np.ndarray) -> None:
        super().__init__(info)
        self.found = found

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.found


@pytest.mark.parametrize(
    ("task", "shape", "good"),
    [
        ("detect", (1, 9, 7), True),
        ("detect", (1, 9, 8), False),  # three classes
        ("detect", (1, 9, 6), False),
        ("detect", (9, 7), False),  # NMS inside
        ("classify", (1, 2), True),
        ("classify", (1, 3), False),
        ("classify", (1, 9, 7), False),
    ],
)
def test_names_and_task_are_held_against_what_the_network_gives(task: Any, shape: tuple[int, ...], good: bool) -> None:
    runtime = Fixed(NetworkInfo(("a", "b"), (32, 32), 32, (), task=task), np.zeros(shape, np.float32))
    images = np.zeros((1, 32, 32, 3), np.uint8)
    if good:
        assert runtime.infer(images).shape == shape
    else:
        with pytest.raises(InputError, match="its metadata has 2 class names: expected"):
            runtime.infer(images)


def test_nms_that_is_not_inside_is_told() -> None:
    row = np.array([[0, 1, 1, 3, 3, 0.5, 1]], np.float32)
    assert with_objectness(row, 1, 2).tolist() == [[[2, 2, 2, 2, 0.5, 0, 1]]]
    for found, classes in ((np.zeros((1, 9, 7), np.float32), 2), (row[:, :6], 2), (row, 1)):
        with pytest.raises(InputError, match="its metadata says NMS is inside"):
            with_objectness(found, 1, classes)
