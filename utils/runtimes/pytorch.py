"""Networks in PyTorch: as they were trained, on a CPU or GPU."""

from typing import Any, ClassVar

import numpy as np
import torch

from utils.errors import InputError
from utils.network.fuse import fuse
from utils.runtimes.runtime import NetworkInfo, Runtime, first_line


class PyTorch(Runtime):
    """A network in eval mode, with its graph, names and strides, on its device.

    Batch normalisation is folded in, maps are channels last. `dtype`: autocast to it, None for float32. `compiled`:
    by torch.compile, on the first image of each size. `wrap`, if given, makes of this network the one that runs.
    """

    kind: ClassVar[str] = "PyTorch"

    def __init__(self, model: Any, dtype: torch.dtype | None = None, wrap: Any = None, compiled: bool = False) -> None:
        network = fuse(model).to(memory_format=torch.channels_last)
        if compiled:
            network = torch.compile(network, dynamic=False, options={"freezing": True})
        self.model = network if wrap is None else wrap(network)
        self.device = next(model.parameters()).device
        self.dtype = dtype
        super().__init__(describe(model), str(dtype or torch.float32).removeprefix("torch."))

    def run(self, images: np.ndarray) -> np.ndarray:
        """One pass."""
        own = torch.from_numpy(np.array(images, order="C"))  # a copy, which may be read-only or backwards no more
        batch = own.to(self.device).permute(0, 3, 1, 2).float().div_(255)
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            try:
                found: np.ndarray = self.model(batch).cpu().numpy()
            except torch._dynamo.exc.TorchDynamoException as error:
                words = "--compile: expected a C++ compiler, and a network that it takes"
                raise InputError(f"{words} ({first_line(error)})") from None
        return found


def describe(model: Any, size: tuple[int, int] | None = None) -> NetworkInfo:
    """What there is to know of a network built from a cfg; `size` (width, height): its input, default the cfg's."""
    net = model.graph.net
    anchors = tuple(tuple((w, h) for w, h in head.options.head_anchors) for head in model.graph.heads())
    return NetworkInfo(
        tuple(model.names),
        size or (net.width, net.height),
        model.largest_stride,
        anchors,
        dynamic=True,
        channels=net.channels,
    )
