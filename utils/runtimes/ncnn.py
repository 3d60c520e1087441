"""Folders with a network for ncnn, Tencent's runtime for phones and small boards, on the CPU."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from utils.errors import InputError
from utils.runtimes.runtime import NetworkInfo, Runtime, need, one_of, planes

INPUT, OUTPUT = "in0", "out0"  # pnnx names them so


class Ncnn(Runtime):
    """A folder that export.py wrote: model.ncnn.param, model.ncnn.bin, metadata.json. Raises InputError."""

    kind: ClassVar[str] = "ncnn"

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.ncnn = need("ncnn", f"{folder}")
        info = NetworkInfo.beside(folder)
        param = one_of(sorted(folder.glob("*.ncnn.param")), folder, ".ncnn.param file")
        weights = param.with_suffix(".bin")
        self.net = self.ncnn.Net()
        self.net.opt.num_threads = threads or self.ncnn.get_physical_big_cpu_count()
        half = info.precision == "float16"
        self.net.opt.use_fp16_packed = self.net.opt.use_fp16_storage = self.net.opt.use_fp16_arithmetic = half
        if not weights.is_file() or self.net.load_param(str(param)) or self.net.load_model(str(weights)):
            raise InputError(f"{folder}: cannot be loaded by ncnn; expected {param.name} and {weights.name}")
        super().__init__(info, info.precision)

    def run(self, images: np.ndarray) -> np.ndarray:
        """One pass of one image."""
        extractor = self.net.create_extractor()
        picture = planes(images)[0]
        # a Mat over foreign memory has no reference count, and a first layer that works in place reads it all the same
        extractor.input(INPUT, self.ncnn.Mat(picture).clone())
        failed, found = extractor.extract(OUTPUT)
        if failed:
            raise InputError(f"ncnn could not compute the network (code {failed})")
        return np.array(found)[None]
