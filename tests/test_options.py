"""Options given in Python: what tyro checks on a command line is checked here, too."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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
        (detector, {"device": 0}, "--device: expected str, got 0"),
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


PLAIN = [
    ("half", np.bool_(True), True),
    ("max_det", np.int32(7), 7),
    ("conf", np.float64(0.5), 0.5),
    ("device", torch.device("cpu"), "cpu"),
    ("device", torch.device("cuda", 1), "cuda:1"),
    ("weights", Path("a/w.pt"), "a/w.pt"),
    ("data", Path("s.data"), "s.data"),
]


@pytest.mark.parametrize(("name", "value", "plain"), PLAIN)
def test_what_python_gives_becomes_what_a_command_line_gives(name: str, value: Any, plain: Any) -> None:
    options = DetectOptions(**{"weights": "w.pt", "source": "", name: value})
    check_types(options)
    assert getattr(options, name) == plain and type(getattr(options, name)) is type(plain)


def test_options_of_a_training_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "h.yaml").write_text("lr: 0.125\n")
    given: dict[str, Any] = {"hyp": tmp_path / "h.yaml", "data": Path("s.data"), "device": torch.device("cpu")}
    options = TrainOptions(weights=Path("w.pt"), epochs=np.int64(3), **given)  # type: ignore[arg-type]
    check_training(options)
    wanted = TrainOptions(data="s.data", weights="w.pt", epochs=3, device="cpu", lr=0.125)
    assert json.dumps(asdict(options)) == json.dumps(asdict(wanted))


def test_paths_stay_where_they_are_asked_for() -> None:
    options = CropOptions("x.data", Path("y"))
    check_types(options)
    assert options.destination == Path("y")


@pytest.mark.parametrize("tile", [64, "64", (64, 64), [64, 64], np.int64(64), "64,64"])
def test_tiles_of_a_detector(tile: Any) -> None:
    network = "ghost-yolov3-tiny.cfg"
    found = Detector(network, tile=tile, device=torch.device("cpu"), half=np.bool_(False), img_size=64)
    assert found.predictor.tile == (64, 64)


@pytest.mark.parametrize("tile", [2.5, True, "a", (1, 2, 3)])
def test_tiles_that_are_none(tile: Any) -> None:
    with pytest.raises(InputError, match=r"^--tile .*: expected N or W,H"):
        Detector("ghost-yolov3-tiny.cfg", tile=tile)
