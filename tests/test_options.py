"""Options given in Python: what tyro checks on a command line is checked here, too."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify import ClassValOptions, PredictOptions, predict, validate
from detect import DetectOptions, Detector, detect
from export import ExportOptions, export
from test import TestOptions as MeasureOptions
from test import test as measure
from utils.data.crops import CropOptions, crop
from utils.data.split import SplitOptions, split
from utils.errors import InputError
from utils.options import check_types, parse_size
from utils.pruning.options import PruneOptions
from utils.pruning.options import check_options as check_pruning
from utils.training.options import TrainOptions
from utils.training.options import check_options as check_training


def detector(**values: Any) -> None:
    Detector(weights="none.pt", **values)


def detecting(**values: Any) -> None:
    detect(DetectOptions(**{"weights": "none.pt", "source": "none.jpg", **values}))


def measuring(**values: Any) -> None:
    measure(MeasureOptions(weights="none.pt", **values))


def pruning(**values: Any) -> None:
    check_pruning(PruneOptions(**{"weights": "none.pt", **values}))


def training(**values: Any) -> None:
    check_training(TrainOptions(**values))


def exporting(**values: Any) -> None:
    export(ExportOptions("none.pt", **values))


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (detector, {"max_det": 2.5}, "--max-det: expected int, got 2.5"),
        (detector, {"batch_size": True}, "--batch-size: expected int, got True"),
        (detector, {"conf": "0.5"}, "--conf: expected float, got '0.5'"),
        (detector, {"conf": True}, "--conf: expected float, got True"),
        (detector, {"iou": float("nan")}, "--iou nan: expected 0 to 1"),
        (detector, {"half": 1}, "--half: expected bool, got 1"),
        (detecting, {"threads": "4"}, "--threads: expected int, got '4'"),
        (detecting, {"source": 0}, "--source: expected str, got 0"),
        (measuring, {"max_nms": 1.5}, "--max-nms: expected int, got 1.5"),
        (measuring, {"task": "all"}, "--task: expected val or train or test or speed or study, got 'all'"),
        (measuring, {"compare": "a.json"}, "--compare: expected tuple[str, str], got 'a.json'"),
        (pruning, {"percent": "0.5"}, "--percent: expected float, got '0.5'"),
        (pruning, {"strategy": "shortcut"}, "--strategy: expected normal or slim, got 'shortcut'"),
        (pruning, {"rounds": None}, "--rounds: expected int, got None"),
        (pruning, {"target_flops": 0.3}, "--target-flops: expected str, got 0.3"),
        (training, {"batch_size": True}, "--batch-size: expected int, got True"),
        (training, {"mosaic": "1"}, "--mosaic: expected float, got '1'"),
        (exporting, {"format": ["onnx"]}, "--format: expected str, got ['onnx']"),
        (exporting, {"nms": "yes"}, "--nms: expected bool, got 'yes'"),
        (lambda **v: predict(PredictOptions(**v)), {"weights": "w.pt", "source": 1}, "--source: expected str, got 1"),
        (
            lambda **v: validate(ClassValOptions(**v)),
            {"weights": "w.pt", "data": "d", "batch_size": 1.5},
            "--batch-size: expected",
        ),
        (
            lambda **v: split(SplitOptions(**v)),
            {"data": "x", "destination": Path("y"), "valid": "0.2"},
            "--valid: expected float, got '0.2'",
        ),
        (
            lambda **v: crop(CropOptions(**v)),
            {"data": "x", "destination": "y"},
            "--destination: expected Path, got 'y'",
        ),
    ],
)
def test_values_of_another_type(make: Callable[..., None], values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        make(**values)


@pytest.mark.parametrize(
    "size", ["٣٢٠", "416.0", 416.0, True, "", (), (1, 2, 3), (640, 38.4), "-1", "0", 0, "9" * 5000]
)
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(InputError, match=r"^--img-size .*: expected"):
        parse_size(size)


def test_what_is_taken() -> None:
    assert parse_size("0416 , 320") == (416, 320) and parse_size([64, np.int64(96)]) == (64, 96)
    good = {"conf": 1, "iou": np.float32(0.5), "max_det": np.int64(3), "img_size": (64, 96), "classes": [0, "cat"]}
    check_types(DetectOptions("w.pt", "a.jpg", **good))
