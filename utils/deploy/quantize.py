"""int8: calibrated on training images, by NNCF for OpenVINO and by ONNX Runtime's own quantiser for ONNX.

Decoding and the heads stay in float32. So do layers that cost more AP than is allowed: which ones, a measured error
says, that of the heads when one layer alone is computed in eight bits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.deploy.network import Calibration, Job
from utils.deploy.onnx_file import DECODING, layer_of, quiet, save_onnx
from utils.log import progress
from utils.network.fuse import fuse
from utils.network.registry import conv_units
from utils.runtimes.runtime import need, planes

CALIBRATED = 128  # images at most
MEASURED = 4  # of them tell the error of each layer


# ---- Which layers mind ---------------------------------------------------------------------------------------------


def layer_errors(job: Job, pictures: Sequence[np.ndarray]) -> dict[int, float]:
    """Layer of the cfg -> what computing its convolutions alone in eight bits does to the heads.

    The root of the mean square change over that of the values, the greatest over heads. Weights are rounded to 255
    levels a channel, what a convolution reads to 256 levels between its least and greatest value.
    """
    model = fuse(job.model)
    images = torch.from_numpy(planes(np.stack(pictures[:MEASURED])))
    errors = {}
    with torch.inference_mode():
        right = model.heads(images)
        for index, block in progress(list(enumerate(model.blocks)), "measuring layers", unit="layer"):
            convs = [unit.conv for unit in conv_units(block) if isinstance(unit.conv, nn.Conv2d)]
            if convs:
                with eight_bits(convs):
                    wrong = model.heads(images)
                errors[index] = max(_relative(a - b, b) for a, b in zip(wrong, right, strict=True))
    return errors


def _relative(change: Tensor, value: Tensor) -> float:
    return float(change.square().mean().sqrt() / value.square().mean().sqrt().clamp_min(1e-12))


@contextmanager
def eight_bits(convs: Sequence[nn.Conv2d]) -> Iterator[None]:
    """While it lasts, these convolutions compute with rounded weights and inputs."""
    weights = [conv.weight.detach().clone() for conv in convs]
    hooks = [conv.register_forward_pre_hook(lambda _, inputs: (_rounded(inputs[0]),)) for conv in convs]
    try:
        for conv in convs:
            scale = conv.weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12) / 127
            conv.weight.copy_((conv.weight / scale).round() * scale)
        yield
    finally:
        for conv, weight in zip(convs, weights, strict=True):
            conv.weight.copy_(weight)
        for hook in hooks:
            hook.remove()


def _rounded(values: Tensor) -> Tensor:
    low, high = values.amin().clamp_max(0), values.amax().clamp_min(0)
    scale = ((high - low) / 255).clamp_min(1e-12)
    return ((values - low) / scale).round() * scale + low


# ---- The quantisers ------------------------------------------------------------------------------------------------


def stays(names: Sequence[str], floats: frozenset[int]) -> list[str]:
    """Of the nodes of an exported graph those that are not quantised: of these layers, and of the decoding."""
    return [name for name in names if name.startswith(DECODING) or layer_of(name) in floats]


def quantized_openvino(graph: Path, calibration: Calibration) -> Any:
    """An ONNX file -> an openvino.Model in int8, by NNCF."""
    ov, nncf = need("openvino", "--int8"), need("nncf", "--int8 with --format openvino")
    network = ov.convert_model(str(graph))
    known = [operation.get_friendly_name() for operation in network.get_ops()]
    names = stays(known, calibration.floats)
    pictures = nncf.Dataset(list(calibration.pictures), lambda picture: planes(picture[None]))
    with quiet():
        return nncf.quantize(
            network,
            pictures,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration.pictures),
            ignored_scope=nncf.IgnoredScope(names=names),
        )


def quantized_onnx(model: Any, calibration: Calibration, folder: Path) -> Any:
    """An ONNX model -> the same in int8 between QuantizeLinear and DequantizeLinear, by ONNX Runtime's quantiser."""
    onnx = need("onnx", "--int8")
    tools = need("onnxruntime.quantization", "--int8 with --format onnx")
    before, after = folder / "before.onnx", folder / "after.onnx"
    save_onnx(onnx.shape_inference.infer_shapes(model), before)

    class Reader(tools.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.left = iter(calibration.pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.left, None)
            return None if picture is None else {"images": planes(picture[None])}

    with quiet():
        tools.quantize_static(
            str(before),
            str(after),
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            nodes_to_exclude=stays([node.name for node in model.graph.node], calibration.floats),
        )
    result = onnx.load(str(after))
    before.unlink()
    after.unlink()
    return result


# ---- As much as AP allows ------------------------------------------------------------------------------------------


def loosen(
    heads: Sequence[int], sensitive: Callable[[], Sequence[int]], good_enough: Callable[[frozenset[int]], bool]
) -> frozenset[int] | None:
    """The layers that stay in float32: the heads' convolutions, which are small and whose values are the result; where
    that is not good enough also the most sensitive 1, 2, 4 ... of the others.

    `sensitive` tells all layers, the most sensitive first. None where it is not good enough with all of them.
    """
    if good_enough(frozenset(heads)):
        return frozenset(heads)
    others, count = [layer for layer in sensitive() if layer not in heads], 1
    while not good_enough(floats := frozenset([*heads, *others[:count]])):
        if count >= len(others):
            return None
        count *= 2
    return floats
