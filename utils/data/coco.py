"""COCO's instances files: `read_coco` reads one for conversion, `read_truth` for measuring."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from reprlib import repr as short

import numpy as np

from utils.data.annotations import Annotations, Box, Picture, is_file, possible_paths
from utils.data.instances import CocoCategory, CocoImage, Id, Instances, read_instances
from utils.data.labels import Problem, report
from utils.errors import DataError
from utils.log import counted, progress, warn


def read_coco(path: Path, folder: Path) -> tuple[Annotations, tuple[str, ...]]:
    """Read an instances file whose images lie in `folder`: (pictures and boxes, category names in the order of ids).

    Crowd regions are not single objects: they are left out and counted, unless all are marked so. An image that cannot
    be read, and a box of no size, is left out with a problem. Raises `DataError` for a file that is not of this format.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    instances = read_instances(path)
    categories = instances.without_project()
    _index_by_name(categories, path)
    annotations = Annotations()
    for key in instances.categories.keys() - categories.keys():
        left_out = instances.categories[key].name
        annotations.counts[f"category without boxes left out: {left_out}, the others' supercategory"] = 1
    annotations.problems += [Problem(path, None, message) for message in instances.problems]
    pictures: dict[Id, Picture | None] = {}  # None: could not be read
    places: dict[PurePath, CocoImage] = {}
    for key, image in progress(instances.images.items(), f"reading {path.name}", unit="image"):
        candidates = possible_paths(image.name)
        if not candidates:
            annotations.problems.append(Problem(path, None, f"no name of a file: image {image}"))
            pictures[key] = None
            continue
        name = next((candidate for candidate in candidates if is_file(folder / candidate)), candidates[0])
        other = places.setdefault(name, image)
        if other.name != image.name:
            raise DataError(
                f"{path}: images {other} and {image} are both {folder / name}: "
                "expected the folder from which their paths differ"
            )
        pictures[key] = annotations.add_picture(folder / name, name, image.size, path)
    for found in instances.objects:
        picture = pictures[found.image]
        if picture is None:
            annotations.counts["boxes of images that cannot be read"] += 1
        elif found.crowd:
            annotations.counts["crowd regions left out"] += 1
        else:
            box = Box(categories[found.category].name, *found.edges)
            annotations.add_box(picture, box, path, f"{found.about}, {picture.name}")
            annotations.counts["boxes marked as crowd regions kept, since all are"] += instances.all_crowd
    return annotations, tuple(category.name for category in categories.values())


@dataclass(frozen=True)
class Objects:
    """One image's objects as its annotation file has them: nothing is clipped or left out."""

    image_id: Id
    boxes: np.ndarray  # (N, 5) float64: class, x1, y1, x2, y2 in pixels
    area: np.ndarray  # (N,) pixels
    crowd: np.ndarray  # (N,) bool


@dataclass(frozen=True)
class CocoTruth:
    """The objects of each image file, and the category id of each class."""

    path: Path
    images: dict[Path, Objects]
    category_ids: tuple[Id, ...]


def read_truth(path: Path, names: Sequence[str], files: Sequence[Path]) -> CocoTruth:
    """All objects of the images `files` in an instances file, for measuring; `names` are the classes in order.

    Raises `DataError` for a file that is not of this format, has other categories, or does not have each image once.
    """
    instances = read_instances(path)
    report([Problem(path, None, message) for message in instances.problems], all_in=str(path))
    categories = instances.categories
    if len(categories) > len(names):
        categories = instances.without_project()
    keys = _index_by_name(categories, path)
    if set(keys) != set(names):
        other = min(set(keys) ^ set(names))
        raise DataError(f"{path}: expected the categories to be the classes of the data set; {other!r} is in one alone")
    if instances.all_crowd:
        count = counted(len(instances.objects), "object")
        warn(f"warning: {path}: all {count} are marked as crowd regions: taken as objects")
    classes = {keys[name]: float(index) for index, name in enumerate(names)}
    rows: dict[Id, list[tuple[float, ...]]] = {key: [] for key in instances.images}
    for found in instances.objects:
        x0, y0, x1, y1 = found.edges
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        rows[found.image].append((classes[found.category], *box, found.area, float(found.crowd)))
    images = {}
    for file, entries in _match(files, instances).items():
        of_all = [row for key in entries for row in rows[key]]
        # The file may be listed under several ids, with the same objects.
        table = np.array(of_all if len(entries) == 1 else list(dict.fromkeys(of_all)), np.float64).reshape(-1, 7)
        images[file] = Objects(instances.images[entries[0]].id, table[:, :5], table[:, 5], table[:, 6] > 0)
    return CocoTruth(path, images, tuple(categories[keys[name]].id for name in names))


def _index_by_name(categories: dict[Id, CocoCategory], path: Path) -> dict[str, Id]:
    """The key of each category by its name. Raises `DataError` where two have one name, or there is none."""
    keys: dict[str, Id] = {}
    for key, category in categories.items():
        if category.name in keys:
            first = categories[keys[category.name]]
            both = f"{short(first.id)} and {short(category.id)} are both {category.name!r}"
            raise DataError(f"{path}: categories: expected names that differ, but {both}")
        keys[category.name] = key
    if not keys:
        raise DataError(f"{path}: categories: expected names that differ, got none")
    return keys


def _match(files: Sequence[Path], instances: Instances) -> dict[Path, list[Id]]:
    """The image entries of each file, by its path below the folder that all files share, else by the most folders.

    Raises `DataError` where there is none, where two differ in nothing that the file's path tells, and where two files
    have the same entry.
    """
    by_name = defaultdict[str, list[tuple[PurePath, Id]]](list)
    for key, image in instances.images.items():
        for name in {candidate.name: candidate for candidate in reversed(possible_paths(image.name))}.values():
            by_name[name.name].append((name, key))
    matched: dict[Path, list[Id]] = {}
    owners: dict[Id, Path] = {}
    top = os.path.commonpath([file.absolute().parent for file in files]) if files else ""
    for file in dict.fromkeys(files):
        below = file.absolute().relative_to(top)
        agreed = [((name.parts == below.parts, _common_tail(file, name)), key) for name, key in by_name[file.name]]
        best = max((agreement for agreement, _ in agreed), default=None)
        matched[file] = [key for agreement, key in agreed if agreement == best]
        entries = [instances.images[key] for key in matched[file]]
        if not entries:
            raise DataError(f"{instances.path}: expected all validation images, {file} is not in it")
        other = next((entry for entry in entries if entry.name != entries[0].name), None)
        if other is not None:
            both = f"images {entries[0]} and {other}"
            raise DataError(f"{instances.path}: {file} may be both {both}: expected folders that tell them apart")
        if owners.setdefault(matched[file][0], file) != file:
            both = f"{owners[matched[file][0]]} and {file}"
            raise DataError(f"{instances.path}: image {entries[0]} may be both {both}")
    return matched


def _common_tail(one: PurePath, other: PurePath) -> int:
    """How many parts of two paths are the same, counted from the end."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(one.parts), len(other.parts)))
