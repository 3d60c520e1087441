"""COCO: one JSON file with `images`, `annotations` (bbox = left, top, width, height in pixels) and `categories`."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from utils.data.annotations import Annotations, Box, Picture, safe_name
from utils.data.labels import Problem
from utils.errors import DataError
from utils.log import progress


def read_coco(path: Path, folder: Path) -> tuple[Annotations, tuple[str, ...]]:
    """Read an instances file whose images lie in `folder`: (pictures and boxes, category names in the order of ids).

    Crowd regions are not single objects: they are left out and counted. An image that cannot be read, and a box of
    no size, is left out with a problem. Raises `DataError` for a file that is not of this format.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    document = _load(path)
    categories = {entry["id"]: str(entry["name"]) for entry in _entries(document, "categories", ("id", "name"), path)}
    if len(set(categories.values())) != len(categories) or not categories:
        raise DataError(
            f"{path}: categories: expected names that differ, got {', '.join(categories.values()) or 'none'}"
        )
    annotations = Annotations()
    pictures: dict[Any, Picture | None] = {}  # by image id; None: could not be read
    entries = _entries(document, "images", ("id", "file_name"), path)
    for entry in progress(entries, f"reading {path.name}", unit="image"):
        name = safe_name(entry["file_name"], f"{path}: image {entry['id']}")
        said = (entry["width"], entry["height"]) if "width" in entry and "height" in entry else None
        pictures[entry["id"]] = annotations.add_picture(folder / name, name, said, path)
    for entry in _entries(document, "annotations", ("image_id", "category_id", "bbox"), path):
        _add_object(entry, pictures, categories, annotations, path)
    return annotations, tuple(categories[key] for key in sorted(categories))


@dataclass(frozen=True)
class Objects:
    """One image's objects as its annotation file has them: nothing is clipped or left out."""

    image_id: Any
    boxes: np.ndarray  # (N, 5) float64: class, x1, y1, x2, y2 in pixels
    area: np.ndarray  # (N,) pixels
    crowd: np.ndarray  # (N,) bool


@dataclass(frozen=True)
class CocoTruth:
    """The objects of each image, by the name of its file, and the category id of each class."""

    path: Path
    images: dict[str, Objects]
    category_ids: tuple[int, ...]


def read_truth(path: Path, names: Sequence[str]) -> CocoTruth:
    """All objects of an instances file, for measuring; `names` are the classes in order.

    Raises `DataError` for a file that is not of this format, or has other categories or two images of one name.
    """
    document = _load(path)
    ids = {str(entry["name"]): entry["id"] for entry in _entries(document, "categories", ("id", "name"), path)}
    if set(ids) != set(names):
        other = next(iter(set(ids) ^ set(names)))
        raise DataError(f"{path}: expected the categories to be the classes of the data set; {other!r} is in one alone")
    index = {ids[name]: float(place) for place, name in enumerate(names)}
    rows: dict[Any, list[tuple[float, ...]]] = {}
    files: dict[str, Any] = {}
    for entry in _entries(document, "images", ("id", "file_name"), path):
        name = PurePosixPath(str(entry["file_name"])).name
        if name in files:
            raise DataError(f"{path}: expected images of distinct file names, got {name} twice")
        files[name] = entry["id"]
        rows[entry["id"]] = []
    for entry in _entries(document, "annotations", ("image_id", "category_id", "bbox"), path):
        about = f"{path}: annotation {entry.get('id', '?')}"
        if entry["image_id"] not in rows or entry["category_id"] not in index or not _is_box(entry["bbox"]):
            raise DataError(f"{about}: expected a known image_id and category_id, and a bbox of four numbers")
        left, top, width, height = entry["bbox"]
        area, crowd = float(entry.get("area", width * height)), float(bool(entry.get("iscrowd")))
        box = (index[entry["category_id"]], left, top, left + width, top + height)
        rows[entry["image_id"]].append((*box, area, crowd))
    images = {}
    for name, key in files.items():
        table = np.array(rows[key], np.float64).reshape(-1, 7)
        images[name] = Objects(key, table[:, :5], table[:, 5], table[:, 6] > 0)
    return CocoTruth(path, images, tuple(ids[name] for name in names))


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not valid JSON: not text in UTF-8") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected an object with images, annotations and categories, got {type(document)}")
    return document


def _entries(document: dict[str, Any], key: str, fields: tuple[str, ...], path: Path) -> list[dict[str, Any]]:
    """The list `document[key]`, whose entries have these fields."""
    entries = document.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list {key!r}; there are: {', '.join(document) or 'no keys'}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not all(field in entry for field in fields):
            raise DataError(f"{path}: {key}[{index}]: expected the fields {', '.join(fields)}, got {str(entry)[:80]}")
    return entries


def _add_object(
    entry: dict[str, Any],
    pictures: dict[Any, Picture | None],
    categories: dict[Any, str],
    annotations: Annotations,
    path: Path,
) -> None:
    image, category, bbox = entry["image_id"], entry["category_id"], entry["bbox"]
    about = f"annotation {entry.get('id', '?')} of image {image}"
    if image not in pictures:
        annotations.problems.append(Problem(path, None, f"unknown image: {about}"))
        return
    picture = pictures[image]
    if picture is None:
        annotations.counts["boxes of images that cannot be read"] += 1
        return
    if entry.get("iscrowd"):
        annotations.counts["crowd regions left out"] += 1
        return
    about = f"{about}, {picture.name}"
    if category not in categories:
        annotations.problems.append(Problem(path, None, f"unknown category: {category} ({about})"))
    elif not _is_box(bbox):
        annotations.problems.append(Problem(path, None, f"box without numbers: {str(bbox)[:80]} ({about})"))
    else:
        left, top, width, height = bbox
        box = Box(categories[category], left, top, left + width, top + height)
        annotations.add_box(picture, box, path, about)


def _is_box(bbox: object) -> bool:
    if not isinstance(bbox, list) or len(bbox) != 4:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in bbox)
