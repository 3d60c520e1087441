"""Seconds that count what a device has really done."""

import time

import torch


def now(device: torch.device) -> float:
    """`time.perf_counter()` once all that a GPU was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
