"""Validation images without a box: an error where AP decides something, a warning where it is only shown."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import export
import test as command
from models import Darknet, load_model, save_weights
from tests.commands import CFG
from train import load_both
from utils.data.datafile import load_data
from utils.errors import DataError
from utils.pruning.options import PruneOptions
from utils.training.distributed import Ranks
from utils.training.pruner import Pruning


@dataclass(frozen=True)
class Case:
    """A network of three classes, and data whose validation images have no labels."""

    weights: str
    data: str


@pytest.fixture
def case(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.cfg").write_text(CFG.replace("filters=12", "filters=16").replace("classes=1", "classes=3"))
    save_weights(load_model(tmp_path / "x.cfg"), tmp_path / "x.pt")
    (tmp_path / "images").mkdir()
    for image in (data / "shapes" / "images" / "valid").iterdir():
        (tmp_path / "images" / image.name).symlink_to(image)
    (tmp_path / "d.data").write_text(f"classes=3\ntrain={data}/shapes/images/train\nvalid=images\n")
    return Case(str(tmp_path / "x.pt"), str(tmp_path / "d.data"))


def train(case: Case) -> object:
    return load_both(load_data(case.data), Ranks(), False)


def prune_trained(case: Case) -> object:
    return Pruning(PruneOptions(case.weights, data=case.data, finetune_epochs=1, workers=0), load_model, Darknet)


def prune_auto(case: Case) -> object:
    return Pruning(PruneOptions(case.weights, data=case.data, auto=True, workers=0), load_model, Darknet)


def export_int8(case: Case) -> object:
    return export.prepare(export.ExportOptions(case.weights, data=case.data, int8=True))


def prune_only(case: Case) -> object:
    return Pruning(PruneOptions(case.weights, data=case.data, workers=0), load_model, Darknet)


def export_measured(case: Case) -> object:
    return export.prepare(export.ExportOptions(case.weights, data=case.data))


def measured(case: Case) -> object:
    return command.prepare(command.TestOptions(case.weights, data=case.data, workers=0))


SAID = "d.data: expected labelled images to measure AP on, got no box in 8 images"


@pytest.mark.parametrize("call", [train, prune_trained, prune_auto, export_int8])
def test_an_error_where_ap_decides(call: Callable[[Case], object], case: Case) -> None:
    with pytest.raises(DataError, match=f"{SAID}; AP decides wh"):
        call(case)


@pytest.mark.parametrize("call", [prune_only, export_measured, measured])
def test_a_warning_where_ap_is_shown(
    call: Callable[[Case], object], case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    call(case)
    assert f"{SAID}: it says nothing" in capsys.readouterr().err


def test_nothing_is_said_where_there_are_boxes(case: Case, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for call in (train, prune_auto, export_int8, measured):
        call(Case(case.weights, str(data / "s.data")))
    assert "labelled" not in capsys.readouterr().err
