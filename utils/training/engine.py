"""One epoch of training, and in which numbers it is computed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from utils.errors import InputError
from utils.log import progress
from utils.training.schedule import Average, Schedule

MAX_GRADIENT = 10.0  # norm to which gradients are clipped


@dataclass(frozen=True)
class EpochResult:
    """Mean losses of an epoch (weighted parts), its last learning rate, and images trained."""

    box: float
    objectness: float
    classes: float
    lr: float
    images: int


def autocast_type(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device computes it natively (several times faster on such CPUs), else None: float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        torch.bfloat16 if device.type == "cpu" and capabilities.get("amx_bf16", capabilities.get("amx_tile")) else None
    )


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    loader: DataLoader[tuple[Tensor, Tensor]],
    schedule: Schedule,
    average: Average,
    epoch: int,
    description: str,
) -> EpochResult:
    """Train on every batch once. Raises InputError when the loss is no longer finite, before it reaches the weights."""
    model.train()
    device = next(model.parameters()).device
    dtype = autocast_type(device)
    total = torch.zeros(3)
    lr, images_done = 0.0, 0
    bar = progress(loader, description, unit="batch")
    for index, (images, targets) in enumerate(bar):
        lr = schedule.set(epoch * len(loader) + index)
        images = images.to(device, memory_format=torch.channels_last).float() / 255  # (B, 3, H, W)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            raw = model(images)
        loss, parts = criterion(raw, targets.to(device), (images.shape[2], images.shape[3]))
        if not torch.isfinite(loss):
            raise InputError(f"epoch {epoch + 1}, batch {index + 1}: the loss is {loss.item()}; try a smaller --lr")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
        schedule.optimizer.step()
        schedule.optimizer.zero_grad(set_to_none=True)
        average.update(model)
        total += parts.cpu()
        images_done += len(images)
        rate = images_done / max(bar.format_dict["elapsed"], 1e-9)
        box, objectness, classes = (total / (index + 1)).tolist()
        bar.set_postfix_str(f"box {box:.4f} obj {objectness:.4f} cls {classes:.4f}, {rate:.1f} images/s", False)
    box, objectness, classes = (total / len(loader)).tolist()
    return EpochResult(box, objectness, classes, lr, images_done)
