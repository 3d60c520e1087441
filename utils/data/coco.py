"""COCO: one JSON file with `images`, `annotations` (bbox = left, top, width, height in pixels) and `categories`."""

import json
import math
from pathlib import Path
from typing import Any

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
