"""The formats that a detector is exported to: what each can do, and how it is written."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from utils.deploy.compare import UNFOLDED
from utils.deploy.network import Job
from utils.deploy.onnx_file import finish, onnx_graph, quiet, save_onnx
from utils.deploy.quantize import quantized_onnx, quantized_openvino
from utils.errors import InputError
from utils.network.expand import expanded, folded
from utils.network.weights import save_darknet
from utils.precision import ComputePrecision
from utils.runtimes.openvino import native_precisions
from utils.runtimes.runtime import METADATA, Check, need

Format = Literal["onnx", "openvino", "torchscript", "ncnn", "darknet"]
CONVERSION_TIME = 600  # seconds that pnnx may take


def write_onnx(job: Job, file: Path) -> None:
    """x.onnx."""
    model = onnx_graph(job)
    if job.calibration is not None:
        model = quantized_onnx(model, job.calibration, file.parent)
    save_onnx(finish(model, job), file)


def write_openvino(job: Job, folder: Path) -> None:
    """x_openvino/ with model.xml, model.bin and metadata.json: OpenVINO's form of the ONNX graph."""
    ov = need("openvino", "--format openvino")
    folder.mkdir()
    graph = folder / "graph.onnx"
    save_onnx(finish(onnx_graph(job.in_float32()), job), graph)
    model = ov.convert_model(str(graph)) if job.calibration is None else quantized_openvino(graph, job.calibration)
    ov.save_model(model, str(folder / "model.xml"), compress_to_fp16=job.info.precision == "float16")
    graph.unlink()
    write_metadata(job, folder / METADATA)


def traced(job: Job) -> torch.jit.ScriptModule:
    """The network as TorchScript; beside `forward` it has `heads`, to compare with."""
    inputs = {name: job.example() for name in ("forward", *heads_of(job))}
    with quiet(), torch.no_grad():
        module: torch.jit.ScriptModule = torch.jit.trace_module(job.module(), inputs)
    return module


def heads_of(job: Job) -> list[str]:
    """The method that gives a detector's heads."""
    return ["heads"] if job.info.task == "detect" else []


def write_torchscript(job: Job, file: Path) -> None:
    """x.torchscript, with the metadata inside."""
    module = traced(job)
    with quiet():
        torch.jit.save(torch.jit.freeze(module, heads_of(job)), str(file), _extra_files={METADATA: job.info.to_json()})


def write_ncnn(job: Job, folder: Path) -> None:
    """x_ncnn/ with model.ncnn.param, model.ncnn.bin and metadata.json, by pnnx."""
    pnnx = need("pnnx", "--format ncnn")
    folder.mkdir()
    module = folder / "model.pt"
    traced(job.in_float32()).save(str(module))
    shape = str(list(job.example().shape)).replace(" ", "")
    half = int(job.info.precision == "float16")
    command = [pnnx.EXEC_PATH, module.name, f"inputshape={shape}", f"fp16={half}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=CONVERSION_TIME, check=False)
    files = {folder / "model.ncnn.param", folder / "model.ncnn.bin"}
    if done.returncode or not all(file.is_file() for file in files):
        reason = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise InputError(f"--format ncnn: pnnx could not convert the network ({reason})")
    for file in folder.iterdir():
        if file not in files:
            file.unlink()
    write_metadata(job, folder / METADATA)


def write_darknet(job: Job, cfg: Path) -> None:
    """x_darknet.cfg, .weights, .names and .json (metadata), in Darknet's own sections."""
    model = folded(expanded(job.model)) if job.fold_bn else expanded(job.model)
    cfg.write_text(model.graph.to_cfg("for Darknet and OpenCV, written by export.py"), encoding="utf-8")
    save_darknet(model.blocks, cfg.with_suffix(".weights"), model.seen)
    cfg.with_suffix(".names").write_text("".join(f"{name}\n" for name in job.info.names), encoding="utf-8")
    write_metadata(job, cfg.with_suffix(".json"))


def write_metadata(job: Job, file: Path) -> None:
    """What the runtime has to know."""
    file.write_text(job.info.to_json() + "\n", encoding="utf-8")


def by_weights(job: Job) -> str:
    """The limits of the weights' precision."""
    return job.info.precision


def by_normalisation(job: Job) -> str:
    """OpenCV's own normalisation needs wider limits; see `UNFOLDED`."""
    return job.info.precision if job.fold_bn else UNFOLDED


def unchanged(model: Any) -> Any:
    """The network itself, whose layers are those of the file."""
    return model


@dataclass(frozen=True)
class Kind:
    """A format: the end of its name after the weights' stem, what writes it, and what it can do."""

    suffix: str
    write: Callable[[Job, Path], None]
    dynamic: bool = True
    half: bool = True
    nms: bool = False
    int8: bool = False
    form: Callable[[Any], Any] = unchanged
    """The network whose layers are those of the file, to compare with."""
    limits: Callable[[Job], str] = by_weights
    """The key of `compare.LIMITS` for this format."""
    precisions: Callable[[], Sequence[ComputePrecision]] | None = None
    """What its runtime can be told to compute in on this machine; None: it computes in what was exported."""


KINDS: dict[Format, Kind] = {
    "onnx": Kind(".onnx", write_onnx, nms=True, int8=True),
    "openvino": Kind("_openvino", write_openvino, nms=True, int8=True, precisions=native_precisions),
    "torchscript": Kind(".torchscript", write_torchscript),
    "ncnn": Kind("_ncnn", write_ncnn, dynamic=False),
    "darknet": Kind(
        "_darknet.cfg", write_darknet, dynamic=False, half=False, form=expanded, limits=by_normalisation
    ),
}  # fmt: skip


def parse_formats(text: str) -> list[Format]:
    """`onnx,openvino` -> the formats. Raises InputError for an unknown one."""
    wanted = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for part in wanted:
        if part not in KINDS:
            raise InputError(f"--format {text}: expected some of {', '.join(KINDS)}, got {part!r}")
    return [kind for kind in KINDS if kind in wanted]


def check_formats(formats: list[Format], **asked: bool) -> None:
    """Raise InputError where a format cannot do what is asked for (`nms=True` for --nms)."""
    for flag in (flag for flag, wanted in asked.items() if wanted):
        able = [name for name, kind in KINDS.items() if getattr(kind, flag)]
        for name in formats:
            if name not in able:
                raise InputError(f"--{flag} with --format {name}: expected {' or '.join(able)}")


def check_precision(formats: Sequence[Format], precision: ComputePrecision) -> None:
    """Raise InputError for --precision bf16 where it cannot be checked."""
    for name in formats if precision == "bf16" else ():
        precisions = KINDS[name].precisions
        if precisions is None:
            able = [other for other, kind in KINDS.items() if kind.precisions is not None]
            raise InputError(f"--precision bf16 with --format {name}: expected {' or '.join(able)}")
        if "bf16" not in precisions():
            raise InputError("--precision bf16: expected a CPU with native bfloat16, to check the file in it")


def with_bfloat16(name: Format, precision: ComputePrecision) -> bool:
    """Whether a file is to be checked in bfloat16, too: it may run in it here, and --precision does not forbid it."""
    precisions = KINDS[name].precisions
    return precision != "f32" and precisions is not None and "bf16" in precisions()


def settle(job: Job, path: Path, name: Format, checks: Mapping[str, Check], precision: ComputePrecision) -> str:
    """Write what was found in each precision beside the network; the words for bfloat16, empty where it was not tried.

    Raises InputError where it did not pass and --precision asks for it.
    """
    if KINDS[name].precisions is None:
        return ""
    write_metadata(replace(job, info=replace(job.info, checks=checks)), path / METADATA)
    tried = checks.get("bfloat16")
    if tried is None:
        return ""
    found = ", ".join(f"{key} {value:.3g}" for key, value in tried.items() if key != "passed")
    if precision == "bf16" and not tried["passed"]:
        raise InputError(f"--precision bf16: differs from PyTorch by too much ({found}); nothing was written")
    chosen = "which it runs in where the CPU has it" if tried["passed"] else "too far: it runs in float32"
    return f"; in bfloat16 {found}, {chosen}"


def remove(path: Path) -> None:
    """A file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def megabytes(*paths: Path) -> float:
    """The size of files, and of folders with all that is in them, in 10^6 bytes."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


@contextmanager
def kept_if_good(folder: Path) -> Iterator[Path]:
    """A folder to write into; without an error all of it moves into `folder`, over what has these names there."""
    with tempfile.TemporaryDirectory(prefix=".export-", suffix=".partial", dir=folder) as name:
        partial = Path(name)
        yield partial
        for new in sorted(partial.iterdir()):
            old, aside = folder / new.name, partial / f".old-{new.name}"
            if old.is_dir():
                old.rename(aside)  # a folder cannot be renamed over another; it goes with `partial`
            new.replace(old)
