"""Which runtime runs an exported file. Free of torch, but for TorchScript's own files."""

from collections.abc import Mapping
from pathlib import Path

from utils.errors import InputError
from utils.files import PROJECT, user_path
from utils.log import warn
from utils.options import check_at_least
from utils.precision import ComputePrecision
from utils.runtimes.runtime import NetworkInfo, Runtime, Task

KINDS = ".onnx, .torchscript, x_openvino/, x_ncnn/ or x_darknet.cfg"


def find_exported(weights: str | None) -> Path | None:
    """The exported network that --weights names, as given or in weights/; None for .pt and .weights."""
    if not weights:
        return None
    given = user_path(weights)
    for place in (given, PROJECT / "weights" / given):
        if place.is_dir() or (place.is_file() and place.suffix in {".onnx", ".torchscript", ".xml", ".cfg"}):
            return place.parent if place.suffix == ".xml" else place
    return None


def open_for_command(
    path: Path,
    device: str,
    threads: int | None,
    pytorch_only: Mapping[str, object],
    task: Task = "detect",
    precision: ComputePrecision = "auto",
) -> Runtime:
    """`open_exported` with a command's options, for its task. Raises InputError for flags that only PyTorch heeds."""
    for flag, value in pytorch_only.items():
        if value:
            raise InputError(f"--{flag} with {path}: expected it with .pt or .weights only")
    if device not in {"auto", "cpu"}:
        raise InputError(f"--device {device} with {path}: expected auto or cpu; exported networks run on the CPU here")
    if threads is not None:
        check_at_least(1, threads=threads)
    runtime = open_exported(path, threads, precision)
    if runtime.info.task != task:
        kinds = {"detect": "a detector, for detect.py and test.py", "classify": "a classifier, for classify.py"}
        raise InputError(f"{path}: expected a network to {task} with; this is {kinds[runtime.info.task]}")
    return runtime


def warn_of_nms(path: Path, info: NetworkInfo, confidence: float, iou: float, vote: bool) -> None:
    """Warn where a command asks for other than what the NMS inside an exported file has done."""
    if info.nms is None or (confidence >= info.nms[0] and iou == info.nms[1] and vote == info.vote):
        return
    least, most = info.nms
    warn(
        f"warning: {path} has NMS inside, exported with --conf {least:g} --iou {most:g} --vote "
        f"{'on' if info.vote else 'off'}: a lower --conf, another --iou and another --vote change nothing"
    )


def open_exported(path: Path, threads: int | None = None, precision: ComputePrecision = "auto") -> Runtime:
    """An exported network in its runtime, `threads` of it at work (default: all cores).

    `precision` is what it computes in; only OpenVINO has a choice. Raises InputError.
    """
    # each runtime is imported where it is wanted: they take their time
    if path.is_dir() and list(path.glob("*.xml")):
        from utils.runtimes.openvino import OpenVino

        return OpenVino(path, threads, precision)
    runtime = _open_other(path, threads)
    if precision == "bf16" or (precision == "f32" and runtime.precision == "float16"):
        raise InputError(
            f"--precision {precision} with {path}: expected auto; {runtime.kind} computes in what was exported, "
            f"{runtime.precision}"
        )
    return runtime


def _open_other(path: Path, threads: int | None) -> Runtime:
    if path.suffix == ".onnx":
        from utils.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(path, threads)
    if path.suffix == ".torchscript":
        from utils.runtimes.torchscript import TorchScript

        return TorchScript(path, threads)
    if path.is_dir() and list(path.glob("*.ncnn.param")):
        from utils.runtimes.ncnn import Ncnn

        return Ncnn(path, threads)
    if path.suffix == ".cfg":
        from utils.runtimes.opencv import OpenCv

        return OpenCv(path, threads)
    what = "is a folder, expected a file or" if path.is_dir() else "expected"
    raise InputError(f"{path}: {what} an exported network, {KINDS}")
