"""What changes from step to step: the learning rate, the momentum and the averaged weights."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
ScheduleName = Literal["cosine", "linear"]

WARMUP_STEPS = 100  # at least
WARMUP_SHARE = 0.2  # of the whole training, at most
WARMUP_MOMENTUM = 0.8  # SGD's at the first step, at most


@dataclass(frozen=True)
class ScheduleOptions:
    """Shape of the learning rate over a training."""

    lr: float = 0.004
    final: float = 0.05  # the share of the learning rate that is left at the end
    warmup_epochs: float = 3.0
    shape: ScheduleName = "cosine"


class Schedule:
    """Linear warm-up, then a cosine or a line down to the final share.

    Set before each optimizer step. While warming up, SGD's momentum rises from 0.8 to its own, if that is higher.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, options: ScheduleOptions, epochs: int, steps: int) -> None:
        self.optimizer, self.options = optimizer, options
        self.total = epochs * steps
        wanted = max(options.warmup_epochs * steps, WARMUP_STEPS if options.warmup_epochs else 0)
        self.warmup = max(1, int(min(wanted, WARMUP_SHARE * self.total)))
        self.momenta = [group.get("momentum") for group in optimizer.param_groups]

    def factor(self, step: int) -> float:
        """The learning rate at step 0, 1, ... as a share of the highest."""
        final, done = self.options.final, step / self.total
        shape = 1 - done if self.options.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return (final + (1 - final) * shape) * min(1.0, (step + 1) / self.warmup)

    @property
    def rate(self) -> float:
        """The learning rate that is set, as a share of the highest."""
        return self.optimizer.param_groups[0]["lr"] / self.options.lr

    def set(self, step: int) -> float:
        """Set the optimizer for step 0, 1, ... and return the learning rate."""
        lr = self.options.lr * self.factor(step)
        warmth = min(1.0, (step + 1) / self.warmup)
        for group, momentum in zip(self.optimizer.param_groups, self.momenta, strict=True):
            group["lr"] = lr
            if momentum is not None and isinstance(self.optimizer, torch.optim.SGD):
                first = min(WARMUP_MOMENTUM, momentum)
                group["momentum"] = first + (momentum - first) * warmth
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

    def state_dict(self) -> dict[str, Any]:
        """Averaged tensors and how many updates went in."""
        return {"tensors": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.model.load_state_dict(state["tensors"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> list[Tensor]:
    """The state's tensors, those that layers share (`share_index`) once."""
    tensors: Iterable[Tensor] = model.state_dict().values()
    return list({tensor.data_ptr(): tensor.detach() for tensor in tensors}.values())
