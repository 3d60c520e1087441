"""One picture of a source, and how those of image and video files are read, here or at an address."""

import base64
import http.client
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np

from utils.data.images import IMAGE_SUFFIXES, decode_image, read_image
from utils.errors import DataError
from utils.log import warn

VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
SCHEMES = frozenset({"http", "https", "rtmp", "rtsp", "rtsps", "srt", "tcp", "udp"})
TIMEOUT = 10  # seconds that an address may be silent
MAX_BYTES = 256 * 2**20  # of an image at an address


@dataclass(frozen=True)
class VideoInfo:
    """A video's own figures."""

    fps: float
    """Frames per second; 25 where the source does not say."""
    width: int
    height: int
    frames: int | None
    """How many frames there are, None where the source does not say, and of live ones."""
    live: bool = False
    """Whether it goes on until it is stopped."""


@dataclass(frozen=True)
class Frame:
    """One picture."""

    image: np.ndarray
    """(H, W, 3) uint8, BGR."""
    path: str
    """The file, or the address without its password."""
    index: int | None = None
    """The frame's number in its video or stream, from 0; None for an image file."""
    video: VideoInfo | None = None
    """None for an image file."""
    seconds: float = 0.0
    """Since the first frame: as the video says, else by its rate; of a stream by the clock."""
    read_ms: float = 0.0
    """What reading and decoding took."""


def is_address(source: str) -> bool:
    """Whether a source is a URL."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


def suffix_of(source: str) -> str:
    """`.jpg`, of a path or of a URL's path, in lower case."""
    return PurePath(urllib.parse.urlsplit(public_name(source)).path if is_address(source) else source).suffix.lower()


def is_file_name(source: str) -> bool:
    """Whether the name says image or video file."""
    return suffix_of(source) in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def public_name(source: str) -> str:
    """An address without user and password; all else as it is."""
    if not is_address(source):
        return source
    try:
        parts = urllib.parse.urlsplit(source)
    except ValueError as error:
        raise DataError(f"{source.rpartition('@')[2]}: not an address ({error})") from None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def read_frames(source: str, stride: int = 1) -> Iterator[Frame]:
    """The frame of an image file, or every `stride`th of a video's, up to the first that cannot be decoded.

    Raises `DataError` if there is none.
    """
    if suffix_of(source) in VIDEO_SUFFIXES:
        yield from _video_frames(source, stride)
        return
    start = time.perf_counter()
    image = decode_image(_fetch(source), public_name(source)) if is_address(source) else read_image(source)
    yield Frame(image, public_name(source), read_ms=(time.perf_counter() - start) * 1000)


def is_image_address(address: str) -> bool:
    """Whether an http server says that an image is behind an address, whatever its name."""
    if not address.lower().startswith(("http://", "https://")):
        return False
    try:
        with _request(address) as answer:
            return str(answer.headers.get_content_type()).startswith("image/")
    except (OSError, ValueError, http.client.HTTPException):
        return False  # what is wrong, opening it will tell


def _fetch(address: str) -> np.ndarray:
    """The bytes behind an http address."""
    name = public_name(address)
    try:
        with _request(address) as answer:
            content = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(f"{name}: cannot be fetched ({error})") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{name}: expected an image of at most {MAX_BYTES >> 20} MB")
    return np.frombuffer(content, np.uint8)


def _request(address: str) -> Any:
    """The open answer of an http server; user and password go to it alone, not to where it may point on."""
    name, parts = public_name(address), urllib.parse.urlsplit(address)
    request = urllib.request.Request(urllib.parse.quote(name, safe="/:?&=%+,;@#~$!*'()[]"))
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def open_capture(source: str) -> cv2.VideoCapture:
    """A video file or an address, opened; or not, which its `isOpened` tells."""
    if not is_address(source):
        return cv2.VideoCapture(source)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT * 1000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT * 1000]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def _video_frames(source: str, stride: int) -> Iterator[Frame]:
    capture = open_capture(source)
    name, index, seconds = public_name(source), 0, -1.0
    try:
        video = replace(video_info(capture), frames=_stated_frames(source))
        start = time.perf_counter()
        while capture.grab():
            said = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            seconds = said if said > seconds and (index == 0 or said > 0) else index / video.fps
            if index % stride == 0:
                success, image = capture.retrieve()
                if not success:
                    break
                yield Frame(image, name, index, video, seconds, (time.perf_counter() - start) * 1000)
                start = time.perf_counter()
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise DataError(f"{name}: not a video, or a damaged one")
    if video.frames is not None and index < 0.98 * video.frames - 1:
        warn(f"{name}: damaged after {index} of {video.frames} frames")


def video_info(capture: cv2.VideoCapture) -> VideoInfo:
    """What an opened capture says of itself, without the number of frames."""
    return VideoInfo(
        fps=capture.get(cv2.CAP_PROP_FPS) or 25.0,
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        frames=None,
    )


def _stated_frames(source: str) -> int | None:
    """How many frames a video file's index has; None where there is no index (mkv, webm, ts, gif), or no package av.

    OpenCV's own number is length by rate there, which is far off where the rate varies. An address is not opened again
    for it.
    """
    if is_address(source):
        return None
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(source, timeout=TIMEOUT) as container:
            return container.streams.video[0].frames or None
    except (av.error.FFmpegError, IndexError):
        return None


def frame_count(source: str, stride: int = 1) -> int | None:
    """How many frames `read_frames` will give, by the video's own figures; None where it does not say."""
    if suffix_of(source) not in VIDEO_SUFFIXES:
        return 1
    frames = _stated_frames(source)
    return None if frames is None else -(-frames // stride)
