"""A video file of annotated frames: H.264 in mp4, which plays everywhere, at the times of the source's frames."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.data.frames import VideoInfo
from utils.errors import DataError, InputError

# Fragments while it is written, so that what a killed run leaves can be played; closing makes an ordinary file of them.
FLAGS = ("hybrid_fragmented", "frag_every_frame", "default_base_moof", "negative_cts_offsets")  # the last: starts at 0
FRAGMENTS = {"movflags": "+".join(FLAGS), "flush_packets": "1"}
H264 = {"preset": "veryfast", "crf": "20"}
MPEG4 = {"qmin": "2", "qmax": "4"}


class VideoFile:
    """An mp4 that can be played at any time, up to the last frames that the encoder still holds; `close` adds them."""

    def __init__(self, path: Path, video: VideoInfo, size: tuple[int, int]) -> None:
        """`size` is (width, height) of the pictures. Raises InputError without the package av."""
        try:
            import av
        except ImportError:
            raise InputError("writing a video: expected the package av (pip install av), or --nosave") from None
        self.path, self.size = path, size
        self.av: Any = av
        self.container: Any = self.av.open(str(path), "w", options=FRAGMENTS)
        even = not (size[0] % 2 or size[1] % 2)
        # H.264's usual form has half the colour resolution, so it needs even sides
        codec, clock, options = ("libx264", 90_000, H264) if even else ("mpeg4", 60_000, MPEG4)
        self.step = Fraction(1, clock)
        self.stream: Any = self.container.add_stream(
            codec, rate=Fraction(video.fps).limit_denominator(1000), options=options
        )
        self.stream.width, self.stream.height = size
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = self.step
        self.last = -1

    def write(self, picture: np.ndarray, seconds: float) -> None:
        """Add an (H, W, 3) BGR picture, shown from `seconds` on; one of another size is scaled to the first's."""
        if (picture.shape[1], picture.shape[0]) != self.size:
            picture = cv2.resize(picture, self.size, interpolation=cv2.INTER_AREA)
        frame = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
        self.last = max(self.last + 1, round(seconds / self.step))  # times must rise
        frame.pts, frame.time_base = self.last, self.step
        self._mux(frame)

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self.stream.encode(frame):
                self.container.mux(packet)
        except self.av.error.FFmpegError as error:
            raise DataError(f"{self.path}: cannot be written ({error})") from None

    def close(self) -> None:
        """Finish the file; where that fails, what was written before stays."""
        try:
            self._mux(None)
            self.container.close()
        except self.av.error.FFmpegError as error:
            raise DataError(f"{self.path}: cannot be written ({error})") from None
