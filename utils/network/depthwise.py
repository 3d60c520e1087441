"""Depthwise convolutions that a CPU trains slowly in bfloat16."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def spare_depthwise(model: nn.Module) -> None:
    """Compute depthwise convolutions in float32 in the midst of a network in bfloat16, but for 3 x 3 at stride 1.

    For a CPU, in training: their backward pass takes 3 to 24 times as long in bfloat16 (PyTorch 2.15, AVX-512).
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or module.groups == 1 or module.groups < module.in_channels:
            continue
        if max(module.kernel_size) > 3 or max(module.stride) > 1:
            module.forward = partial(_in_float32, module.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float()).to(x.dtype)
