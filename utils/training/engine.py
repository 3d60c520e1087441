"""One epoch of training."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import psutil
import torch
from torch import Tensor, nn

from utils.log import progress
from utils.memory import size_words
from utils.training.distributed import Ranks
from utils.training.guard import Guard
from utils.training.schedule import Average, Schedule
from utils.training.stop import StopRequest


@dataclass
class Totals:
    """What an epoch adds up: the parts of the loss, steps, images; and the step it has come to."""

    losses: Tensor = field(default_factory=lambda: torch.zeros(()))
    measured: int = 0
    """Steps whose losses were finite."""
    steps: int = 0
    images: int = 0
    lr: float = 0.0
    seconds: float = 0.0

    def add(self, losses: Tensor) -> None:
        """Add a step's losses, unless they are not finite."""
        if losses.isfinite().all():
            self.losses = self.losses + losses
            self.measured += 1

    def means(self, parts: Sequence[str]) -> dict[str, float]:
        """The mean of each part of the loss, of the steps so far."""
        means = (self.losses / max(self.measured, 1)).expand(len(parts))
        return dict(zip(parts, means.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(vars(self))


def network_of(model: nn.Module) -> nn.Module:
    """The network itself, out of all that wraps it as `module`: for several processes, with a teacher."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


class Regulariser(Protocol):
    """What changes weights after the optimizer has, and has a state of its own."""

    def step(self, rate: float) -> None:
        """Change them; `rate` is the learning rate as a share of the highest."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, as plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""


@dataclass
class Trainee:
    """All that a step changes, and how it is computed. `model` may wrap the network, see `network_of`.

    `criterion(outputs, targets, (height, width))` is the loss and its parts, named by `criterion.parts`.
    """

    model: nn.Module
    criterion: Any
    schedule: Schedule
    average: Average[Any]
    guard: Guard
    scaler: torch.amp.GradScaler
    dtype: torch.dtype | None
    clip: float = 10.0
    accumulate: int = 1
    frozen: Sequence[nn.Module] = ()
    ranks: Ranks = field(default_factory=Ranks)
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda images, targets: (images.float() / 255, targets)
    """From a batch, images (B, C, H, W) uint8 and their targets, to what model and criterion take."""
    regulariser: Regulariser | None = None
    fresh: bool = True
    """No gradients have been added since the last change."""

    def train_mode(self) -> None:
        """Training mode for all but the frozen blocks."""
        self.model.train()
        for block in self.frozen:
            block.eval()

    def gradients(self, images: Tensor, targets: Tensor, update: bool = True) -> tuple[Tensor, Tensor]:
        """Add the gradients of a batch, images (B, C, H, W) uint8 and their targets: its loss, and the parts.

        `update` says that `change` comes next, so that several processes must average their gradients now.
        """
        device = next(self.model.parameters()).device
        images, targets = self.prepare(images.to(device, non_blocking=True), targets.to(device, non_blocking=True))
        if self.fresh:
            self.guard.remember_statistics()
            self.fresh = False
        waits = nullcontext() if update or self.ranks.world == 1 else cast(Any, self.model).no_sync()
        with waits:
            with torch.autocast(device.type, self.dtype, enabled=self.dtype is not None):
                raw = self.model(images)
            loss, parts = self.criterion(raw, targets, tuple(images.shape[2:]))
            self.scaler.scale(loss / self.accumulate).backward()
        return loss.detach(), parts

    def change(self, loss: Tensor) -> bool:
        """Change the weights by the gradients, unless these or the loss are not finite: then nothing changes, False."""
        optimizer = self.schedule.optimizer
        self.scaler.unscale_(optimizer)
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.clip or float("inf"))
        finite = self.guard.finite(self.ranks.mean(loss), norm)
        if finite:
            self.scaler.step(optimizer)
            if self.regulariser is not None:
                self.regulariser.step(self.schedule.rate)
            self.average.update(network_of(self.model))
        else:
            self.guard.restore_statistics()
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        self.fresh = True
        return finite


def train_one_epoch(
    trainee: Trainee, loader: Any, epoch: int, totals: Totals, stop: StopRequest, description: str, names: Sequence[Any]
) -> None:
    """Train on the batches that are left of an epoch, adding to `totals`. `names` are the data set's image files.

    Raises InputError after too many steps that were not finite, and Stopped after the step in which a signal came.
    """
    trainee.train_mode()
    steps = totals.steps + len(loader)
    bar = progress(loader, description, unit="batch", total=steps, initial=totals.steps)
    start = totals.images
    for images, targets, sources in bar:
        lr = totals.lr = trainee.schedule.set(epoch * steps + totals.steps)
        update = (totals.steps + 1) % trainee.accumulate == 0 or totals.steps + 1 == steps
        loss, losses = trainee.gradients(images, targets, update)
        finite = not update or trainee.change(loss)
        totals.steps += 1
        totals.images += len(images)
        if finite:
            totals.add(losses.cpu())
        if update:
            trainee.guard.count(finite, epoch, totals.steps, lr, [names[index] for index in sources])
        rate = (totals.images - start) / max(bar.format_dict["elapsed"], 1e-9)
        means = totals.means(trainee.criterion.parts)
        bar.set_postfix_str(
            " ".join(f"{part} {mean:.4f}" for part, mean in means.items())
            + f", lr {lr:.2g}, {rate:.1f} images/s, {memory_words(losses.device)}",
            refresh=False,
        )
        if update:  # never between gradients that belong together: a checkpoint does not hold them
            stop.check(trainee.ranks)


def memory_words(device: torch.device) -> str:
    """The GPU memory that tensors take, or this process's memory."""
    taken = torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return size_words(taken)
