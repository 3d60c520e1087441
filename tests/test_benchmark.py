"""benchmark.py: its tables, and that its figures belong together."""

from pathlib import Path

import pytest

from benchmark import DetectBenchmark, EvaluationBenchmark, detect_speed, evaluation_speed
from tests.commands import run
from utils.errors import DataError

pytestmark = pytest.mark.slow


def test_detection(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(trained / "best.pt")
    costs = detect_speed(DetectBenchmark(weights=weights, data=str(data / "s.data"), images=6, rounds=2, conf=0.01))
    assert list(costs.stages) == ["read", "preprocess", "inference", "nms", "draw", "write"]
    assert all(wall > 0 and cpu > 0 for wall, cpu in costs.stages.values())
    assert costs.together >= 0.5 * max(wall for wall, _ in costs.stages.values())
    printed = capsys.readouterr().out
    assert f"all overlapping {costs.together:.1f} ms" in printed and "beside the network" in printed


def test_each_image_is_taken_once(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer images than asked for: all of them, and the time is divided by what was really done."""
    weights = str(trained / "best.pt")
    detect_speed(DetectBenchmark(weights=weights, data=str(data / "s.data"), images=64, rounds=1))
    assert "medians over 8 images a round" in capsys.readouterr().out
    (data / "one.txt").write_text("shapes/images/valid/0000.jpg\n")
    (data / "one.data").write_text("classes=3\nvalid=one.txt\nnames=s.names\n")
    with pytest.raises(DataError, match="expected at least two validation images, got 1"):
        detect_speed(DetectBenchmark(weights=weights, data=str(data / "one.data")))


def test_evaluation(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = evaluation_speed(EvaluationBenchmark(weights=str(trained / "best.pt"), data=str(data / "s.data"), rounds=1))
    assert list(costs) == ["load", "inference", "nms", "evaluate"] and min(costs.values()) > 0
    assert "of 8 images with" in capsys.readouterr().out


def test_bad_input(trained: Path, data: Path) -> None:
    done = run("benchmark.py", "detect", "--weights", trained / "best.pt", "--rounds", 0, folder=data)
    assert done.returncode == 2 and "error: --rounds 0: expected at least 1" in done.stderr
