"""Seconds: of a device that has really done its work, and of the cores."""

import time

import torch


def now(device: torch.device) -> float:
    """`time.perf_counter()` once all that a GPU was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


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
