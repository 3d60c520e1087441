"""Reading ahead and writing behind: order, bounds, errors and ends."""

import threading
import time
from collections.abc import Iterator

import pytest

from utils.inference.pipeline import Behind, ahead


def test_ahead_gives_the_same_items_and_only_some_of_them_early() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    taken = []
    for number in ahead(items(), 3):
        taken.append(number)
        time.sleep(0.001)
        assert len(made) - len(taken) <= 5  # three waiting, one in each hand
    assert taken == list(range(50))


def test_aheads_errors_come_out() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("x")

    each = ahead(items(), 3)
    assert next(each) == 1
    with pytest.raises(KeyError):
        next(each)


def test_closing_ends_the_thread_and_the_items() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    each = ahead(items(), 3)
    assert next(each) == 1
    each.close()  # type: ignore[attr-defined]
    assert closed.is_set() and not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def test_behind_works_in_order_and_to_the_end() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.001)
        done.append(item)

    with Behind(work, 2) as behind:
        for number in range(20):
            behind.put(number)
    assert done == list(range(20))


def test_behinds_errors_come_out_and_nothing_hangs() -> None:
    def work(item: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind(work, 1) as behind:
        for number in range(100):
            behind.put(number)
    with pytest.raises(OSError, match="disk full"), Behind(work, 5) as behind:
        behind.put(1)


def test_behind_does_nothing_after_an_error() -> None:
    """After a failed write, queued writes are dropped: on a full disk they would fail, too."""
    done: list[int] = []
    begun = threading.Event()

    def work(item: int) -> None:
        done.append(item)
        if item == 1:
            begun.wait(5)  # until the others wait
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind(work, 5) as behind:
        for number in range(5):
            behind.put(number)
        begun.set()
    assert done == [0, 1]
