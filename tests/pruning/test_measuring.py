"""What times networks: any runtime, on the same scale."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from models import load_model
from tests.commands import CFG, run
from tests.conftest import randomise
from utils.pruning.measuring import clock_of, steady


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("runtime", ["pytorch", "onnx", "openvino", "torchscript", "ncnn", "opencv"])
def test_more_work_takes_longer(runtime: Any, tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    small, large = load_model(tmp_path / "x.cfg"), load_model("yolov3-tiny.cfg")
    randomise(small)
    times = clock_of(runtime, (96, 96), torch.device("cpu"), 3)([large, small, large])
    assert 0 < 3 * times[1] < min(times[0], times[2])


def test_milliseconds_follow_the_usual_load() -> None:
    load = iter([3.0, 1.0, 2.0, 1.5])  # how much slower the machine is, call by call

    def clock(models: Sequence[Any]) -> list[float]:
        slower = next(load)
        return [slower * model for model in models]

    milliseconds = steady(clock, 40.0)
    assert [milliseconds(10.0) for _ in range(4)] == [30.0, 20.0, 20.0, 17.5]


def test_a_latency_in_another_runtime(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def clock(runtime: str, *_: object, **__: object) -> Any:
        asked.append(runtime)
        return lambda models: [1e-4 * sum(p.numel() for p in model.parameters()) for model in models]

    monkeypatch.setattr("utils.training.pruner.clock_of", clock)
    arguments = ["--weights", trained / "best.pt", "--runtime", "openvino", "--round-to", 1]
    parameters = sum(p.numel() for p in load_model(weights=trained / "best.pt").parameters())
    goal = 0.7e-4 * parameters
    done = run("prune.py", *arguments, "--target-latency-ms", goal, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(asked) == {"openvino"} and "ms (openvino, 96x96)" in done.stdout
    assert (
        sum(p.numel() for p in load_model(weights=tmp_path / "runs/prune/exp/pruned.pt").parameters())
        <= 0.7 * parameters
    )
