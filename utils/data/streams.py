"""Live pictures: cameras and network streams, read by a thread each that never falls behind, and the screen.

A thread keeps only its newest frame; one that nobody took in time is dropped and counted. A stream that ends is opened
again, after a pause that doubles up to half a minute, until it is back.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageGrab

from utils.data.frames import Frame, VideoInfo, is_address, open_capture, public_name, video_info
from utils.errors import DataError
from utils.log import warn

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a lost stream is tried again


def _open(source: str) -> Any:
    capture = open_capture(source) if is_address(source) else cv2.VideoCapture(int(source))
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # of cameras: an old picture is of no use
    return capture


class _Reader(threading.Thread):
    """Reads one stream; `news` guards what it shares."""

    def __init__(self, source: str, stride: int, news: threading.Condition) -> None:
        super().__init__(daemon=True, name=f"stream {public_name(source)}")
        self.source, self.stride, self.news = source, stride, news
        self.path = f"camera {source}" if source.isdecimal() else public_name(source)
        self.newest: Frame | None = None
        self.dropped = 0
        self.ending = threading.Event()
        self.capture = _open(source)
        self.works = self.capture.isOpened()

    def run(self) -> None:
        start, count = time.monotonic(), 0
        while not self.ending.is_set():
            video = video_info(self.capture)
            video = VideoInfo(video.fps, video.width, video.height, None)
            while not self.ending.is_set() and self.capture.grab():
                count += 1
                if (count - 1) % self.stride:
                    continue
                before = time.perf_counter()
                success, image = self.capture.retrieve()
                if not success:
                    break
                read_ms = (time.perf_counter() - before) * 1000
                frame = Frame(image, self.path, count - 1, video, time.monotonic() - start, read_ms)
                with self.news:
                    self.dropped += self.newest is not None
                    self.newest = frame
                    self.news.notify()
            self._open_again()
        self.capture.release()

    def _open_again(self) -> None:
        pause = FIRST_PAUSE
        while not self.ending.is_set():
            self.capture.release()
            if pause == FIRST_PAUSE:
                warn(f"{self.path}: no more frames; trying to open it again until it is back")
            if self.ending.wait(pause):
                return
            self.capture = _open(self.source)
            if self.capture.isOpened():
                warn(f"{self.path}: is back")
                return
            pause = min(2 * pause, LONGEST_PAUSE)


class Streams:
    """Cameras, by number, and addresses, side by side: whichever has a new frame is next."""

    live, length = True, None

    def __init__(self, sources: Sequence[str], stride: int = 1) -> None:
        self.sources, self.stride = list(dict.fromkeys(sources)), stride
        self.problems = self.dropped = 0

    def frames(self) -> Iterator[Frame]:
        """Without end; close the iterator to release the streams. Raises `DataError` if none can be opened."""
        news = threading.Condition()
        readers = [_Reader(source, self.stride, news) for source in self.sources]
        failed = [reader for reader in readers if not reader.works]
        self.problems = len(failed)
        if len(failed) == len(readers):
            what = "camera" if len(readers) == 1 and self.sources[0].isdecimal() else "stream"
            raise DataError(f"{', '.join(reader.path for reader in readers)}: no such {what}, or it cannot be opened")
        for reader in failed:
            warn(f"{reader.path}: cannot be opened; trying again")
        try:
            for reader in readers:
                reader.start()
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
            video = VideoInfo(25.0, image.shape[1], image.shape[0], None)
            read_ms = (time.perf_counter() - before) * 1000
            yield Frame(image, self.source, index, video, time.monotonic() - start, read_ms)
            index += 1

    def _grab(self) -> Image.Image:
        try:
            return ImageGrab.grab(self.region)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.source}: the screen cannot be read here ({error})") from None
