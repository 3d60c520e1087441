"""Images with one class each: a folder a class, or a CSV file of images and classes."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from utils.data.crops import write_crops
from utils.data.folders import find_files, is_hidden
from utils.errors import DataError
from utils.files import PROJECT, make_writable, read_text, user_path

DETECTION = "a detection data set: expected a class for each image; `python -m utils.data.crops` cuts its boxes out"
EMBEDDED = "shapes"  # crops of the embedded shapes, cut out on first use
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a folder or a split may be called, in small letters."""
NAMED = 10  # classes in a message, at most
HELD_OUT = 0.2  # of each class, for validation, where the data does not say


@dataclass(frozen=True)
class ClassSample:
    """An image file and its class's index."""

    image: Path
    label: int

    @cached_property
    def labels(self) -> np.ndarray:
        """(1,) the class."""
        return np.array([self.label])


@dataclass(frozen=True)
class ClassData:
    """Class names in order, and the samples of each part. `chosen` says that the parts were chosen here."""

    path: Path
    names: tuple[str, ...]
    train: tuple[ClassSample, ...]
    valid: tuple[ClassSample, ...]
    test: tuple[ClassSample, ...] = ()
    chosen: bool = False


def load_classes(data: str, seed: int = 0, names: Sequence[str] | None = None) -> ClassData:
    """Read `data`: a folder with train/CLASS/ and valid/CLASS/ (val/, test/), a folder with CLASS/ alone, or a CSV file
    with the columns image, class and, if it has parts, split. `shapes` are crops of the embedded shapes.

    Without a validation part a fifth of each class is held out for it, by `seed`. `names` are the classes of a trained
    network: others are an error. Raises DataError.
    """
    path = _embedded() if data == EMBEDDED and not Path(data).exists() else user_path(data).absolute()
    if path.is_dir():
        parts = {each: PARTS[name] for each in class_folders(path) if (name := each.name.lower()) in PARTS}
        parts = {each: part for each, part in parts.items() if class_folders(each)} or {path: ""}
        rows = [row for folder, part in parts.items() for row in _folder_rows(folder, part)]
        folders = {folder.name for part in parts for folder in class_folders(part)}
        if not parts.get(path, "x") and folders >= {"images", "labels"}:
            raise DataError(f"{data}: {DETECTION}")
    elif path.suffix.lower() in {".data", ".yaml", ".yml"}:
        raise DataError(f"{data}: {DETECTION}")
    elif path.is_file():
        rows, folders = _csv_rows(path), set()
    else:
        raise DataError(f"{data}: no such folder or file; expected a folder a class, or a CSV file")
    found = sorted({name for _, name, _ in rows} | folders, key=_natural)
    if names is not None and (unknown := [name for name in found if name not in names]):
        raise DataError(f"{data}: expected the classes {listed(names)}, got {listed(unknown)}")
    known = tuple(found if names is None else names)
    if len(known) < 2:
        raise DataError(f"{data}: expected two classes at least, got {', '.join(known) or 'none'}")
    place = {name: index for index, name in enumerate(known)}

    def part(*keys: str) -> tuple[ClassSample, ...]:
        return tuple(ClassSample(image, place[name]) for image, name, key in rows if key in keys)

    whole = ClassData(path, known, part("train", ""), part("valid"), part("test"))
    return whole if whole.valid else _hold_out(whole, seed)


def listed(names: Sequence[str]) -> str:
    """The first of some classes, and how many there are more."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _natural(name: str) -> tuple[int, str]:
    """Numbers in their order, before words."""
    return (len(name.lstrip("0")), name) if name.isdecimal() else (1000, name)


def _embedded() -> Path:
    def cut(folder: Path) -> None:
        if not folder.exists():
            with suppress(FileExistsError):  # another process was first
                write_crops("shapes.data", folder)

    return make_writable(PROJECT / "data" / "shapes-crops", cut)


Row = tuple[Path, str, str]
"""Image, class, part (empty where the data has none)."""


def class_folders(folder: Path) -> list[Path]:
    """The folders in one, hidden ones aside; none where it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.iterdir() if each.is_dir() and not is_hidden(each.name))


def _folder_rows(folder: Path, part: str) -> list[Row]:
    rows = [(image, each.name, part) for each in class_folders(folder) for image in find_files(each)]
    if not rows:
        raise DataError(f"{folder}: expected a folder for each class with images in it, found none")
    return rows


def _csv_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    try:
        with io.StringIO(read_text(path, DataError), newline="") as file:
            for number, entry in enumerate(reader := csv.DictReader(file), start=2):
                if not {"image", "class"} <= set(reader.fieldnames or ()):
                    got = ", ".join(reader.fieldnames or ())
                    raise DataError(f"{path}:1: expected the columns image, class (and split), got {got}")
                image, name, split = ((entry.get(key) or "").strip() for key in ("image", "class", "split"))
                if not image or not name:
                    raise DataError(f"{path}:{number}: expected an image and its class, got {image!r} and {name!r}")
                part = PARTS.get(split.lower(), "")
                if split and not part:
                    raise DataError(f"{path}:{number}: split: expected train, valid or test, got {split!r}")
                if not (path.parent / image).is_file():
                    raise DataError(f"{path}:{number}: {path.parent / image}: no such file")
                rows.append((path.parent / image, name, part))
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error})") from None
    if not rows:
        raise DataError(f"{path}: expected a line for each image below the columns' names, got none")
    if len({bool(part) for _, _, part in rows}) == 2:
        raise DataError(f"{path}: expected a split for every image or for none")
    return rows


def _hold_out(data: ClassData, seed: int) -> ClassData:
    """A fifth of each class, at least one of two, for validation."""
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    for label in range(len(data.names)):
        indices = [index for index, sample in enumerate(data.train) if sample.label == label]
        count = min(max(1, round(HELD_OUT * len(indices))), len(indices) - 1)
        held |= set(rng.permutation(indices)[: max(0, count)].tolist())
    train = tuple(sample for index, sample in enumerate(data.train) if index not in held)
    return replace(data, train=train, valid=tuple(data.train[index] for index in sorted(held)), chosen=True)
