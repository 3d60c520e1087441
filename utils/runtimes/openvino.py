"""Folders with OpenVINO's intermediate representation, on the CPU."""

import functools
import importlib
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from utils.errors import InputError
from utils.precision import PRECISION_NAMES, ComputePrecision
from utils.runtimes.runtime import (
    NetworkInfo,
    Runtime,
    last_line,
    need,
    one_of,
    planes,
    with_objectness,
)


@functools.cache
def core() -> Any:
    """The process's one openvino.Core, for good.

    Each one loads the CPU plugin, which gives the thread a signal stack of its own and takes it back at its end. Of two
    that end in the order in which they began the second brings back the first one's, which is gone by then, and the
    next signal, such as Ctrl-C, is a segmentation fault.
    """
    return importlib.import_module("openvino").Core()


def native_bfloat16() -> bool:
    """Whether OpenVINO computes bfloat16 natively here: a CPU with AVX512-BF16, AMX, or the like."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def native_precisions() -> tuple[ComputePrecision, ...]:
    """What a network may be computed in here."""
    need("openvino", "--format openvino")
    return ("f32", "bf16") if native_bfloat16() else ("f32",)


class OpenVino(Runtime):
    """A folder that export.py wrote: model.xml, model.bin, metadata.json.

    `precision` "auto": bfloat16 where the CPU has it and export.py found it near enough, else float32. Raises
    InputError for a folder that cannot be loaded, and for "bf16" on other CPUs.
    """

    kind: ClassVar[str] = "OpenVINO"

    def __init__(self, folder: Path, threads: int | None = None, precision: ComputePrecision = "auto") -> None:
        need("openvino", f"{folder}")
        info = NetworkInfo.beside(folder)
        able = native_bfloat16()
        if precision == "bf16" and not able:
            raise InputError("--precision bf16: expected a CPU with native bfloat16; OpenVINO has none here")
        bfloat16 = precision == "bf16" or (precision == "auto" and able and info.passed("bfloat16"))
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        file = one_of(sorted(folder.glob("*.xml")), folder, ".xml file")
        try:
            self.compiled = core().compile_model(str(file), "CPU", config)
        except RuntimeError as error:
            raise InputError(f"{folder}: cannot be loaded by OpenVINO ({last_line(error)})") from None
        self.lock = threading.Lock()  # one request; a second one would wait for the same cores
        used = PRECISION_NAMES[self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
        super().__init__(info, used if info.precision != "int8" else f"int8 and {used}")

    def run(self, images: np.ndarray) -> np.ndarray:
        """One pass."""
        batch = planes(images)
        try:
            with self.lock:
                found = np.array(self.compiled(batch)[0])  # a copy: the next pass writes over its memory
        except RuntimeError as error:
            raise InputError(f"OpenVINO could not compute the network ({last_line(error)})") from None
        if self.info.nms is None:
            return found
        return with_objectness(found, len(images), len(self.info.names))
