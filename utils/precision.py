"""In which numbers the network is computed."""

from typing import Literal

import torch

from utils.errors import InputError

AmpMode = Literal["auto", "off", "bf16", "fp16"]


def choose_precision(mode: AmpMode, device: torch.device) -> torch.dtype | None:
    """The autocast type, None for float32. `auto`: bfloat16 where native, float16 on other GPUs, else float32.

    Raises InputError for float16 on a CPU, where it is slow and gradients cannot be trusted.
    """
    if mode == "off":
        return None
    if mode == "fp16":
        if device.type != "cuda":
            raise InputError("--amp fp16: expected a GPU; on a CPU use bf16 or off")
        return torch.float16
    if mode == "bf16":
        return torch.bfloat16
    if native_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else None


def half_precision(device: torch.device) -> torch.dtype:
    """The fastest type of 16 bits for inference. Raises InputError where the device has none natively."""
    dtype = choose_precision("auto", device)
    if dtype is None:
        raise InputError(f"--half: expected a device with native bfloat16 or float16; this {device} would be slower")
    return dtype


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 itself: several times faster than float32 there, else slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and bool(capabilities.get("amx_bf16", capabilities.get("amx_tile")))


def precision_words(dtype: torch.dtype | None) -> str:
    """`bfloat16`, `float16 (scaled)` or `float32`."""
    return {torch.bfloat16: "bfloat16", torch.float16: "float16 (scaled)", None: "float32"}[dtype]
