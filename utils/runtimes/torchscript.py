"""TorchScript files, in PyTorch, without this project's network code."""

import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np

from utils.errors import InputError
from utils.runtimes.runtime import METADATA, NetworkInfo, Runtime, last_line, need, planes


class TorchScript(Runtime):
    """A .torchscript file that export.py wrote. Raises InputError for another one."""

    kind: ClassVar[str] = "TorchScript"

    def __init__(self, file: Path, threads: int | None = None) -> None:
        self.torch = need("torch", f"{file}")
        if threads is not None:
            self.torch.set_num_threads(threads)
        extra = {METADATA: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # jit is deprecated, but what small devices have
                self.module = self.torch.jit.load(str(file), map_location="cpu", _extra_files=extra).eval()
        except (RuntimeError, ValueError):
            raise InputError(f"{file}: expected a TorchScript file") from None
        info = NetworkInfo.from_json(_text(extra[METADATA]), file)
        super().__init__(info, info.precision)

    def run(self, images: np.ndarray) -> np.ndarray:
        """One pass."""
        batch = self.torch.from_numpy(planes(images))
        try:
            with self.torch.inference_mode():
                found: np.ndarray = self.module(batch).numpy()
        except RuntimeError as error:
            raise InputError(f"PyTorch could not compute the TorchScript network ({last_line(error)})") from None
        return found


def _text(content: bytes | str) -> str:
    return content if isinstance(content, str) else content.decode("utf-8", "replace")
