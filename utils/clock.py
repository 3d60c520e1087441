"""Seconds: of a device that has really done its work, and of the cores."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def now(device: "torch.device") -> float:
    """`time.perf_counter()` once all that a GPU was given is done."""
    if device.type == "cuda":
        import torch  # here, so that what runs without it starts at once

        torch.cuda.synchronize(device)
    return time.perf_counter()


def duration(work: Callable[[], Any], times: int, device: "torch.device") -> float:
    """Seconds of so many calls in a row, until the device has done them all."""
    start = now(device)
    for _ in range(times):
        work()
    return now(device) - start


class Watch:
    """Seconds since the last look, by the wall and of the cores' time."""

    def __init__(self) -> None:
        self.last = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.thread_time(), time.process_time()

    def lap(self, all_threads: bool = False) -> tuple[float, float]:
        """Wall and CPU time; of this thread alone, since the network's go on spinning for a while after it."""
        last, self.last = self.last, self._now()
        wall, own, process = (now - before for now, before in zip(self.last, last, strict=True))
        return wall, process if all_threads else own
