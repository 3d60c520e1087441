"""The precision that runs is one that was checked; which CPU this machine has decides nothing here."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

import export as command
from detect import Detector
from export import ExportOptions, Subject, check_bfloat16
from models import load_model
from tests.commands import assert_refused, run
from utils import precision as precisions
from utils.deploy.compare import Difference, changed_boxes
from utils.deploy.formats import KINDS, check_precision, settle, with_bfloat16
from utils.deploy.network import Job
from utils.errors import InputError
from utils.evaluation.metrics import Metrics
from utils.precision import ComputePrecision, choose_precision, inference_precision, native_bfloat16
from utils.runtimes import openvino as runtime_module
from utils.runtimes.opening import open_exported
from utils.runtimes.pytorch import PyTorch, describe
from utils.runtimes.runtime import NetworkInfo, Runtime

CPU = torch.device("cpu")


class FakeCore:
    """OpenVINO on a CPU with these capabilities; what networks are compiled with is written down."""

    def __init__(self, capabilities: Sequence[str]) -> None:
        self.real, self.capabilities = runtime_module.core(), capabilities
        self.configs: list[dict[str, Any]] = []

    def get_property(self, device: str, name: str) -> Sequence[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.capabilities

    def compile_model(self, file: str, device: str, config: dict[str, Any]) -> Any:
        self.configs.append(config)
        return self.real.compile_model(file, device, config)


def as_if(monkeypatch: pytest.MonkeyPatch, native: bool) -> FakeCore:
    """A CPU with or without native bfloat16, as OpenVINO tells."""
    fake = FakeCore(["FP32", "INT8", *(["BF16"] if native else [])])
    monkeypatch.setattr(runtime_module, "core", lambda: fake)
    return fake


@pytest.fixture
def folder(files: Mapping[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(files["openvino"], tmp_path / "x_openvino"))


def checked(folder: Path, **passed: bool) -> Path:
    """The file as if these checks were in it."""
    file = folder / "metadata.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({**known, "checks": {name: {"passed": each} for name, each in passed.items()}}))
    return folder


@pytest.mark.parametrize(
    ("native", "passed", "asked", "hint"),
    [
        (True, {"float32": True, "bfloat16": True}, "auto", "bf16"),
        (True, {"float32": True, "bfloat16": False}, "auto", "f32"),
        (True, {"float32": True}, "auto", "f32"),  # checked on a CPU without bfloat16
        (True, {}, "auto", "f32"),  # an older file
        (False, {"float32": True, "bfloat16": True}, "auto", "f32"),
        (True, {"float32": True, "bfloat16": True}, "f32", "f32"),
        (True, {"float32": True, "bfloat16": False}, "bf16", "bf16"),
    ],
)
def test_what_was_checked_is_what_runs(
    native: bool,
    passed: dict[str, bool],
    asked: ComputePrecision,
    hint: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = as_if(monkeypatch, native)
    Detector(weights=str(checked(folder, **passed)), precision=asked)
    assert [config["INFERENCE_PRECISION_HINT"] for config in fake.configs] == [hint]


def test_bf16_is_refused_where_it_is_not_native(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, False)
    with pytest.raises(InputError, match="--precision bf16: expected a CPU with native bfloat16"):
        open_exported(folder, precision="bf16")


def test_openvino_computes_in_what_it_was_told(folder: Path) -> None:
    """As it says itself, on this CPU."""
    types = {"f32": openvino.Type.f32, "bf16": openvino.Type.bf16}
    for asked in runtime_module.native_precisions():
        runtime = open_exported(folder, precision=asked)
        assert runtime.compiled.get_property("INFERENCE_PRECISION_HINT") == types[asked]  # type: ignore[attr-defined]
        assert runtime.precision == {"f32": "float32", "bf16": "bfloat16"}[asked]
    assert open_exported(folder).precision == "float32"


@pytest.mark.parametrize("format", ["onnx", "torchscript", "ncnn", "darknet"])
def test_other_runtimes_have_no_choice(format: str, files: Mapping[str, Path], tmp_path: Path) -> None:
    assert open_exported(files[format], precision="f32").precision == "float32"
    for script in ("detect.py", "test.py"):
        options = ["--weights", files[format], *(["--source", "x"] if script == "detect.py" else [])]
        (tmp_path / "x").mkdir(exist_ok=True)
        shutil.copy(Path(__file__).parents[2] / "data" / "coco.names", tmp_path / "x" / "a.jpg")
        done = run(script, *options, "--precision", "bf16", folder=tmp_path)
        assert_refused(done, f"--precision bf16 with {files[format]}: expected auto; ", tmp_path)
    with pytest.raises(InputError, match=f"--precision bf16 with --format {format}: expected openvino"):
        check_precision([format], "bf16")  # type: ignore[list-item]


# ---- What passes ---------------------------------------------------------------------------------------------------


class Boxes(Runtime):
    """Finds these: rows of centre x, y, width, height, objectness, class probabilities."""

    kind = "boxes"

    def __init__(self, *rows: Sequence[float]) -> None:
        super().__init__(NetworkInfo(("a", "b"), (32, 32), 32, ()))
        self.rows = np.array([rows], np.float32)

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.rows


def test_boxes_that_came_or_went_are_counted() -> None:
    one, two, gone = [8, 8, 8, 8, 0.9, 1, 0], [24, 24, 8, 8, 0.9, 0, 1], [24, 24, 8, 8, 0.2, 0, 1]
    images = [np.zeros((32, 32, 3), np.uint8)]
    for a, b, changed in (
        ([one, two], [one, two], 0),
        ([one, two], [[9, 8, 8, 8, 0.6, 1, 0], two], 0),
        ([one, two], [one, gone], 1),
        ([one, gone], [one, two], 1),
        ([one, two], [one, [24, 24, 8, 8, 0.9, 1, 0]], 2),  # of another class
        ([one, two], [one, [24, 16, 8, 8, 0.9, 0, 1]], 2),  # elsewhere
    ):
        assert changed_boxes(Boxes(*a), Boxes(*b), images) == changed


@pytest.mark.parametrize(
    ("difference", "good"),
    [
        (Difference(8.0, 0.05, 0.05, 0), True),
        (Difference(8.1, 0.05, 0.05, 0), False),
        (Difference(8.0, 0.051, 0.05, 0), False),
        (Difference(8.0, 0.05, 0.051, 0), False),
        (Difference(0.0, 0.0, 0.0, 1), False),
        (Difference(0.0, 0.0, 0.0), False),  # a check that was left out is none that was passed
        (Difference(0.0, 0.0, None, 0), False),
        (Difference(float("nan"), 0.0, 0.0, 0), False),
    ],
)
def test_limits_of_bfloat16(difference: Difference, good: bool) -> None:
    assert difference.within("bfloat16") == good


def test_heads_that_were_not_compared_did_not_pass() -> None:
    for precision in ("float32", "float16", "bfloat16"):
        assert not Difference(0.0, 0.0, None, 0).within(precision)
        assert Difference(0.0, 0.0, 0.0, 0).within(precision)
    assert Difference(99.0, 1.0).within("int8")  # AP decides


@pytest.mark.parametrize(
    ("changed", "before", "after", "passes"),
    [
        (0, None, None, True),
        (1, None, None, False),  # a box more or less, and no AP to say whether it matters
        (1, 0.5, 0.496, True),
        (0, 0.5, 0.49, False),
        (0, 0.004, 0.0, True),  # an AP that can hardly fall decides nothing
        (1, 0.004, 0.004, False),
    ],
)
def test_ap_decides_where_there_is_one(
    changed: int,
    before: float | None,
    after: float | None,
    passes: bool,
    folder: Path,
    files: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = [None if ap is None else Metrics(ap, 0.0, 1, 1, {}) for ap in (before, after)]
    as_if(monkeypatch, True)
    monkeypatch.setattr(command, "changed_boxes", lambda *_: changed)
    monkeypatch.setattr(command, "differs", lambda *_: Difference(1.0, 0.01, 0.01))
    monkeypatch.setattr(Subject, "average_precision", lambda *_: metrics[1])
    options = ExportOptions(str(files["pytorch"]), format="openvino")
    model = load_model(weights=files["pytorch"])
    subject = Subject(Job(model, describe(model)), PyTorch(model), [], None, metrics[0])
    check = check_bfloat16(options, subject, "openvino", folder)
    assert check["passed"] is passes and check.get("ap") == after
    job = subject.job
    settle(job, folder, "openvino", {"float32": {"passed": True}, "bfloat16": check}, "auto")
    assert NetworkInfo.beside(folder) == replace(job.info, checks={"float32": {"passed": True}, "bfloat16": check})
    if not passes:
        with pytest.raises(InputError, match="--precision bf16: differs from PyTorch by too much"):
            settle(job, folder, "openvino", {"bfloat16": check}, "bf16")


def test_which_files_are_checked_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, True)
    asked: list[ComputePrecision] = ["auto", "bf16", "f32"]
    assert [with_bfloat16("openvino", each) for each in asked] == [True, True, False]
    assert not with_bfloat16("onnx", "auto")
    as_if(monkeypatch, False)
    assert not with_bfloat16("openvino", "auto")
    with pytest.raises(InputError, match="--precision bf16: expected a CPU with native bfloat16"):
        check_precision(["openvino"], "bf16")


def test_export_checks_both(files: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a box changed the file runs in bfloat16, and with one it does not; --precision bf16 then is an error."""
    as_if(monkeypatch, True)
    kind = replace(KINDS["openvino"], write=lambda _, path: shutil.copytree(files["openvino"], path))
    monkeypatch.setitem(KINDS, "openvino", kind)  # to make the graph takes seconds
    monkeypatch.setattr(command, "differs", lambda *_: Difference(0.01, 0.0, 0.0))
    for changed in (0, 1):
        monkeypatch.setattr(command, "changed_boxes", lambda *_, changed=changed: changed)
        options = ExportOptions(str(files["pytorch"]), format="openvino", output=str(tmp_path))
        (done,) = command.export(options)
        info = NetworkInfo.beside(done.path)
        assert info.passed("float32") and info.passed("bfloat16") is (changed == 0)
        assert set(info.checks["float32"]) == set(info.checks["bfloat16"]) == {"passed", "heads", "pixels", "score"}
    with pytest.raises(InputError, match="--precision bf16: differs from PyTorch"):
        command.export(replace(options, precision="bf16", output=str(tmp_path / "other")))
    assert not list((tmp_path / "other").iterdir())
    (done,) = command.export(replace(options, precision="f32"))
    assert set(NetworkInfo.beside(done.path).checks) == {"float32"}


# ---- PyTorch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "native", "trained_in"),
    [
        ({}, False, None),
        ({"avx512_f": True, "avx512_bf16": False}, False, None),
        ({"avx512_bf16": True}, True, None),
        ({"amx_tile": True}, True, torch.bfloat16),
        ({"amx_tile": True, "amx_bf16": True, "avx512_bf16": True}, True, torch.bfloat16),
        ({"amx_tile": True, "amx_bf16": False, "avx512_bf16": True}, True, None),
    ],
)
def test_pytorch_knows_the_same_cpus(
    capabilities: dict[str, bool], native: bool, trained_in: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "cpu_capabilities", lambda: capabilities)
    assert native_bfloat16(CPU) is native and choose_precision("auto", CPU) is trained_in
    assert inference_precision("auto", False, CPU) is None and inference_precision("f32", False, CPU) is None
    with pytest.raises(InputError, match="--half with --precision f32: expected one of them"):
        inference_precision("f32", True, CPU)
    for asked, half, flag in (("bf16", False, "--precision bf16"), ("auto", True, "--half"), ("bf16", True, "--prec")):
        if native:
            assert inference_precision(asked, half, CPU) is torch.bfloat16  # type: ignore[arg-type]
        else:
            with pytest.raises(InputError, match=f"{flag}.*: expected a device with native bfloat16"):
                inference_precision(asked, half, CPU)  # type: ignore[arg-type]


def test_detect_in_pytorch_computes_in_what_it_is_asked_for(
    files: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "cpu_capabilities", lambda: {"avx512_bf16": True})
    weights = str(files["pytorch"])
    asked: list[tuple[ComputePrecision, str]] = [("auto", "float32"), ("f32", "float32"), ("bf16", "bfloat16")]
    for precision, computed in asked:
        assert Detector(weights=weights, precision=precision).predictor.runtime.precision == computed
