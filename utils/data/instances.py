"""COCO's file format, checked: `images`, `annotations` (bbox = left, top, width, height in pixels) and `categories`.

What identifies something (an id, a file name, a category's name) must be sound, or the file is refused; any other fault
is a problem of that image or object alone.
"""

import json
import math
import re
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short

from utils.data.annotations import check_class_name
from utils.errors import DataError

Id = int | str
Entry = dict[str, object]  # an element of one of the file's lists


@dataclass(frozen=True)
class CocoImage:
    """An entry of `images`: its id as written, the name of its file, and its (width, height) if given."""

    id: Id
    name: str
    size: tuple[float, float] | None

    def __str__(self) -> str:
        return f"{short(self.id)} ({self.name!r})"


@dataclass(frozen=True)
class CocoCategory:
    """An entry of `categories`, its id as written."""

    id: Id
    name: str
    parent: object


@dataclass(frozen=True)
class CocoObject:
    """An entry of `annotations`; its image and category by the keys of `Instances`."""

    about: str
    image: Id
    category: Id
    edges: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    area: float
    crowd: bool


@dataclass(frozen=True)
class Instances:
    """An instances file: images and categories by their ids (an id is the same as a number and as text)."""

    path: Path
    images: dict[Id, CocoImage]
    categories: dict[Id, CocoCategory]  # in the order of ids
    objects: list[CocoObject]
    problems: list[str]  # (kind: detail) of objects that are left out, and of sizes
    all_crowd: bool  # every object was marked as a crowd region, which none of `objects` is then

    def without_project(self) -> dict[Id, CocoCategory]:
        """The categories but for Roboflow's of the whole project: the parent of all others, without objects."""
        used = {found.category for found in self.objects}
        for key, project in self.categories.items():
            if key in used or project.parent == project.name:
                continue
            others = {other: category for other, category in self.categories.items() if other != key}
            if others and all(category.parent == project.name for category in others.values()):
                return others
        return self.categories


def read_instances(path: Path) -> Instances:
    """Read and check an instances file. Raises `DataError` (one line) for what is not of the format."""
    document = _load(path)
    problems: list[str] = []
    images = _read_images(_entries(document, "images", ("id", "file_name"), path), path, problems)
    categories = _read_categories(_entries(document, "categories", ("id", "name"), path), path)
    objects, lines = [], dict[Id, int]()
    for index, entry in enumerate(_entries(document, "annotations", ("image_id", "category_id", "bbox"), path)):
        about = f"annotations[{index}]"
        if entry.get("id") is not None:
            key = _key(_id(entry["id"], f"{path}: {about}"))
            if lines.setdefault(key, index) != index:
                _refuse_same_id(path, key, f"annotations[{lines[key]}] and {about}")
            about = f"annotation {short(key)}"
        try:
            objects.append(_read_object(entry, about, images, categories))
        except DataError as error:
            problems.append(str(error))
    all_crowd = bool(objects) and all(found.crowd for found in objects)
    if all_crowd:
        objects = [replace(found, crowd=False) for found in objects]
    return Instances(path, images, categories, objects, problems, all_crowd)


def _read_images(entries: list[Entry], path: Path, problems: list[str]) -> dict[Id, CocoImage]:
    images: dict[Id, CocoImage] = {}
    for index, entry in enumerate(entries):
        where = f"images[{index}]"
        if not isinstance(entry["file_name"], str):
            raise DataError(f"{path}: {where}: expected a text as file_name, got {short(entry['file_name'])}")
        said = [entry.get(side) for side in ("width", "height")]
        width, height = map(_number, said)
        size = None if math.isnan(width + height) else (width, height)
        if size is None and said != [None, None]:
            problems.append(f"size without numbers: expected width and height, got {short(said)} ({where})")
        image = CocoImage(_id(entry["id"], f"{path}: {where}"), entry["file_name"], size)
        key = _key(image.id)
        if key in images and images[key].name == image.name:
            problems.append(f"image listed twice: {image.name!r} ({where})")
        elif key in images:
            _refuse_same_id(path, key, f"images {images[key].name!r} and {image.name!r}")
        images[key] = image
    return images


def _read_categories(entries: list[Entry], path: Path) -> dict[Id, CocoCategory]:
    categories: dict[Id, CocoCategory] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: categories[{index}]"
        if not isinstance(entry["name"], str):
            raise DataError(f"{where}: expected a text as name, got {short(entry['name'])}")
        try:
            name = check_class_name(entry["name"])
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        category = CocoCategory(_id(entry["id"], where), name, entry.get("supercategory"))
        first = categories.setdefault(_key(category.id), category)
        if first.name != name:
            _refuse_same_id(path, category.id, f"categories {first.name!r} and {name!r}")
    order = sorted(categories, key=lambda key: (isinstance(key, str), key))  # numbers before texts
    return {key: categories[key] for key in order}


def _read_object(
    entry: Entry, about: str, images: dict[Id, CocoImage], categories: dict[Id, CocoCategory]
) -> CocoObject:
    """Read an entry of `annotations`. Raises `DataError` (kind: detail) for one that cannot be used."""
    about = f"{about} of image {short(entry['image_id'])}"
    image, category = _known(entry["image_id"], images), _known(entry["category_id"], categories)
    if image is None:
        raise DataError(f"unknown image: {about}")
    if category is None:
        raise DataError(f"unknown category: {short(entry['category_id'])} ({about})")
    bbox = entry["bbox"]
    numbers = [_number(value) for value in bbox] if isinstance(bbox, list) else []
    left, top, width, height = numbers if len(numbers) == 4 else [math.nan] * 4
    edges = (left, top, left + width, top + height)
    if not all(map(math.isfinite, edges)):
        raise DataError(f"box without numbers: expected left, top, width, height, got {short(bbox)} ({about})")
    area = _number(abs(width * height) if entry.get("area") is None else entry["area"])
    if math.isnan(area):
        raise DataError(f"area that is no number: {short(entry['area'])} ({about})")
    crowd = entry.get("iscrowd")
    if crowd not in (None, 0, 1, "0", "1"):
        raise DataError(f"iscrowd that is neither 0 nor 1: {short(crowd)} ({about})")
    return CocoObject(about, image, category, edges, area, crowd in (1, "1"))


def _load(path: Path) -> Entry:
    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not valid JSON: not text in UTF-8") from None
    except ValueError:
        raise DataError(f"{path}: not valid JSON: a number of thousands of digits") from None
    except RecursionError:
        raise DataError(f"{path}: not valid JSON: lists within lists, hundreds deep") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected an object with images, annotations and categories, got {short(document)}")
    return document


def _entries(document: Entry, key: str, fields: tuple[str, ...], path: Path) -> list[Entry]:
    """The list `document[key]`, whose entries have these fields."""
    entries = document.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list {key!r}; there are: {', '.join(document)[:80] or 'no keys'}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not all(field in entry for field in fields):
            raise DataError(f"{path}: {key}[{index}]: expected the fields {', '.join(fields)}, got {short(entry)}")
    return entries


def _id(value: object, where: str) -> Id:
    """An id as it was written. Raises `DataError` for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: expected a whole number or a text as id, got {short(value)}")
    return value


def _known(value: object, known: Container[Id]) -> Id | None:
    """The key of a known id, None for anything else."""
    try:
        key = _key(_id(value, "id"))
    except DataError:
        return None
    return key if key in known else None


def _key(value: Id) -> Id:
    """The same for an id as a number and as text."""
    return int(value) if isinstance(value, str) and re.fullmatch("0|-?[1-9][0-9]{0,17}", value) else value


def _number(value: object) -> float:
    """A finite number; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # hundreds of digits
        return math.nan


def _refuse_same_id(path: Path, value: Id, both: str) -> None:
    raise DataError(
        f"{path}: {both} have the same id {short(value)}: expected distinct ids (merged files need new ones)"
    )
