"""benchmark.py: its tables, and that its figures belong together."""

import json
import shutil
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch

from benchmark import DetectBenchmark, EvaluationBenchmark, detect_speed, evaluation_speed
from tests.commands import assert_refused, run
from utils.errors import DataError
from utils.network.speed import Cost, Measured, Times, time_in_turns
from utils.network.speed_report import summary

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


@pytest.mark.parametrize("ratio", [2, 4])
def test_blocks(tmp_path: Path, ratio: int) -> None:
    """Parameters and FLOPs are those of the paper's formulas; table, summary and file agree."""
    options = ["--channels", 32, 4, 16, "--sizes", 6, 5, "--kernels", 1, 3, "--ratio", ratio, "--rounds", 2]
    done = run("benchmark.py", "blocks", *options, "--name", "a", "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "runs/benchmark/a/blocks.json").read_text())
    assert written["options"]["ratio"] == ratio and written["threads"] == torch.get_num_threads()
    # 4 channels at 1x1: 16 multiply-adds a pixel, and 2 * 4 + 2 * 9 or 1 * 4 + 3 * 9 in a ghost block
    places = [(k, c, n) for k in (1, 3) for c in (4, 16, 32) for n in (5, 6) if (k, c) != (1, 4)]
    assert [(row["kernel"], row["channels"], row["size"]) for row in written["sizes"]] == places
    assert "left out: 2 of 12 sizes" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(("   1x1", "   3x3"))]
    for row, line, (k, c, n) in zip(written["sizes"], lines, places, strict=True):
        primary = c // ratio
        plain, ghost = c * c * k * k, primary * c * k * k + (ratio - 1) * primary * 3 * 3
        assert row["plain"] == {"parameters": plain + 2 * c, "flops": 2 * n * n * plain}
        assert row["ghost"] == {"parameters": ghost + 2 * c, "flops": 2 * n * n * ghost}
        flops = [f"{2 * n * n * macs / 1e6:.2f}" for macs in (plain, ghost)]
        assert line.split()[:7] == [f"{k}x{k}", str(c), str(n), f"{plain + 2 * c:,}", f"{ghost + 2 * c:,}", *flops]
        times = list(row["milliseconds"].values())
        assert all(pair["plain"] > 0 and pair["ghost"] > 0 for pair in times)
        stars = ["*" if pair["ghost"] > 1.05 * pair["plain"] else "" for pair in times]
        ratios = [f"{pair['ghost'] / pair['plain']:.2f}{star}" for pair, star in zip(times, stars, strict=True)]
        assert line.split()[-1 - len(times) :] == [f"{ghost / plain:.2f}", *ratios]
    slower = sum(row["milliseconds"]["float32"]["ghost"] > 1.05 * row["milliseconds"]["float32"]["plain"]
                 for row in written["sizes"])  # fmt: skip
    assert f"at {slower} of 10 sizes in float32" in done.stdout
    assert cv2.imread(str(tmp_path / "runs/benchmark/a/blocks.png")).min() < 255


@pytest.mark.parametrize("native", [False, True])
def test_blocks_in_bfloat16_only_where_it_is_native(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("utils.network.block_benchmark.native_bfloat16", lambda device: native)
    options = ["--channels", 16, "--sizes", 5, "--kernels", 3, "--rounds", 1, "--device", "cpu"]
    done = run("benchmark.py", "blocks", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "runs/benchmark/exp/blocks.json").read_text())["sizes"]
    assert list(row["milliseconds"]) == (["float32", "bfloat16"] if native else ["float32"])
    assert ("bfloat16 ms" in done.stdout) == native
    assert ("left out: bfloat16, which this cpu does not compute natively" in done.stdout) != native


def test_blocks_summary_says_what_was_measured() -> None:
    def row(kernel: int, channels: int, size: int, *ghost_ms: float) -> Measured:
        times = {name: Times(1.0, ms) for name, ms in zip(("float32", "bfloat16"), ghost_ms, strict=True)}
        return Measured(kernel, channels, size, Cost(2, 2), Cost(1, 1), times)

    rows = [
        row(1, 16, 13, 2.0, 1.5),
        row(1, 16, 26, 1.2, 1.5),
        row(1, 32, 13, 1.2, 1.2),
        row(1, 32, 26, 1.01, 1.2),  # as good as equal
        row(3, 16, 13, 0.6, 1.2),
        row(3, 32, 13, 0.6, 0.9),
        row(3, 32, 26, 0.5, 1.1),
    ]
    assert summary(rows).splitlines() == [
        "* the ghost block is slower, by more than 5%: at 3 of 7 sizes in float32, 6 of 7 sizes in bfloat16",
        "it pays, being faster on every map, in float32 with 3x3 of 16, 32 channels; in bfloat16 nowhere",
        "it does not, being slower on every map, in float32 with 1x1 of 16 channels; "
        "in bfloat16 with 1x1 of 16, 32 channels and 3x3 of 16 channels",
    ]


def test_time_in_turns() -> None:
    """Calls of a known length, shorter and longer than a sample."""
    works = {seconds: lambda seconds=seconds: time.sleep(seconds) for seconds in (0.002, 0.004, 0.03)}
    took = time_in_turns(works, torch.device("cpu"), 3)
    assert list(took) == list(works)
    assert all(1000 * seconds <= milliseconds for seconds, milliseconds in took.items())
    assert sorted(took.values()) == list(took.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--channels", 0], "--channels 0: expected 1 to 16384"),
        (["--channels", 16, 33], "--channels 33: expected a multiple of --ratio 2"),
        (["--channels", 16, "--ratio", 32], "--channels 16: expected a multiple of --ratio 32"),
        (["--ratio", 1], "--ratio 1: expected at least 2"),
        (["--sizes", 13, 0], "--sizes 0: expected 1 to 16384"),
        (["--kernels", 2], "--kernels 2: expected an odd number"),
        (["--rounds", 0], "--rounds 0: expected at least 1"),
        (["--device", "abacus"], "--device abacus: expected auto, cpu"),
        (["--channels", 1024, "--sizes", 208], "expected a size whose convolution costs at most 8 GFLOPs"),
        (["--channels"], "expected a size whose convolution costs at most 8 GFLOPs"),
        (["--name", "a/b"], "--name 'a/b': expected a plain folder name"),
    ],
)
def test_blocks_refuse_bad_input(tmp_path: Path, options: list[object], message: str) -> None:
    assert_refused(run("benchmark.py", "blocks", *options, folder=tmp_path), message, tmp_path)


@pytest.mark.slow
def test_export_measures_every_format_there_is(data: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", None)
    monkeypatch.setattr("export.check_drop", lambda *_: None)  # two epochs leave an AP of 0
    arguments = [
        "export",
        "--weights",
        trained / "best.pt",
        "--data",
        "s.data",
        "--rounds",
        2,
        "--dynamic",
        "--name",
        "e",
    ]
    done = run("benchmark.py", *arguments, "--max-map-drop", 1, folder=data)
    assert done.returncode == 0, done.stderr
    assert "ncnn is left out: " in done.stderr and "expected the package pnnx" in done.stderr
    folder = data / "runs" / "benchmark" / "e"
    rows = {row["name"]: row for row in json.loads((folder / "export.json").read_text())["rows"]}
    kinds = {
        "PyTorch, plain",
        "PyTorch",
        *(["PyTorch --compile"] if shutil.which("c++") else []),
        "ONNX Runtime",
        "OpenVINO",
        "TorchScript",
        "OpenCV DNN",
    }
    assert set(rows) >= kinds | {"ONNX Runtime, int8", "OpenVINO, int8"} and "ncnn" not in rows
    for name in kinds:
        assert rows[name]["ap50"] == pytest.approx(rows["PyTorch, plain"]["ap50"], abs=2e-3)
        assert rows[name]["difference"]["score"] < 1e-3
    for row in rows.values():
        assert 0 < row["milliseconds"] <= row["p95"] and row["load_seconds"] > 0
        assert row["images_per_second"] > 0.99 * 1000 / row["milliseconds"]
        assert row["batch"] == 1 or row["name"] != "OpenCV DNN"
    assert (folder / "export.png").stat().st_size > 10_000
