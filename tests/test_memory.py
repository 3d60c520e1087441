"""How much memory there is and what a run takes of it."""

from pathlib import Path

import psutil
import pytest

from utils import memory
from utils.errors import InputError
from utils.memory import available_bytes, check_memory, size_words, tree_bytes


def container(folder: Path, limit: str, used: int, file_pages: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {file_pages}\n")


def test_the_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = psutil.virtual_memory().available
    assert available_bytes() == pytest.approx(free, rel=0.2)  # no container
    container(tmp_path, "max", 10, 0)
    assert available_bytes() == pytest.approx(free, rel=0.2)
    container(tmp_path, "5000", 4000, 300)
    assert available_bytes() == 1300


def test_too_much_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**9)
    check_memory(700_000_000, "it", "less")
    with pytest.raises(InputError, match=r"it needs 900 MB, 1\.0 GB are free: take less"):
        check_memory(900_000_000, "it", "take less")


def test_this_process_takes_some() -> None:
    own = psutil.Process().memory_info().rss
    assert 0.3 * own < tree_bytes() < 3 * own


def test_words() -> None:
    assert [size_words(number) for number in (12_345_678, 999e6, 3.21e9)] == ["12 MB", "999 MB", "3.2 GB"]
