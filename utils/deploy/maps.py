"""The maps inside a network, in each runtime: what its layers make, to see where two of them part."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.network.yolo import YOLOLayer
from utils.runtimes.ncnn import INPUT, Ncnn
from utils.runtimes.onnx import OnnxRuntime
from utils.runtimes.opencv import OpenCv
from utils.runtimes.openvino import OpenVino, core
from utils.runtimes.pytorch import PyTorch
from utils.runtimes.runtime import Runtime, need, planes
from utils.runtimes.torchscript import TorchScript

Maps = Mapping[str, np.ndarray]
"""`layer_N`: what layer N of the cfg makes; `head_K`: what enters the Kth [yolo]. (1, C, H, W) each."""
_LAYER = re.compile(r"layer_\d+")
ACTIVATIONS = frozenset({"leaky", "relu", "relu6", "logistic", "mish", "swish", "tanh"})
"""As OpenCV calls these layers."""


@functools.singledispatch
def maps_inside(runtime: Runtime, path: Path | None = None) -> Callable[[np.ndarray], Maps]:
    """What gives, for a picture (H, W, C) uint8, RGB or grey, the maps that this runtime shows: here none.

    PyTorch shows layers and heads; ONNX Runtime, OpenVINO and OpenCV layers (OpenCV those of its own cfg);
    TorchScript and ncnn heads. `path` is the exported file or folder.
    """
    return lambda picture: {}


def head_names(runtime: PyTorch) -> list[tuple[str, str]]:
    """What the map that enters each [yolo] layer may be called: as a layer, and as a head."""
    sources = [head.sources[0] for head in runtime.model.graph.heads()]
    return [(f"layer_{source}", f"head_{index}") for index, source in enumerate(sources)]


@maps_inside.register
def _pytorch(runtime: PyTorch, path: Path | None = None) -> Callable[[np.ndarray], Maps]:
    return lambda picture: _pytorch_maps(runtime, picture)


def _pytorch_maps(runtime: PyTorch, picture: np.ndarray) -> Maps:
    found: dict[str, np.ndarray] = {}
    hooks = []

    def watch(index: int, block: nn.Module) -> None:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(block, YOLOLayer):
                found[f"head_{runtime.model.yolo_layers.index(block)}"] = inputs[0].float().cpu().numpy()
            else:
                found[f"layer_{index}"] = output.float().cpu().numpy()

        hooks.append(block.register_forward_hook(keep))

    for index, block in enumerate(runtime.model.blocks):
        watch(index, block)
    try:
        runtime.infer(picture[None])
    finally:
        for hook in hooks:
            hook.remove()
    return found


@maps_inside.register
def _onnx(runtime: OnnxRuntime, file: Path) -> Callable[[np.ndarray], Maps]:
    onnx, ort = need("onnx", f"{file}"), need("onnxruntime", f"{file}")
    model = onnx.load(str(file))
    made = [name for node in model.graph.node for name in node.output if _LAYER.fullmatch(name)]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    network = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(picture: np.ndarray) -> Maps:
        values = network.run(made, {"images": planes(picture[None])})
        return {name: value.astype(np.float32) for name, value in zip(made, values, strict=True)}

    return run


@maps_inside.register
def _openvino(runtime: OpenVino, folder: Path) -> Callable[[np.ndarray], Maps]:
    model = core().read_model(str(next(folder.glob("*.xml"))))
    made = {name for op in model.get_ops() for output in op.outputs() for name in output.get_names()}
    layers = sorted(name for name in made if _LAYER.fullmatch(name))
    model.add_outputs(layers)
    hint = runtime.compiled.get_property("INFERENCE_PRECISION_HINT")
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def run(picture: np.ndarray) -> Maps:
        values = compiled(planes(picture[None]))
        return {name: np.array(values[name], np.float32) for name in layers}

    return run


@maps_inside.register
def _opencv(runtime: OpenCv, cfg: Path) -> Callable[[np.ndarray], Maps]:
    net = OpenCv(cfg).net
    net.enableFusion(False)  # it would work in place, over maps that are asked for
    last: dict[int, str] = {}
    for name in net.getLayerNames():  # conv_7, bn_7 and leaky_8 are of layer 7, in this order
        kind, index = name.rsplit("_", 1)
        last[int(index) - (kind in ACTIVATIONS)] = name
    layers = {index: name for index, name in last.items() if not name.startswith("yolo_")}

    def run(picture: np.ndarray) -> Maps:
        net.setInput(planes(picture[None]))
        return {f"layer_{index}": np.array(net.forward(name)) for index, name in layers.items()}

    return run


@maps_inside.register
def _torchscript(runtime: TorchScript, path: Path) -> Callable[[np.ndarray], Maps]:
    if not hasattr(runtime.module, "heads"):  # of an older version
        return lambda picture: {}

    def run(picture: np.ndarray) -> Maps:
        with torch.inference_mode():
            heads = runtime.module.heads(torch.from_numpy(planes(picture[None])))
        return {f"head_{index}": head.float().numpy() for index, head in enumerate(heads)}

    return run


@maps_inside.register
def _ncnn(runtime: Ncnn, folder: Path) -> Callable[[np.ndarray], Maps]:
    shapes = [f"1={5 + len(runtime.info.names)} 2={len(anchors)}" for anchors in runtime.info.anchors]
    blobs = []  # decoding begins with a reshape of the head to (anchors, 5 + classes, cells)
    for line in next(folder.glob("*.param")).read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[0] == "Reshape" and " ".join(words[-2:]) in shapes:
            blobs.append(words[4])

    def run(picture: np.ndarray) -> Maps:
        extractor: Any = runtime.net.create_extractor()
        values = planes(picture[None])[0]  # ncnn does not hold on to it, so it needs a name until it is copied
        extractor.input(INPUT, runtime.ncnn.Mat(values).clone())
        return {f"head_{index}": np.array(extractor.extract(blob)[1])[None] for index, blob in enumerate(blobs)}

    return run
