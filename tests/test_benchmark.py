"""benchmark.py: its tables, and that its figures belong together."""

from pathlib import Path

import pytest

from benchmark import DetectBenchmark, EvaluationBenchmark, detect_speed, evaluation_speed
from tests.commands import run

pytestmark = pytest.mark.slow


def test_detection(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(trained / "best.pt")
    costs = detect_speed(DetectBenchmark(weights=weights, data=str(data / "s.data"), images=6, rounds=2, conf=0.01))
    assert list(costs.stages) == ["read", "preprocess", "inference", "nms", "draw", "write"]
    assert all(wall > 0 and cpu > 0 for wall, cpu in costs.stages.values())
    assert costs.together >= 0.5 * max(wall for wall, _ in costs.stages.values())
    printed = capsys.readouterr().out
    assert f"all overlapping {costs.together:.1f} ms" in printed and "beside the network" in printed


def test_evaluation(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = evaluation_speed(EvaluationBenchmark(weights=str(trained / "best.pt"), data=str(data / "s.data"), rounds=1))
    assert list(costs) == ["load", "inference", "nms", "evaluate"] and min(costs.values()) > 0
    assert "of 8 images with" in capsys.readouterr().out


def test_bad_input(trained: Path, data: Path) -> None:
    done = run("benchmark.py", "detect", "--weights", trained / "best.pt", "--rounds", 0, folder=data)
    assert done.returncode == 2 and "error: --rounds 0: expected at least 1" in done.stderr
