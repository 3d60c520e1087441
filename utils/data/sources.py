"""Where pictures to look at come from: files, folders, patterns, lists, stdin, addresses, cameras, the screen."""

import glob
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from utils.data.folders import find_files, find_listed, read_list
from utils.data.frames import (
    VIDEO_SUFFIXES,
    Frame,
    frame_count,
    is_address,
    is_file_name,
    is_image_address,
    public_name,
    read_frames,
)
from utils.data.images import IMAGE_SUFFIXES
from utils.data.streams import Screen, Streams
from utils.errors import DataError
from utils.files import natural_order, user_path
from utils.log import counted, warn

MAX_CAMERAS = 100
LIST_SUFFIXES = frozenset({".streams", ".txt"})
KNOWN = IMAGE_SUFFIXES | VIDEO_SUFFIXES


class Source(Protocol):
    """Pictures, in order."""

    live: bool
    """Whether it goes on until it is stopped."""
    problems: int
    """How many files could not be read, or streams not be opened."""
    dropped: int
    """Frames of live streams that nobody had time for."""

    @property
    def length(self) -> int | None:
        """How many frames to expect; None where that is not known."""

    def frames(self) -> Iterator[Frame]:
        """One picture after the other. Raises `DataError` when not one can be read."""


class Files:
    """The pictures of image and video files; `names` may be made while it is read."""

    live, dropped = False, 0

    def __init__(self, name: str, names: Iterable[str], stride: int = 1) -> None:
        self.name, self.names, self.stride = name, names, stride
        self.problems = 0
        self.check: Callable[[Frame], None] = lambda frame: None
        """Raises DataError for a picture that nobody can use; its file is then one that cannot be read."""

    @property
    def length(self) -> int | None:
        """Of videos by their own figures; None where one does not say."""
        if not isinstance(self.names, list):
            return None
        counts = [frame_count(name, self.stride) for name in self.names]
        return None if None in counts else sum(count for count in counts if count is not None)

    def frames(self) -> Iterator[Frame]:
        """Read one picture after the other; a file that cannot be read is named in a warning and counted."""
        self.problems = 0
        seen, known = False, set[str]()
        for name in self.names:
            if name in known:
                continue  # named twice
            known.add(name)
            try:
                for frame in read_frames(name, self.stride):
                    self.check(frame)
                    seen = True
                    yield frame
            except DataError as error:
                if self.names == [name]:
                    raise
                self.problems += 1
                warn(f"skipped: {error}")
        if not seen and self.problems:
            raise DataError(f"{self.name}: none of {counted(self.problems, 'file')} can be read")
        if not seen:
            raise DataError(f"{self.name}: expected paths of images or videos, got none")


def open_source(source: str, recursive: bool = False, stride: int = 1) -> Source:
    """Find what `source` names: an image, a video, a folder of them (with its subfolders if `recursive`), a pattern, a
    .txt list of paths or of streams, `-` (paths on stdin), a URL, a camera's number, `screen` or `screen:x,y,w,h`.

    Of videos and streams every `stride`th frame. Raises `DataError` when there is nothing.
    """
    if source == "-":
        lines = (line.strip() for line in sys.stdin)
        return Files("-", (_find(line, Path()) for line in lines if line and not line.startswith("#")), stride)
    if is_address(source):
        picture = is_file_name(source) or is_image_address(source)
        return Files(public_name(source), [source], stride) if picture else Streams([source], stride)
    path = user_path(source)
    if path.is_dir():
        return Files(source, _named(find_files(path, KNOWN, recursive), source, "in this folder"), stride)
    if path.exists():
        return _open_list(path, stride) if path.suffix.lower() in LIST_SUFFIXES else Files(source, [str(path)], stride)
    if glob.has_magic(source):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (absolute patterns)
        matches = [match for match in matches if match.suffix.lower() in KNOWN and match.is_file()]
        return Files(source, _named(matches, source, "matches this pattern"), stride)
    if source.isdecimal() and int(source) < MAX_CAMERAS:
        return Streams([source], stride)
    if source == "screen" or source.startswith("screen:"):
        return Screen(source)
    raise DataError(f"{source}: no such file or folder")


def _named(paths: list[Path], source: str, where: str) -> list[str]:
    if not paths:
        raise DataError(f"{source}: no image or video {where}")
    return [str(path) for path in sorted(paths, key=natural_order)]


def _open_list(file: Path, stride: int) -> Source:
    """A text file with a path, or a live stream, a line; relative paths are from here, or from the list's folder."""
    names = read_list(file)
    live = [name for name in names if name.isdecimal() or (is_address(name) and not is_file_name(name))]
    if not names:
        raise DataError(f"{file}: expected paths or streams, one a line, got none")
    if not live:
        return Files(str(file), [_find(name, file.parent) for name in names], stride)
    if len(live) < len(names):
        other = next(name for name in names if name not in live)
        raise DataError(f"{file}: expected files or streams, got both ({public_name(live[0])} and {other})")
    return Streams(live, stride)


def _find(name: str, folder: Path) -> str:
    found = None if is_address(name) else find_listed(name, [Path(), folder])
    return name if found is None else str(found)
