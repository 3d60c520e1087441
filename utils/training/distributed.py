"""Several processes, one training: torchrun starts them, each takes its share of every batch, rank 0 writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import InputError, Stopped

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # a rank that waits longer than this for another gives up


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them; `local` counts on this machine, of which `local_world` are here."""

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """Its mean over all processes."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.world == 1:
            return number
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        value = torch.tensor(number, device=device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The block runs on rank 0 first, then on one process of every other machine, then on the rest.

        So a file is written once, whether the machines share a disk or not.
        """
        mine = 0 if self.first else 1 if self.local == 0 else 2
        for turn in range(3):
            if turn == mine:
                yield
            if self.world > 1:
                dist.barrier()

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in their order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def share(self, value: T) -> T:
        """Rank 0's value."""
        if self.world == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def average_statistics(self, *models: nn.Module) -> None:
        """Make the models' running statistics, which each rank gathers from its own images, the ranks' mean."""
        for model in models if self.world > 1 else ():
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.mean(buffer))

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model as one of several replicas that average their gradients."""
        if self.world == 1:
            return model
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

    def unwrap(self, model: nn.Module) -> nn.Module:
        """What `wrap` was given."""
        return model if self.world == 1 else cast(nn.Module, model.module)


@contextmanager
def join_ranks(device: str) -> Iterator[tuple[Ranks, str]]:
    """Join the processes that torchrun started, if it did: this one's Ranks and its device's name.

    GPUs talk over NCCL, CPUs over gloo.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks(), device
        return
    number = {key: int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    ranks = Ranks(number["RANK"], number["WORLD_SIZE"], number["LOCAL_RANK"], number["LOCAL_WORLD_SIZE"])
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        if ranks.local >= torch.cuda.device_count():
            raise InputError(
                f"{ranks.local_world} processes here: expected at most one per GPU, {torch.cuda.device_count()}"
            )
        device = f"cuda:{ranks.local}"
        torch.cuda.set_device(ranks.local)
    elif device not in {"auto", "cpu"}:
        raise InputError(f"--device {device}: expected auto, cuda or cpu under torchrun, which gives each its own")
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield ranks, device
    except Stopped as stopped:
        if stopped.whole:
            _leave()
        raise
    _leave()  # not after an error: the other ranks wait elsewhere, and torchrun ends them once this one is gone


def _leave() -> None:
    """End the group when every rank is ready to."""
    dist.barrier()
    dist.destroy_process_group()
