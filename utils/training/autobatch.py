"""The batch size that fills a GPU, found by trying."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from utils.errors import InputError

SHARE = 0.67  # of the GPU's memory that a training may fill: some is lost to fragments
SIZES = (1, 2, 4, 8, 16)
LARGEST = 512
BOXES = 20  # an image, in the trial


def fitting_batch(
    model: nn.Module,
    criterion: nn.Module,
    size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype | None,
    channels: int = 3,
) -> int:
    """The largest even batch size whose training step takes two thirds of the GPU's memory, at most 512.

    `size` is (width, height) of the input, `channels` its planes. Raises InputError on a CPU, and where not even one
    image fits.
    """
    if device.type != "cuda":
        raise InputError("--autobatch: expected a GPU; on a CPU give --batch-size")
    total = torch.cuda.get_device_properties(device).total_memory

    def measure(batch: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        _step(model, criterion, (batch, channels, size[1], size[0]), device, dtype)
        return torch.cuda.max_memory_allocated(device)

    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        return extrapolate(measure, SHARE * total)
    finally:
        model.load_state_dict(state)
        model.zero_grad(set_to_none=True)


def extrapolate(measure: Callable[[int], int], limit: float, sizes: Sequence[int] = SIZES) -> int:
    """The largest even batch (or 1) whose memory, a line through the bytes measured at some sizes, is within limit."""
    known: list[tuple[int, int]] = []
    for size in sizes:
        try:
            known.append((size, measure(size)))
        except torch.cuda.OutOfMemoryError:
            break
        if known[-1][1] > limit:
            break
    fitting = [size for size, taken in known if taken <= limit]
    if not fitting:
        raise InputError("--autobatch: not even one image fits into the GPU's memory; take a smaller --img-size")
    if len(known) < 2 or len(known) < len(sizes):
        return fitting[-1]
    (first, low), (last, high) = known[-2:]
    each = max(1.0, (high - low) / (last - first))
    return int(min(LARGEST, last + (limit - high) // each)) // 2 * 2


def _step(
    model: nn.Module,
    criterion: nn.Module,
    shape: tuple[int, int, int, int],
    device: torch.device,
    dtype: torch.dtype | None,
) -> None:
    """One training step on noise of this shape, (B, C, H, W)."""
    batch, _, height, width = shape
    images = torch.rand(shape, device=device).to(memory_format=torch.channels_last)
    targets = torch.rand(batch * BOXES, 6, device=device) * 0.5 + 0.25
    targets[:, 0] = torch.arange(batch, device=device).repeat_interleave(BOXES)
    targets[:, 1] = 0
    model.train()
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        raw = model(images)
    criterion(raw, targets, (height, width))[0].backward()
