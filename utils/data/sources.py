"""Where pictures to look at come from: an image or video file, a folder, a glob pattern; one stream of `Frame`s."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.data.images import IMAGE_SUFFIXES, read_image
from utils.errors import DataError
from utils.log import warn

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what FFmpeg has to say is said by our own message


@dataclass(frozen=True)
class VideoInfo:
    """A video's own figures."""

    fps: float
    """Frames per second; 25 where the file does not say."""
    width: int
    height: int
    frames: int | None
    """How many frames there are, None where the file does not say."""


@dataclass(frozen=True)
class Frame:
    """One picture."""

    image: np.ndarray
    """(H, W, 3) uint8, BGR."""
    path: Path
    index: int | None
    """The frame's number in its video, from 0; None for an image file."""
    video: VideoInfo | None


class Source:
    """The pictures of some files, in order. `problems` counts the files that could not be read."""

    def __init__(self, name: str, files: list[Path]) -> None:
        self.name = name
        self.files = files
        self.problems = 0

    @property
    def length(self) -> int | None:
        """How many frames to expect, a video's by its own figures; None where that is not known."""
        counts = [_frame_count(file) for file in self.files]
        return None if None in counts else sum(count for count in counts if count is not None)

    def frames(self) -> Iterator[Frame]:
        """Read one picture after the other; a file that cannot be read is named in a warning and counted.

        Raises `DataError` when not one picture could be read.
        """
        self.problems = 0
        seen = False
        for file in self.files:
            try:
                for frame in _video_frames(file) if _is_video(file) else _image_frames(file):
                    seen = True
                    yield frame
            except DataError as error:
                if len(self.files) == 1:
                    raise
                self.problems += 1
                warn(f"skipped: {error}")
        if not seen:
            raise DataError(f"{self.name}: none of the {len(self.files)} files can be read")


def open_source(source: str) -> Source:
    """Find what `source` names: an image, a video, a folder of them (not its subfolders) or a glob pattern.

    Raises `DataError` when there is nothing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = _pictures(list(path.iterdir()))
        if not files:
            raise DataError(f"{source}: no image or video in this folder")
    elif path.exists():
        files = [path]
    elif glob.has_magic(source):
        files = _pictures([Path(match) for match in glob.glob(str(path), recursive=True)])  # noqa: PTH207 (absolute patterns)
        if not files:
            raise DataError(f"{source}: no image or video matches this pattern")
    else:
        raise DataError(f"{source}: no such file or folder")
    return Source(source, files)


def _pictures(paths: list[Path]) -> list[Path]:
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    return sorted(path for path in paths if path.suffix.lower() in known and path.is_file())


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _image_frames(path: Path) -> Iterator[Frame]:
    yield Frame(read_image(path), path, None, None)


def _video_frames(path: Path) -> Iterator[Frame]:
    """The frames of a video up to the first that cannot be decoded; `DataError` if that is the very first."""
    capture = cv2.VideoCapture(str(path))
    try:
        video = _video_info(capture)
        index = 0
        while True:
            success, image = capture.read()
            if not success:
                break
            yield Frame(image, path, index, video)
            index += 1
    finally:
        capture.release()
    if index == 0:
        raise DataError(f"{path}: not a video, or a damaged one")


def _video_info(capture: cv2.VideoCapture) -> VideoInfo:
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return VideoInfo(
        fps=capture.get(cv2.CAP_PROP_FPS) or 25.0,
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        frames=frames if frames > 0 else None,
    )


def _frame_count(path: Path) -> int | None:
    if not _is_video(path):
        return 1
    capture = cv2.VideoCapture(str(path))
    try:
        return _video_info(capture).frames
    finally:
        capture.release()
