"""What detection leaves on disk: annotated pictures and videos, labels, crops, and tables that grow box by box.

Tables and videos can be read while they grow, and after a run that was killed. A JSON array cannot: `detections.jsonl`
grows, a picture a line, and becomes `detections.json` at the end.
"""

import contextlib
import csv
import json
import math
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, TextIO

import cv2
import numpy as np

from utils.data.frames import is_address, is_file_name
from utils.draw import write_image
from utils.errors import DataError
from utils.files import whole_file, write_text
from utils.inference.result import NOT_TRACKED, Result, label_lines
from utils.inference.video import VideoFile

COLUMNS = ("path", "frame", "x1", "y1", "x2", "y2", "score", "class", "name", "id")
CROSSING_COLUMNS = ("path", "frame", "seconds", "id", "name", "direction")
LINES = "detections.jsonl"
WRITABLE = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
LONGEST_NAME = 150  # bytes
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95]


@dataclass(frozen=True)
class Outputs:
    """What is written."""

    pictures: bool = True
    json: bool = False
    csv: bool = False
    txt: bool = False
    crops: bool = False
    crossings: bool = False


def safe_name(name: str) -> str:
    """A class name or an address as the name of a folder or file: no separators, no leading dot, not too long."""
    plain = "".join("_" if c in '/\\:*?"<>|' or not c.isprintable() else c for c in name).lstrip(".") or "_"
    return plain.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")


def _stem(path: str) -> str:
    """What a source's files are named after: a file's name, an address without its query."""
    if is_address(path):
        parts = urllib.parse.urlsplit(path)
        path_stem = parts.path.rpartition(".")[0] if is_file_name(path) else parts.path
        stem = f"{parts.netloc}{path_stem}" + (f"#{parts.fragment}" if parts.fragment else "")
    else:
        stem = PurePath(path).stem
    return stem


class Table:
    """A CSV file whose rows can be read as soon as they are added."""

    def __init__(self, file: TextIO, columns: Sequence[str]) -> None:
        self.file, self.writer = file, csv.writer(file)
        self.add([columns])

    def add(self, rows: Iterable[Iterable[object]]) -> None:
        """Write rows, and hand them to the system."""
        self.writer.writerows(rows)
        self.file.flush()


class Writer:
    """Writes results into a folder as they come; a context manager, since files are complete only when it is closed.

    `draw` makes the annotated picture of a result.
    """

    def __init__(self, folder: Path, what: Outputs, draw: Callable[[Result], np.ndarray]) -> None:
        self.folder, self.what, self.draw = folder, what, draw
        self.names: dict[str, str] = {}  # name in lower case -> the source that has it
        self.videos: dict[str, VideoFile] = {}
        self.open_files = contextlib.ExitStack()
        self.json: TextIO | None = None
        self.csv: Table | None = None
        self.crossings: Table | None = None

    def __enter__(self) -> "Writer":
        if self.what.json:
            self.json = self._open(LINES)
        if self.what.csv:
            self.csv = Table(self._open("detections.csv"), COLUMNS)
        if self.what.crossings:
            self.crossings = Table(self._open("crossings.csv"), CROSSING_COLUMNS)
        return self

    def _open(self, name: str) -> TextIO:
        path = self.folder / name
        return self.open_files.enter_context(path.open("w", newline="", encoding="utf-8", errors="backslashreplace"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as videos:
            for video in self.videos.values():
                videos.callback(video.close)
            self.open_files.close()  # the tables first: they are complete even if a video cannot be
            if self.json is not None:
                self._finish_json()

    def _finish_json(self) -> None:
        """Make one array of the lines."""
        lines = self.folder / LINES
        with (
            whole_file(self.folder / "detections.json") as partial,
            partial.open("wb") as file,
            lines.open("rb") as rows,
        ):
            file.write(b"[")
            for number, row in enumerate(rows):
                file.write((b",\n " if number else b"\n ") + row.rstrip())
            file.write(b"\n]\n")
        lines.unlink()

    def write(self, result: Result) -> None:
        """Everything that was asked for of one picture."""
        if self.json is not None or self.csv is not None:
            self._write_rows(result.to_dict())
        if self.what.txt:
            file = self.folder / "labels" / f"{self._part(result)}.txt"
            write_text(file, label_lines(result.rows(), result.width, result.height))
        if self.what.crops:
            self._write_crops(result)
        if self.crossings is not None:
            self.crossings.add(self._crossings(result))
        if self.what.pictures:
            self._write_picture(result, self.draw(result))

    def _write_rows(self, row: dict[str, Any]) -> None:
        if self.json is not None:
            self.json.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.json.flush()
        if self.csv is not None:
            boxes = ({**box, "path": row["path"], "frame": row.get("frame", "")} for box in row["boxes"])
            self.csv.add(["" if box.get(key) is None else box[key] for key in COLUMNS] for box in boxes)

    def _write_crops(self, result: Result) -> None:
        """crops/CLASS/NAME_N.jpg, what is inside each box that has at least a pixel; tracked ones as NAME_idID.jpg."""
        name = self._part(result)
        ids = [NOT_TRACKED] * len(result) if result.track_ids is None else result.track_ids.tolist()
        rows = zip(result.boxes_xyxy_px.tolist(), result.class_ids.tolist(), ids, strict=True)
        for number, ((x1, y1, x2, y2), label, track) in enumerate(rows, start=1):
            crop = result.image[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)]
            if crop.size:
                mark = number if track == NOT_TRACKED else f"id{track}"
                write_image(self.folder / "crops" / safe_name(result.names[label]) / f"{name}_{mark}.jpg", crop)

    def _crossings(self, result: Result) -> Iterator[tuple[object, ...]]:
        """The rows of crossings.csv."""
        assert result.line is not None and result.track_ids is not None
        for crossing in result.line.now:
            where = result.path, result.frame_index, f"{result.frame.seconds:.3f}"
            who = int(result.track_ids[crossing.box]), result.names[result.class_ids[crossing.box]]
            yield *where, *who, "right" if crossing.to_right else "left"

    def _name(self, result: Result) -> str:
        """The source's name for all of its files, with -2, -3 ... where another source has it."""
        stem = safe_name(_stem(result.path))
        number, name = 1, stem
        while self.names.setdefault(name.lower(), result.path) != result.path:
            number += 1
            name = f"{stem}-{number}"
        return name

    def _part(self, result: Result) -> str:
        """NAME, of video frames NAME/000123."""
        index = result.frame_index
        return self._name(result) if index is None else f"{self._name(result)}/{index:06d}"

    def _write_picture(self, result: Result, picture: np.ndarray) -> None:
        if result.frame.video is not None:
            self._write_frame(result, picture)
            return
        suffix = PurePath(result.path).suffix
        suffix = suffix if suffix.lower() in WRITABLE else ".png"
        options = QUALITY if suffix.lower() in {".jpg", ".jpeg"} else []
        try:
            done, content = cv2.imencode(suffix.lower(), picture, options)
        except cv2.error:  # larger than the format allows
            done = False
        if not done:
            raise DataError(f"{result.path}: its annotated copy cannot be written as {suffix}")
        with whole_file(self.folder / f"{self._name(result)}{suffix}") as partial:
            partial.write_bytes(content.tobytes())

    def _write_frame(self, result: Result, picture: np.ndarray) -> None:
        video = result.frame.video
        assert video is not None
        if result.path not in self.videos:
            if not video.live:  # files come one after the other, streams side by side
                for path in list(self.videos):
                    self.videos.pop(path).close()
            file = self.folder / f"{self._name(result)}.mp4"
            self.videos[result.path] = VideoFile(file, video, (result.width, result.height))
        self.videos[result.path].write(picture, result.frame.seconds)
