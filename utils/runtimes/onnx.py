"""ONNX files, in ONNX Runtime, on the CPU."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from utils.errors import InputError
from utils.runtimes.runtime import METADATA, NetworkInfo, Runtime, first_line, need, planes, with_objectness


class OnnxRuntime(Runtime):
    """An .onnx file that export.py wrote. Raises InputError for another one."""

    kind: ClassVar[str] = "ONNX Runtime"

    def __init__(self, file: Path, threads: int | None = None) -> None:
        ort = need("onnxruntime", f"{file}")
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors come as exceptions
        options.add_session_config_entry("session.force_spinning_stop", "1")  # between passes leave the cores to others
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            raise InputError(f"{file}: cannot be loaded by ONNX Runtime ({first_line(error)})") from None
        known = self.session.get_modelmeta().custom_metadata_map
        info = NetworkInfo.from_json(known.get(METADATA, ""), file)
        super().__init__(info, info.precision)

    def run(self, images: np.ndarray) -> np.ndarray:
        """One pass."""
        batch = planes(images)
        try:
            found: np.ndarray = self.session.run(None, {"images": batch})[0]
        except Exception as error:  # see above
            raise InputError(f"ONNX Runtime could not compute the network ({first_line(error)})") from None
        if self.info.nms is None:
            return found
        return with_objectness(found, len(images), len(self.info.names))
