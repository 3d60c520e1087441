"""What a runtime is: pictures in, predictions out; and what an exported file says of itself. Free of torch."""

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from utils.errors import InputError
from utils.log import counted
from utils.runtimes.metadata import read_metadata

METADATA = "metadata.json"  # beside the files of formats that have no place for it inside
INSTALL = "pip install -r requirements-export.txt"

Task = Literal["detect", "classify"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]
Check = Mapping[str, float | bool | None]
"""`passed`, and what was measured: `heads`, `pixels`, `score`, `ap` (see docs/deploy.md)."""


@dataclass(frozen=True)
class NetworkInfo:
    """What one has to know to run an exported network and to read its predictions."""

    names: tuple[str, ...]
    """Of the classes."""
    size: tuple[int, int]
    """(width, height) of the input in pixels."""
    stride: int
    """Both must be multiples of it."""
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    """(width, height) in pixels of each head's anchors."""
    precision: Precision = "float32"
    """Of its weights; int8: of most convolutions, the others in float32."""
    dynamic: bool = False
    """Whether it takes any number of images of any size; else one image of this size."""
    task: Task = "detect"
    """What it does. A classifier gives probabilities (B, C), and has neither anchors nor NMS."""
    nms: tuple[float, float] | None = None
    """Score and IoU thresholds of the NMS inside; None: there is none."""
    vote: bool = False
    """Whether box voting follows the NMS inside."""
    channels: int = 3
    """Of the input: 3 for RGB, 1 for grey."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    """Precision that the runtime can be told to compute in -> what export.py found; empty for other runtimes."""

    def to_json(self) -> str:
        """For the file."""
        rules = {"detect": "letterbox: aspect ratio kept, centred on grey 114", "classify": "the square in the middle"}
        colours = "RGB" if self.channels == 3 else "grey"
        rule = {"resize": rules[self.task], "input": f"{colours}, 0..1, (B, {self.channels}, H, W)"}
        return json.dumps({**asdict(self), **rule}, ensure_ascii=False)

    def check_size(self, width: int, height: int) -> None:
        """Raise InputError unless the network takes inputs of this size in pixels."""
        if self.dynamic and (width % self.stride or height % self.stride):
            raise InputError(
                f"input {width}x{height}: expected a width and height divisible by {self.stride}, "
                f"the network's largest stride"
            )
        if not self.dynamic and (width, height) != self.size:
            raise InputError(
                f"input {width}x{height}: expected {self.size[0]}x{self.size[1]}, for which this network was exported "
                f"(export.py --dynamic makes one that takes other sizes)"
            )

    def nms_after(self, iou: float, vote: bool, agnostic: bool = False) -> tuple[float, bool]:
        """IoU threshold of NMS behind the network, and whether boxes vote there.

        Where both are inside nothing is suppressed (no IoU is over 1) or moved again; NMS over all classes is not.
        """
        if self.nms is None:
            return iou, vote
        return (iou if agnostic else 1.0), False

    def passed(self, precision: str) -> bool:
        """Whether export.py found it near enough to PyTorch when it computes in this precision."""
        return bool(self.checks.get(precision, {}).get("passed"))

    @staticmethod
    def from_json(text: str, where: str | Path) -> "NetworkInfo":
        """What `to_json` wrote. Raises InputError for anything else."""
        known: dict[str, Any] = read_metadata(text, where)
        anchors = tuple(tuple((float(w), float(h)) for w, h in head) for head in known["anchors"])
        nms = None if known["nms"] is None else tuple(map(float, known["nms"]))
        lists = {"names": tuple(known["names"]), "size": tuple(known["size"]), "anchors": anchors, "nms": nms}
        return NetworkInfo(**{**known, **lists})

    @staticmethod
    def of_file(file: Path) -> "NetworkInfo":
        """From a metadata file. Raises InputError."""
        return NetworkInfo.from_json(file.read_text(encoding="utf-8", errors="replace"), file)

    @staticmethod
    def beside(folder: Path) -> "NetworkInfo":
        """From the metadata.json in an exported folder. Raises InputError."""
        file = folder / METADATA
        if not file.is_file():
            raise InputError(f"{folder}: expected {METADATA} in it, which export.py writes")
        return NetworkInfo.of_file(file)


class Runtime(ABC):
    """A network, ready to run. `infer` is the same for all of them."""

    kind: ClassVar[str]
    """As people call it."""

    def __init__(self, info: NetworkInfo, precision: str = "float32") -> None:
        self.info = info
        self.precision = precision
        """What it computes in."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) in 0..255, RGB or grey (`to_channels`), uint8 or float32 -> predictions (B, N, 5+C) float32.

        Of a detector; each is centre x, y, width, height in pixels of the input, objectness, class probabilities.
        Threads may share a runtime. Raises InputError for a size that the network does not take, and for a file whose
        metadata does not fit its network.
        """
        self.info.check_size(images.shape[2], images.shape[1])
        if not len(images):
            return self.infer(np.zeros((1, *images.shape[1:]), images.dtype))[:0]
        if self.info.dynamic:
            found = self.run(images)
        else:
            each = [self.run(images[index : index + 1]) for index in range(len(images))]
            if self.info.nms is not None:  # of each image as many as NMS leaves; the rest are rows of zeros
                most = max(one.shape[1] for one in each)
                each = [np.pad(one, ((0, 0), (0, most - one.shape[1]), (0, 0))) for one in each]
            found = np.concatenate(each)
        classes, before = len(self.info.names), (5,) if self.info.task == "detect" else ()
        if found.ndim != 2 + len(before) or found.shape[-1] != sum(before) + classes:
            raise InputError(
                f"the network gives {found.shape}, its metadata has {counted(classes, 'class name')}: expected "
                f"{sum(before) + classes} numbers for each {'box' if before else 'image'}"
            )
        return found

    @abstractmethod
    def run(self, images: np.ndarray) -> np.ndarray:
        """`infer`, for images of a number and size that the network takes."""


def planes(images: np.ndarray) -> np.ndarray:
    """(B, H, W, C) in 0..255 -> (B, C, H, W) float32 in 0..1, contiguous, in memory of its own."""
    batch = np.array(images.transpose(0, 3, 1, 2), np.float32, order="C")
    batch *= np.float32(1 / 255)
    return batch


def with_objectness(found: np.ndarray, batch: int, num_classes: int) -> np.ndarray:
    """What a network with NMS inside gives, as predictions.

    Rows (K, 7): image, x1, y1, x2, y2, score, class -> (B, N, 5+C), the score as objectness, its class 1, all others 0;
    N is the most that an image has, the rest rows of zeros. Raises InputError where there are no such rows.
    """
    if found.ndim != 2 or found.shape[1] != 7 or found[:, 6].max(initial=0) >= num_classes:
        raise InputError(
            f"the network gives {found.shape}, its metadata says NMS is inside: expected rows of 7 numbers, the last "
            f"one a class below {num_classes}"
        )
    counts = np.bincount(found[:, 0].astype(int), minlength=batch)
    predictions = np.zeros((batch, max(1, counts.max(initial=0)), 5 + num_classes), np.float32)
    for image in range(batch):
        rows = found[found[:, 0] == image, 1:]
        place = np.arange(len(rows))
        predictions[image, place, :2] = (rows[:, :2] + rows[:, 2:4]) / 2
        predictions[image, place, 2:4] = rows[:, 2:4] - rows[:, :2]
        predictions[image, place, 4] = rows[:, 4]
        predictions[image, place, 5 + rows[:, 5].astype(int)] = 1
    return predictions


def first_line(error: Exception) -> str:
    """Of an exception's message."""
    return str(error).strip().partition("\n")[0]


def last_line(error: Exception) -> str:
    """Of an exception's message, where the lines before say which function raised it."""
    return str(error).strip().rpartition("\n")[2]


def need(module: str, what: str, install: str = INSTALL) -> Any:
    """A package that is not everyone's. Raises InputError with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{what}: expected the package {module} ({error}); {install}") from None


def one_of(files: Sequence[Path], where: Path, what: str) -> Path:
    """The only file there. Raises InputError."""
    if len(files) != 1:
        raise InputError(f"{where}: expected one {what} in it, got {len(files)}")
    return files[0]
