"""The table of a network's layers in torchsummary's layout, with leaf modules as rows, and its cost."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.network.registry import Block

RULE = "-" * 64


@dataclass(frozen=True)
class Row:
    """One module call: class name, output shape (C, ...), own parameters, multiply-adds for one image."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    trainable: bool
    macs: int


def trace(model: nn.Module, images: Tensor) -> list[Row]:
    """The leaf modules in the order in which they run on `images` (B, C, H, W), one row a call."""
    rows: list[Row] = []
    counted: set[nn.Parameter] = set()  # shared weights count once

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        own = [parameter for parameter in module.parameters(recurse=False) if parameter not in counted]
        counted.update(own)
        rows.append(
            Row(
                type(module).__name__,
                tuple(output.shape[1:]),
                sum(parameter.numel() for parameter in own),
                bool(own) and own[0].requires_grad,
                _macs(module, output),
            )
        )

    hooks = [module.register_forward_hook(record) for module in model.modules() if _is_row(module)]
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(images)
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    return rows


def _is_row(module: nn.Module) -> bool:
    """Leaf modules that compute something: not an empty Sequential, not a block that only passes maps on."""
    if any(True for _ in module.children()) or isinstance(module, nn.Sequential):
        return False
    return module.summary_row if isinstance(module, Block) else True


def _macs(module: nn.Module, output: Tensor) -> int:
    """Multiply-adds for one image; only convolutions and linear layers count, as is customary."""
    return uses(module, output) * module.weight.numel() if isinstance(module, nn.Conv2d | nn.Linear) else 0


def uses(layer: nn.Conv2d | nn.Linear, output: Tensor) -> int:
    """How many multiply-adds each weight of a layer does for one image: the cells of its output (B, C, ...)."""
    return output[0].numel() // len(layer.weight)


def format_table(rows: list[Row], input_shape: tuple[int, ...]) -> str:
    """The table and totals, float32 sizes in MB (2^20 bytes), and the GFLOPs (2 per multiply-add, one image)."""
    lines = [RULE, f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}", "=" * 64]
    for number, row in enumerate(rows, start=1):
        shape = str([-1, *row.shape])
        lines.append(f"{f'{row.name}-{number}':>20}  {shape:>25} {f'{row.parameters:,}':>15}")
    total = sum(row.parameters for row in rows)
    trainable = sum(row.parameters for row in rows if row.trainable)
    megabytes = 4 / 2**20
    input_size = math.prod(input_shape) * megabytes
    maps_size = 2 * sum(math.prod(row.shape) for row in rows) * megabytes  # forward and backward
    params_size = total * megabytes
    lines += [
        "=" * 64,
        f"Total params: {total:,}",
        f"Trainable params: {trainable:,}",
        f"Non-trainable params: {total - trainable:,}",
        RULE,
        f"Input size (MB): {input_size:.2f}",
        f"Forward/backward pass size (MB): {maps_size:.2f}",
        f"Params size (MB): {params_size:.2f}",
        f"Estimated Total Size (MB): {input_size + maps_size + params_size:.2f}",
        RULE,
        f"GFLOPs: {gflops(rows):.3f}",
    ]
    return "\n".join(lines)


def gflops(rows: list[Row]) -> float:
    """Billions of floating-point operations for one image, 2 for each multiply-add of a convolution."""
    return 2 * sum(row.macs for row in rows) / 1e9
