"""Live pictures: cameras and network streams, read by a thread each that never falls behind, and the screen.

A thread keeps only its newest frame; one that nobody took in time is dropped and counted. A stream that ends is opened
again, after a pause that doubles up to half a minute, until it is back.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageGrab

from utils.data.frames import Frame, VideoInfo, is_address, open_capture, public_name, video_info
from utils.errors import DataError
from utils.log import warn
from utils.threads import ReadingThread

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a lost stream is tried again


class _Reader(ReadingThread):
    """Reads one stream; `news` guards what it shares."""

    def __init__(self, source: str, path: str, stride: int, news: threading.Condition) -> None:
        super().__init__(f"stream {path}")
        self.source, self.path, self.stride, self.news = source, path, stride, news
        self.newest: Frame | None = None
        self.dropped = self.count = 0
        self.start_time: float | None = None  # of the first frame
        self.tried, self.ending = threading.Event(), threading.Event()
        self.works = False

    def run(self) -> None:
        pause = FIRST_PAUSE
        while not self.ending.is_set():
            capture, before = None, self.count
            try:
                capture = self._open()
                self.works = self.works or capture.isOpened()
                self.tried.set()
                self._read(capture)
            except cv2.error:
                pass  # as if it had ended
            finally:
                self.tried.set()
                if capture is not None:
                    capture.release()
            if self.count > before:
                pause = FIRST_PAUSE
            if pause == FIRST_PAUSE and not self.ending.is_set() and self.works:
                warn(f"{self.path}: no more frames; trying to open it again until it is back")
            self.ending.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _open(self) -> Any:
        capture = open_capture(self.source) if is_address(self.source) else cv2.VideoCapture(int(self.source))
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # of cameras: an old picture is of no use
        return capture

    def _read(self, capture: Any) -> None:
        """Until there is no frame any more."""
        video, back = replace(video_info(capture), live=True), self.count > 0
        while not self.ending.is_set() and capture.grab():
            self.count += 1
            if back:
                warn(f"{self.path}: is back")
                back = False
            if (self.count - 1) % self.stride:
                continue
            before = time.perf_counter()
            success, image = capture.retrieve()
            if not success:
                return
            read_ms = (time.perf_counter() - before) * 1000
            self.start_time = time.monotonic() if self.start_time is None else self.start_time
            seconds = time.monotonic() - self.start_time
            with self.news:
                self.dropped += self.newest is not None
                self.newest = Frame(image, self.path, self.count - 1, video, seconds, read_ms)
                self.news.notify()


class Streams:
    """Cameras, by number, and addresses, side by side: whichever has a new frame is next."""

    live, length = True, None

    def __init__(self, sources: Sequence[str], stride: int = 1) -> None:
        self.sources, self.stride = list(dict.fromkeys(sources)), stride
        self.problems = self.dropped = 0

    def frames(self) -> Iterator[Frame]:
        """Without end; close the iterator to release the streams. Raises `DataError` if none can be opened."""
        news = threading.Condition()
        names = _own_names([f"camera {name}" if name.isdecimal() else public_name(name) for name in self.sources])
        readers = [_Reader(source, name, self.stride, news) for source, name in zip(self.sources, names, strict=True)]
        try:
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.tried.wait()
            failed = [reader for reader in readers if not reader.works]
            self.problems = len(failed)
            if len(failed) == len(readers):
                what = "camera" if len(readers) == 1 and self.sources[0].isdecimal() else "stream"
                raise DataError(
                    f"{', '.join(reader.path for reader in readers)}: no such {what}, or it cannot be opened"
                )
            for reader in failed:
                warn(f"{reader.path}: cannot be opened; trying again")
            while True:
                with news:
                    while not (ready := [reader for reader in readers if reader.newest is not None]):
                        news.wait(0.5)  # with a limit, so that Ctrl-C is heard
                    reader = ready[0]
                    frame, reader.newest = reader.newest, None
                    self.dropped = sum(reader.dropped for reader in readers)
                readers.append(readers.pop(readers.index(reader)))  # behind the others next time
                assert frame is not None
                yield frame
        finally:
            for reader in readers:
                reader.ending.set()
            for reader in readers:
                if reader.ident is not None:
                    reader.join(1)  # one that waits for its stream releases it when that is over


def _own_names(names: Sequence[str]) -> list[str]:
    """Two accounts at one address are two streams."""
    return [name if name not in names[:place] else f"{name}#{place + 1}" for place, name in enumerate(names)]


class Screen:
    """What the screen shows, `screen`, or a part of it in pixels, `screen:x,y,w,h`, each time it is asked."""

    live, length, problems, dropped = True, None, 0, 0

    def __init__(self, source: str) -> None:
        self.source = source
        self.region: tuple[int, int, int, int] | None = None
        if source != "screen":
            parts = source.removeprefix("screen:").split(",")
            if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
                raise DataError(f"{source}: expected screen or screen:x,y,w,h in pixels")
            x, y, width, height = (int(part) for part in parts)
            if not width or not height:
                raise DataError(f"{source}: expected a width and a height above 0")
            self.region = x, y, x + width, y + height

    def frames(self) -> Iterator[Frame]:
        """Without end."""
        start, index = time.monotonic(), 0
        while True:
            before = time.perf_counter()
            image = cv2.cvtColor(np.asarray(self._grab().convert("RGB")), cv2.COLOR_RGB2BGR)
            video = VideoInfo(25.0, image.shape[1], image.shape[0], None, live=True)
            read_ms = (time.perf_counter() - before) * 1000
            yield Frame(image, self.source, index, video, time.monotonic() - start, read_ms)
            index += 1

    def _grab(self) -> Image.Image:
        try:
            return ImageGrab.grab(self.region)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.source}: the screen cannot be read here ({error})") from None
