"""Work that goes on beside the main thread: reading ahead of it and writing behind it, at most a few items apart."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from utils.errors import Stopped
from utils.threads import ReadingThread

T = TypeVar("T")
PATIENCE = 0.2  # seconds after which a waiting thread looks whether it is still needed


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items, made by a thread that is at most `depth` of them ahead; its exceptions come out here.

    Closing this iterator ends the thread and closes `items`.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    ending = threading.Event()

    def put(item: Any) -> None:
        while not ending.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=PATIENCE)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if ending.is_set():
                    break
            put(_END)
        except BaseException as error:
            put(_Failed(error))
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = ReadingThread("ahead", work)
    thread.start()
    try:
        while True:
            try:
                item = ready.get(timeout=PATIENCE)  # with a limit, so that Ctrl-C is heard everywhere
            except queue.Empty:
                continue
            if item is _END:
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        ending.set()
        thread.join(5)


class Behind(Generic[T]):
    """Calls `work` with each item in a thread, in order; a context manager that ends when all are done.

    An exception of `work` is raised by the next `put`, or at the end.
    """

    def __init__(self, work: Callable[[T], None], depth: int) -> None:
        self.work = work
        self.waiting: queue.Queue[Any] = queue.Queue(depth)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True, name="behind")

    def put(self, item: T) -> None:
        """Hand over one item; waits while `depth` of them are waiting."""
        self.waiting.put(item)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        while (item := self.waiting.get()) is not _END:
            if self.error is None:
                try:
                    self.work(item)
                except BaseException as error:
                    self.error = error

    def __enter__(self) -> "Behind[T]":
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.waiting.put(_END)
        try:
            self.thread.join()
        except (
            KeyboardInterrupt,
            Stopped,
        ) as stop:  # a second Ctrl-C: what waits is left, what is being done is finished
            self.error = stop
            self.thread.join()
        if self.error is not None and kind is None:
            raise self.error
