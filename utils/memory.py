"""How much memory there is, so that a long run is refused at its start and not killed in its middle."""

from pathlib import Path

import psutil

from utils.errors import InputError

CGROUP = Path("/sys/fs/cgroup")  # version 2: the limit of a container, below the machine's memory

SHARED_MEMORY_ADVICE = "a container has more by --shm-size=8g (or --ipc=host)"


def available_bytes() -> int:
    """Bytes that can be taken now: what the machine has free, or what is left of the container's limit if less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    # File pages count as used there, but give way.
    return min(free, int(limit) - int(used) + _file_pages()) if limit.isdigit() else free


def _file_pages() -> int:
    try:
        fields = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(fields.get("inactive_file", 0))


def check_memory(needed: int, what: str, advice: str, share: float = 0.8) -> None:
    """Raise InputError if `what` takes more than `share` of the memory that is available."""
    available = available_bytes()
    if needed > share * available:
        raise InputError(f"{what} needs {size_words(needed)}, {size_words(available)} are free: {advice}")


def shared_memory_words(error: BaseException) -> str | None:
    """What to do about an error that comes of too little shared memory; None of any other."""
    signs = ("shared memory", "Bus error", "torch_shm")
    if not any(sign in str(error) for sign in signs):
        return None
    return f"shared memory (/dev/shm) is exhausted: {SHARED_MEMORY_ADVICE}, or take fewer --workers (0 needs none)"


def tree_bytes() -> int:
    """Memory of this process and its children, shared pages counted once where the system tells (Linux), else RSS."""
    total = 0
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            info = process.memory_full_info() if hasattr(process, "memory_maps") else process.memory_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(info, "pss", info.rss)
    return total


def size_words(number: float) -> str:
    """`512 MB`, `3.2 GB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
