"""Annotated copies on disk: images under their own names, videos as mp4 with the source's rate and size."""

import math
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from utils.data.sources import Frame
from utils.draw import write_image
from utils.errors import DataError
from utils.files import whole_file, write_text
from utils.inference.result import Result, label_lines


def safe_folder(name: str) -> str:
    """A class name as a folder's name: no separators, no leading dot."""
    return "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in name).lstrip(".") or "_"


class Writer:
    """Writes pictures into a folder as they come; a context manager, since a video is whole only when closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: dict[Path, Path] = {}  # source path -> file, and each file -> itself
        self.names: dict[str, dict[str, Path]] = {}  # kind of file -> name -> the source that has it
        self.video: cv2.VideoWriter | None = None
        self.video_source: Path | None = None
        self.video_file: Path | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_video()

    def write(self, frame: Frame, picture: np.ndarray) -> None:
        """Write the annotated picture of a frame."""
        if frame.video is None:
            self._write_image(frame.path, picture)
            return
        if frame.path != self.video_source:
            self._close_video()
            self._open_video(frame)
        assert self.video is not None
        self.video.write(picture)

    def write_labels(self, frame: Frame, result: Result) -> None:
        """labels/NAME.txt, as YOLO labels with the score behind; of a video a file for each frame."""
        name = self._name(frame, "labels")
        write_text(self.folder / "labels" / f"{name}.txt", label_lines(result.rows(), result.width, result.height))

    def write_crops(self, frame: Frame, result: Result) -> int:
        """crops/CLASS/NAME_N.jpg, what is inside each box; returns how many have at least a pixel."""
        name, count = self._name(frame, "crops"), 0
        for box in result.boxes:
            x1, y1, x2, y2 = math.floor(box.x1), math.floor(box.y1), math.ceil(box.x2), math.ceil(box.y2)
            crop = frame.image[y1:y2, x1:x2]
            if crop.size:
                count += 1
                write_image(self.folder / "crops" / safe_folder(box.name) / f"{name}_{count}.jpg", crop)
        return count

    def _name(self, frame: Frame, kind: str) -> str:
        """A name for a frame's files of one kind: the source's, with -2, -3 ... where another source had it."""
        number, names = 1, self.names.setdefault(kind, {})
        name = frame.path.stem
        while names.setdefault(name, frame.path) != frame.path:
            number += 1
            name = f"{frame.path.stem}-{number}"
        return name if frame.index is None else f"{name}_{frame.index:06d}"

    def _file(self, source: Path, suffix: str) -> Path:
        """A free name in the folder: the source's own, or with -2, -3 ... where another source had it."""
        number, file = 1, self.folder / f"{source.stem}{suffix}"
        while file in self.taken:
            number += 1
            file = self.folder / f"{source.stem}-{number}{suffix}"
        self.taken[file] = source
        return file

    def _write_image(self, source: Path, picture: np.ndarray) -> None:
        suffix = source.suffix if source.suffix.lower() in {".jpg", ".jpeg", ".png", ".bmp", ".webp"} else ".png"
        done, content = cv2.imencode(suffix.lower(), picture)
        if not done:
            raise DataError(f"{source}: its annotated copy cannot be written as {suffix}")
        with whole_file(self._file(source, suffix)) as partial:
            partial.write_bytes(content.tobytes())

    def _open_video(self, frame: Frame) -> None:
        assert frame.video is not None
        self.video_source, self.video_file = frame.path, self._file(frame.path, ".mp4")
        size = (frame.image.shape[1], frame.image.shape[0])
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self.video = cv2.VideoWriter(str(self._partial()), code, frame.video.fps, size)
        if not self.video.isOpened():
            raise DataError(f"{frame.path}: OpenCV cannot write an mp4 video here")

    def _partial(self) -> Path:
        assert self.video_file is not None
        return self.video_file.with_name(f".partial-{self.video_file.name}")

    def _close_video(self) -> None:
        if self.video is not None and self.video_file is not None:
            self.video.release()
            self._partial().replace(self.video_file)
        self.video, self.video_source = None, None
