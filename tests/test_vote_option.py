"""`--vote on|off` reaches what detects and measures, from each command and from Python, and is written down."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import detect
import serve
import test as measuring
import train
from detect import DetectOptions, Detector
from models import load_model, save_weights
from tests.commands import run
from tests.training.small import make_set
from utils.errors import InputError
from utils.options import run_command
from utils.training.distributed import Ranks
from utils.training.options import TrainOptions
from utils.training.stop import StopRequest


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, s.data and the untrained x.pt."""
    make_set(tmp_path, images=8)
    save_weights(load_model(tmp_path / "x.cfg"), tmp_path / "x.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def by_detector(place: Path, **vote: Any) -> bool:
    return Detector(weights="x.pt", **vote).predictor.vote


def by_hub(place: Path, **vote: Any) -> bool:
    return torch.hub.load(str(Path(detect.__file__).parent), "custom", "x.pt", source="local", **vote).predictor.vote


def by_detect(place: Path, **vote: Any) -> bool:
    return detect.Job(DetectOptions("x.pt", "set", **vote)).predictor.vote


def by_test(place: Path, **vote: Any) -> bool:
    return measuring.prepare(measuring.TestOptions("x.pt", data="s.data", workers=0, **vote)).settings.vote


def by_train(place: Path, **vote: Any) -> bool:
    options = TrainOptions(cfg="x.cfg", data="s.data", batch_size=8, workers=0, **vote)
    return train.prepare(options, Ranks(), StopRequest()).settings.vote


def by_serve(place: Path, **vote: Any) -> bool:
    found: dict[str, Any] = {}

    def detector(*_: object, **options: Any) -> None:
        found.update(options)
        raise InputError("far enough")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="far enough"):
        patch.setattr(serve, "Detector", detector)
        serve.serve(serve.ServeOptions("x.pt", **vote))
    return bool(found["vote"])


def test_tracking_goes_on_with_scores_of_a_tenth(place: Path) -> None:
    assert detect.Job(DetectOptions("x.pt", "set", track=True)).predictor.confidence == 0.1


@pytest.mark.parametrize("way", [by_detector, by_hub, by_detect, by_test, by_train, by_serve])
def test_on_unless_turned_off(place: Path, way: Callable[..., bool]) -> None:
    assert way(place) is True and way(place, vote=True) is True
    assert way(place, vote=False) is False


@pytest.mark.parametrize(("words", "expected"), [([], True), (["--vote", "on"], True), (["--vote", "off"], False)])
@pytest.mark.parametrize("options", [measuring.TestOptions, DetectOptions, serve.ServeOptions, TrainOptions])
def test_the_command_line_takes_on_and_off(options: type[Any], words: list[str], expected: bool) -> None:
    needed = ["--weights", "x", *(["--source", "y"] if options is DetectOptions else [])]
    found = []
    run_command(found.append, options, "", [*needed, *words])
    assert found[0].vote is expected


def test_metrics_json_tells(place: Path) -> None:
    done = run("test.py", "--weights", "x.pt", "--data", "s.data", "--workers", 0, "--vote", "off", folder=place)
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "runs/test/exp/metrics.json").read_text())["options"]["vote"] is False


def test_the_command_line_takes_nothing_else(place: Path) -> None:
    done = run("detect.py", "--weights", "x.pt", "--source", "set", "--vote", "yes", folder=place)
    assert done.returncode == 2 and "('on', 'off')" in done.stdout + done.stderr


def test_a_file_of_options_says_on_and_off(place: Path) -> None:
    for word, expected in (("on", True), ("off", False)):  # YAML's words for true and false
        (place / "hyp.yaml").write_text(f"vote: {word}\n")
        assert TrainOptions(hyp="hyp.yaml").vote is expected
