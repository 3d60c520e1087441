"""In which numbers the network is computed. Free of torch until it is asked."""

from typing import TYPE_CHECKING, Literal

from utils.errors import InputError

if TYPE_CHECKING:
    import torch

AmpMode = Literal["auto", "off", "bf16", "fp16"]
"""What --amp says, of training."""
ComputePrecision = Literal["auto", "f32", "bf16"]
"""What --precision says, of running a trained network."""
PRECISION_NAMES = {"f32": "float32", "bf16": "bfloat16"}


def choose_precision(mode: AmpMode, device: "torch.device") -> "torch.dtype | None":
    """The autocast type of a training, None for float32.

    `auto`: bfloat16 where it is several times as fast, float16 on other GPUs, else float32. Raises InputError for
    float16 on a CPU, where it is slow and gradients cannot be trusted.
    """
    import torch  # here, so that exported networks run without it

    if mode == "off":
        return None
    if mode == "fp16":
        if device.type != "cuda":
            raise InputError("--amp fp16: expected a GPU; on a CPU use bf16 or off")
        return torch.float16
    if mode == "bf16":
        return torch.bfloat16
    if fast_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else None


def inference_precision(precision: ComputePrecision, half: bool, device: "torch.device") -> "torch.dtype | None":
    """The autocast type that --precision and --half ask for; None, float32, where neither does.

    `half`: bfloat16, on GPUs without it float16. Raises InputError where the device would only emulate it.
    """
    import torch

    if half and precision == "f32":
        raise InputError("--half with --precision f32: expected one of them")
    if not half and precision != "bf16":
        return None
    if native_bfloat16(device):
        return torch.bfloat16
    if half and precision == "auto" and device.type == "cuda":
        return torch.float16
    flag, types = ("--half", "bfloat16 or float16") if precision == "auto" else ("--precision bf16", "bfloat16")
    raise InputError(f"{flag}: expected a device with native {types}; this {device} would be slower")


def native_bfloat16(device: "torch.device") -> bool:
    """Whether the device computes bfloat16 itself: a GPU that can, a CPU with AVX512-BF16 or AMX; else it is slower."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return fast_bfloat16(device) or (device.type == "cpu" and cpu_capabilities().get("avx512_bf16", False))


def fast_bfloat16(device: "torch.device") -> bool:
    """Whether bfloat16 is several times as fast as float32: a GPU that has it, a CPU with AMX."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = cpu_capabilities()
    return device.type == "cpu" and known.get("amx_bf16", known.get("amx_tile", False))


def cpu_capabilities() -> dict[str, bool]:
    """What the CPU can do, by torch's names of it; empty for versions of torch that do not tell."""
    import torch

    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return known


def precision_words(dtype: "torch.dtype | None") -> str:
    """`bfloat16`, `float16 (scaled)` or `float32`."""
    import torch

    return {torch.bfloat16: "bfloat16", torch.float16: "float16 (scaled)", None: "float32"}[dtype]
