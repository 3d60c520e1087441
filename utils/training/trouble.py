"""What goes wrong with memory and processes in a training, said as one line with what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.errors import DataError, InputError, Stopped
from utils.memory import check_memory, shared_memory_words
from utils.training.stop import StopRequest

WORKER_BYTES = 150 * 10**6  # a generous share for each loading process: of its own it took 20 MB, the rest is shared
AHEAD = 3  # batches that each of them holds


@contextmanager
def explained(batch_size: int, stop: StopRequest) -> Iterator[None]:
    """Turn exhausted memory and lost loading processes into InputError; after a signal, a lost process is Stopped."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise InputError(f"GPU memory is exhausted: {_smaller(batch_size)}, or --autobatch") from None
    except MemoryError:
        raise InputError(f"memory is exhausted: {_smaller(batch_size)}") from None
    except DataError as error:  # from a loading process it comes with that process's traceback
        raise DataError(str(error).strip().rpartition("\n")[2].rpartition("DataError: ")[2]) from None
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            if stop.number:
                raise Stopped(stop.number, whole=False) from None
            if words := shared_memory_words(error):
                raise InputError(words) from None
            raise InputError(
                "a process that loads images was killed, most likely by the system for lack of memory: try fewer "
                "--workers, --cache off or disk, or a smaller --batch-size"
            ) from None
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise InputError(f"memory is exhausted: {_smaller(batch_size)}") from None
        raise


def _smaller(batch_size: int) -> str:
    if batch_size == 1:
        return "try a smaller --img-size"
    return f"try --batch-size {batch_size // 2} (it was {batch_size}) or a smaller --img-size"


def check_workers(workers: int, batch_size: int, size: tuple[int, int], processes: int) -> None:
    """Raise InputError when the loading processes would not fit into memory."""
    needed = workers * processes * (WORKER_BYTES + AHEAD * batch_size * size[0] * size[1] * 3)
    check_memory(needed, f"--workers {workers}", "take fewer --workers or a smaller --batch-size")
