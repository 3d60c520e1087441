"""What changes from step to step: the learning rate and the averaged weights; and the optimizer."""

import copy
import math
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

WARMUP_EPOCHS = 3
WARMUP_STEPS = 100  # at least
WARMUP_SHARE = 0.2  # of the whole training, at most
FINAL_SHARE = 0.05  # of the learning rate, at the end of the cosine


def make_optimizer(model: nn.Module, lr: float, decay: float = 0.01) -> torch.optim.AdamW:
    """AdamW; weight decay on convolution weights only, not on biases and normalisation."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


class Schedule:
    """Linear warm-up of the learning rate, then a cosine to 5 % of it, set before each step."""

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, epochs: int, steps_per_epoch: int) -> None:
        self.optimizer = optimizer
        self.lr = lr
        self.total = epochs * steps_per_epoch
        self.warmup = max(1, min(max(WARMUP_EPOCHS * steps_per_epoch, WARMUP_STEPS), int(WARMUP_SHARE * self.total)))

    def set(self, step: int) -> float:
        """Set the optimizer for step 0, 1, ... and return the learning rate."""
        cosine = FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * step / self.total)) / 2
        lr = self.lr * cosine * min(1.0, (step + 1) / self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr


class Average(Generic[M]):
    """An exponential moving average of the model's weights and statistics, with decay * (1 - exp(-updates / ramp)).

    The defaults average over some 15 steps after 500 and 500 steps after 2,000, so that short trainings profit too.
    """

    def __init__(self, model: M, decay: float = 0.998, ramp: float = 200) -> None:
        self.model: M = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp = decay, ramp
        self.updates = 0

    def update(self, model: nn.Module) -> None:
        """Move towards the model's present weights."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / self.ramp))
        own, new = _tensors(self.model), _tensors(model)
        with torch.no_grad():
            floats = [(a, b) for a, b in zip(own, new, strict=True) if a.is_floating_point()]
            torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)
            for a, b in zip(own, new, strict=True):
                if not a.is_floating_point():
                    a.copy_(b)


def _tensors(model: nn.Module) -> list[Tensor]:
    tensors: Iterable[Tensor] = model.state_dict().values()
    return [tensor.detach() for tensor in tensors]
