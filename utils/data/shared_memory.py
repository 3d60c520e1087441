"""Shared memory, through which loading processes hand over their batches: containers have little of it (64 MB)."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.log import warn
from utils.memory import SHARED_MEMORY_ADVICE, size_words

SHARED = Path("/dev/shm")
PLENTY = 2**30  # bytes, with which nothing is counted
HELD = 3  # batches a process: two that wait, one in the making
SHARE = 0.8  # of what is free


def fitting_workers(workers: int, make_batch: Callable[[], Any]) -> int:
    """How many of `workers` loading processes the shared memory has room for, with a warning where that is fewer.

    With 0, images are loaded in the main process, which needs none. `make_batch` makes a batch, to see its size.
    """
    if not workers or not SHARED.exists():  # other systems have it elsewhere
        return workers
    first_here = os.environ.get("LOCAL_RANK", "0") == "0"  # each machine has a memory of its own
    if not os.access(SHARED, os.W_OK):
        warn(f"{SHARED} cannot be written: the main process loads the images; {SHARED_MEMORY_ADVICE}", first_here)
        return 0
    free = shutil.disk_usage(SHARED).free
    if free >= PLENTY:
        return workers
    fitting = min(workers, int(SHARE * free / (HELD * len(pickle.dumps(make_batch())))))
    if fitting < workers:
        where = (
            f"{fitting} instead of {workers} loading processes" if fitting else "images are loaded in the main process"
        )
        warn(f"{SHARED} has {size_words(free)} of shared memory free: {where}; {SHARED_MEMORY_ADVICE}", first_here)
    return fitting
