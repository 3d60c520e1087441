"""Folders with OpenVINO's intermediate representation, on the CPU."""

import functools
import importlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from utils.errors import InputError
from utils.runtimes.runtime import NetworkInfo, Runtime, need, one_of, planes, with_objectness

HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@functools.cache
def core() -> Any:
    """The process's one openvino.Core, for good.

    Each one loads the CPU plugin, which gives the thread a signal stack of its own and takes it back at its end. Of two
    that end in the order in which they began the second brings back the first one's, which is gone by then, and the
    next signal, such as Ctrl-C, is a segmentation fault.
    """
    return importlib.import_module("openvino").Core()


class OpenVino(Runtime):
    """A folder that export.py wrote: model.xml, model.bin, metadata.json.

    `precision`: what is computed with, "float32", "bfloat16" or "float16"; by default what OpenVINO takes for the
    fastest that the CPU has, bfloat16 on those with AMX. Raises InputError for a folder that cannot be loaded.
    """

    kind: ClassVar[str] = "OpenVINO"

    def __init__(self, folder: Path, threads: int | None = None, precision: str | None = None) -> None:
        need("openvino", f"{folder}")
        info = NetworkInfo.beside(folder)
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = HINTS[precision]
        file = one_of(sorted(folder.glob("*.xml")), folder, ".xml file")
        try:
            self.compiled = core().compile_model(str(file), "CPU", config)
        except RuntimeError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise InputError(f"{folder}: cannot be loaded by OpenVINO ({reason})") from None
        used = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        others = {short: name for name, short in HINTS.items()}.get(used, "float32")
        super().__init__(info, others if info.precision != "int8" else f"int8 and {others}")

    def run(self, images: np.ndarray) -> np.ndarray:
        """One pass."""
        found = np.array(self.compiled(planes(images))[0])  # a copy: the next pass writes over its memory
        if self.info.nms is None:
            return found
        return with_objectness(found, len(images), len(self.info.names))
