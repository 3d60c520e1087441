"""Options: what is refused, and --hyp files."""

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.errors import InputError
from utils.files import PROJECT
from utils.training.classify_options import ClassTrainOptions
from utils.training.options import TrainOptions, check_options, command_defaults, read_hyp

SHIPPED = sorted((PROJECT / "data").glob("hyp.*.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs 0: expected at least 1"),
        ({"batch_size": 0}, "--batch-size 0: expected at least 1"),
        ({"lr": -1.0}, "--lr -1.0: expected above 0 and below 10, such as 0.004"),
        ({"lr": 40.0}, "--lr 40.0: expected above 0 and below 10, such as 0.004"),
        ({"mosaic": 1.5}, "--mosaic 1.5: expected 0 to 1"),
        ({"close_mosaic": -1}, "--close-mosaic -1: expected 0 or more"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1: expected 0 or more"),
        ({"momentum": 1.0}, "--momentum 1.0: expected 0 to below 1"),
        ({"seed": -1}, "--seed -1"),
        ({"freeze": "some"}, "--freeze some: expected a number of layers, or backbone"),
        ({"cutoff": 3}, "--cutoff: expected --weights with it"),
        ({"rect": True, "multi_scale": True}, "--rect with --multi-scale"),
        ({"workers": 99_999}, "--workers 99999"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_options(replace(TrainOptions(), **change))
    assert message in str(caught.value)


def test_every_option_has_help() -> None:
    files = [PROJECT / f"utils/training/{name}.py" for name in ("options", "engine_options", "classify_options")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    for field in (*fields(TrainOptions), *fields(ClassTrainOptions)):
        line = next(i for i, text in enumerate(lines) if text.startswith(f"    {field.name}: "))
        assert lines[line + 1].startswith('    """'), field.name


def test_defaults_depend_on_the_optimizer() -> None:
    assert (TrainOptions().highest_lr, TrainOptions().decay) == (0.004, 0.01)
    assert (TrainOptions(optimizer="sgd").highest_lr, TrainOptions(optimizer="sgd").decay) == (0.32, 0.00003)
    assert TrainOptions(optimizer="sgd", lr=0.1).highest_lr == 0.1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files(path: Path) -> None:
    chosen = TrainOptions(hyp=path.name)
    check_options(chosen)
    assert chosen.hyp is None
    for key, value in yaml.safe_load(path.read_text()).items():
        assert getattr(chosen, key) == value


def test_scratch_says_the_defaults() -> None:
    chosen, defaults = TrainOptions(hyp="hyp.scratch.yaml"), TrainOptions()
    assert replace(chosen, lr=None, weight_decay=None) == defaults
    assert (chosen.lr, chosen.weight_decay) == (defaults.highest_lr, defaults.decay)


def test_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "h.yaml"
    file.write_text("mosaic: 0.5\nflip_ud: 0.5\nfreeze: '3'\n")
    defaults = command_defaults(["--epochs", "3", "--hyp", str(file)])
    assert (defaults.mosaic, defaults.flip_ud, defaults.freeze, defaults.epochs) == (0.5, 0.5, "3", 100)
    assert command_defaults([f"--hyp={file}"]).mosaic == 0.5


@pytest.mark.parametrize("mosaic", [0.7, 1.0])  # 1 is the default
def test_python_comes_before_the_file(tmp_path: Path, mosaic: float) -> None:
    file = tmp_path / "h.yaml"
    file.write_text("mosaic: 0.5\nflip_ud: 0.5\nepochs: 7\n")
    given = TrainOptions(hyp=str(file), mosaic=mosaic)
    assert (given.mosaic, given.flip_ud, given.epochs, given.hyp) == (mosaic, 0.5, 7, None)
    assert replace(given, name="a") == replace(TrainOptions(mosaic=mosaic, flip_ud=0.5, epochs=7), name="a")
    assert pickle.loads(pickle.dumps(given)) == given
    later = replace(TrainOptions(flip_ud=0.3, name="a"), hyp=str(file))
    assert (later.mosaic, later.flip_ud, later.epochs, later.name) == (0.5, 0.3, 7, "a")


def test_a_file_takes_what_the_command_line_takes(tmp_path: Path) -> None:
    """YAML reads 1e-3 as text and --freeze's 10 as a number."""
    file = tmp_path / "h.yaml"
    file.write_text("lr: 1e-3\nfreeze: 10\nimg_size: 320\nepochs: 3\n")
    assert read_hyp(str(file)) == {"lr": 0.001, "freeze": "10", "img_size": 320, "epochs": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "SGD"}, "--optimizer: expected muon or adamw or sgd, got 'SGD'"),
        ({"amp": "float16"}, "--amp: expected auto or off or bf16 or fp16, got 'float16'"),
        ({"epochs": "2"}, "--epochs: expected int, got '2'"),
        ({"rect": 1}, "--rect: expected bool, got 1"),
        ({"epochs": True}, "--epochs: expected int, got True"),
        ({"lr": "0.1"}, "--lr: expected float, got '0.1'"),
        ({"cfg": 1}, "--cfg: expected str, got 1"),
    ],
)
def test_python_gets_the_same_checks(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_options(TrainOptions(**changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mosaik: 1", "unknown option 'mosaik'; did you mean 'mosaic'?"),
        ("resume: last", "resume can be given on the command line alone"),
        ("mosaic: 1.5", "mosaic 1.5: expected 0 to 1"),
        ("lr: fast", "lr: expected float, got 'fast'"),
        ("# nothing", "expected lines `option: value`, got none"),
        ("mosaic: much", "mosaic: expected float, got 'much'"),
        ("epochs: 1.5", "epochs: expected int, got 1.5"),
        ("optimizer: lion", "optimizer: expected muon or adamw or sgd, got 'lion'"),
        ("rect: 1", "rect: expected bool, got 1"),
        ("- a\n- b", "expected lines `option: value`, got list"),
        ("a: [", "not valid YAML"),
        ("lr: 0.1\nepochs: 3\nlr: 0.2", r":3: not valid YAML: lr is given twice"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "h.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_hyp(str(file))
    assert message in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda options: pickle.loads(pickle.dumps(options))])
def test_copies_hold_the_fields_alone(again: Callable[[TrainOptions], TrainOptions]) -> None:
    options = TrainOptions(epochs=3, mosaic=0.5)
    assert vars(again(options)) == vars(options) and TrainOptions(**vars(again(options))) == options
