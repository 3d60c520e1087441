"""What a data set is: its classes and its images, from a Darknet `.data` or an Ultralytics-style `.yaml` file.

The two formats meet in `DataSpec`; nothing after this file knows which one it was. `data/README.md` shows both.
"""

import difflib
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data import shapes
from utils.data.folders import find_files, find_listed, read_list, warn_of_moved
from utils.errors import DataError
from utils.files import find_file, make_writable, read_text, user_path
from utils.names import check_names, read_names
from utils.yamlfile import read_yaml

USED_KEYS = ("classes", "train", "valid", "test", "names", "annotations", "generator")
DARKNET_KEYS = ("backup", "difficult", "eval", "labels", "map", "results", "top", "tree")  # known, without effect here
MAX_CLASSES = 99_999
SHORT = reprlib.Repr()
SHORT.maxlevel = 2  # lists of lists of lists can be endless
YAML_KEYS = ("path", "train", "val", "valid", "test", "names", "nc", "annotations")


@dataclass(frozen=True)
class DataSpec:
    """A data set: class names and image files. `train` or `valid` may be empty; `test` is, unless it was asked for.

    `annotations` is a COCO JSON file that has the validation images' objects, with their areas and crowd regions.
    """

    path: Path
    names: tuple[str, ...]
    train: tuple[Path, ...]
    valid: tuple[Path, ...]
    test: tuple[Path, ...] = ()
    annotations: Path | None = None

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.names)


def load_data(path: str | Path, test: bool = False) -> DataSpec:
    """Read a `.data`, `.yaml` or `.yml` file, given by path or by its bare name in the project's `data/` folder.

    With `test` also its test images: many files name a folder of them that nobody has downloaded.

    Raises `DataError` (file, line where there is one, expected, got) for a missing file or key, an unknown key,
    class counts that contradict one another, and an image list or folder that names no image.
    """
    path = find_file(path, "data", DataError).absolute()
    spec = _load_yaml(path, test) if path.suffix.lower() in {".yaml", ".yml"} else _load_darknet(path, test)
    if not spec.train and not spec.valid and not spec.test:
        raise DataError(f"{path}: expected train or valid (an image list or folder), got neither")
    return spec


# --- Darknet .data ---------------------------------------------------------------------------------------------------


def _load_darknet(path: Path, test: bool) -> DataSpec:
    options = _read_options(path)
    roots = [path.parent, Path.cwd()]
    drawn = _draw_shapes(options, path) if "generator" in options else None

    def where(key: str) -> str:
        return f"{path}:{options[key][1]}: {key}"

    def images(key: str) -> tuple[Path, ...]:
        if key not in options:
            return ()
        values = [value.strip() for value in options[key][0].split(",") if value.strip()]
        if drawn is not None and key in shapes.SPLITS:
            values = [str(drawn / "images" / key)]
        return _find_images(values, roots, where(key))

    names = count = None
    if "names" in options:
        names = read_names(_locate(options["names"][0], roots, where("names")))
    if "classes" in options:
        count = _class_count(options["classes"][0], where("classes"))
    agreed = _agreed_names(names, count, where("classes") if count else f"{path}: classes")
    coco = _locate(options["annotations"][0], roots, where("annotations")) if "annotations" in options else None
    return DataSpec(path, agreed, images("train"), images("valid"), images("test") if test else (), coco)


def _read_options(path: Path) -> dict[str, tuple[str, int]]:
    """The `key=value` lines of a .data file: key -> (value, line number)."""
    options: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(read_text(path, DataError).splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not value:
            raise DataError(f"{path}:{number}: expected key=value, got {line!r}")
        if key not in USED_KEYS + DARKNET_KEYS:
            raise DataError(f"{path}:{number}: unknown key {key!r}; known are {', '.join(USED_KEYS + DARKNET_KEYS)}")
        if key in options:
            raise DataError(f"{path}:{number}: {key} was already given in line {options[key][1]}")
        options[key] = (value, number)
    return options


def _draw_shapes(options: dict[str, tuple[str, int]], path: Path) -> Path:
    """`generator=shapes`: draw the images, unless they are there, into the folder that train and valid name.

    Returns FOLDER, or the one in the user's cache where this cannot be written.
    """
    value, number = options["generator"]
    if value != "shapes":
        raise DataError(f"{path}:{number}: generator: expected shapes, got {value!r}")
    train, valid = (Path(options[key][0]) if key in options else Path() for key in ("train", "valid"))
    folder = train.parent.parent
    if (train, valid) != (folder / "images" / "train", folder / "images" / "valid") or not folder.name:
        raise DataError(
            f"{path}:{number}: generator=shapes draws into FOLDER/images/train and FOLDER/images/valid; "
            f"expected these as train and valid, got {str(train)!r} and {str(valid)!r}"
        )
    return make_writable(path.parent / folder, shapes.generate)


# --- Ultralytics-style .yaml -----------------------------------------------------------------------------------------


def _load_yaml(path: Path, test: bool) -> DataSpec:
    options = _read_yaml(path)
    root = path.parent
    if options.get("path") is not None:
        root = _locate(str(options["path"]), [path.parent, Path.cwd()], f"{path}: path")
    roots = [root, path.parent, Path.cwd(), root / "train"]  # the last for Roboflow, which writes ../train/images

    def images(key: str) -> tuple[Path, ...]:
        value = options.get(key)
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in values):
            raise DataError(f"{path}: {key}: expected a path or a list of paths, got {SHORT.repr(value)}")
        return _find_images(values, roots, f"{path}: {key}")

    count = None
    if options.get("nc") is not None:
        count = _class_count(str(options["nc"]), f"{path}: nc")
    names = _agreed_names(_yaml_names(options.get("names"), path), count, f"{path}: nc")
    coco = options.get("annotations")
    file = None if coco is None else _locate(str(coco), roots, f"{path}: annotations")
    valid = images("val") or images("valid")
    return DataSpec(path, names, images("train"), valid, images("test") if test else (), file)


def _read_yaml(path: Path) -> dict[str, Any]:
    options = read_yaml(path, "keys such as train, val and names", DataError, words="names")
    if options.get("kpt_shape") is not None:  # their lines would be taken for polygons
        raise DataError(f"{path}: kpt_shape: expected labels of boxes or polygons, not of key points")
    for key in options:
        # Such files carry keys for other programs; one that is nearly ours is a slip of the pen.
        close = difflib.get_close_matches(str(key), YAML_KEYS, n=1, cutoff=0.75)
        if key not in YAML_KEYS and close:
            raise DataError(f"{path}: unknown key {key!r}; did you mean {close[0]!r}?")
        if key in ("path", "nc", "annotations") and isinstance(options[key], list | dict):
            raise DataError(f"{path}: {key}: expected one value, got {SHORT.repr(options[key])}")
    return options


def _yaml_names(names: Any, path: Path) -> list[str] | None:
    if names is None:
        return None
    if not isinstance(names, list | dict) or not names:
        raise DataError(f"{path}: names: expected a list or a mapping from 0, 1 ... to a name, got {SHORT.repr(names)}")
    if isinstance(names, dict):
        keys = list(map(str, range(len(names))))
        if set(names) != set(keys):
            raise DataError(f"{path}: names: expected the keys 0..{len(names) - 1}, got {SHORT.repr(list(names))}")
        names = [names[key] for key in keys]
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{path}: names: expected a name for class {index}, got {SHORT.repr(name)}")
    check_names(names, f"{path}: names")
    return names


# --- Common to both --------------------------------------------------------------------------------------------------


def _class_count(value: str, where: str) -> int:
    if not value.isdecimal() or len(value) > len(str(MAX_CLASSES)) or not 0 < int(value) <= MAX_CLASSES:
        raise DataError(f"{where}: expected 1 to {MAX_CLASSES}, got {SHORT.repr(value)}")
    return int(value)


def _agreed_names(names: Sequence[str] | None, count: int | None, where: str) -> tuple[str, ...]:
    if names is None:
        if count is None:
            raise DataError(f"{where}: missing; expected the number of classes, or names")
        return tuple(f"class_{i}" for i in range(count))
    if count is not None and count != len(names):
        raise DataError(f"{where}: expected the number of names, {len(names)}, got {count}")
    return tuple(names)


def _locate(value: str, roots: Sequence[Path], where: str) -> Path:
    """The file or folder `value`, relative to the first of `roots` that has it."""
    found = find_listed(value, list(dict.fromkeys(roots)))
    if found is None:
        looked = ", ".join(dict.fromkeys(str(root / user_path(value)) for root in roots))
        raise DataError(f"{where}={value}: no such file or folder (looked at {looked})")
    warn_of_moved(where, {value: found})
    return found


def _find_images(values: Sequence[str], roots: Sequence[Path], where: str) -> tuple[Path, ...]:
    """The images that list files and folders name, in their order; a folder's sorted, its subfolders included."""
    images: list[Path] = []
    for value in values:
        place = _locate(value, roots, where)
        found = find_files(place) if place.is_dir() else _listed_images(place, roots)
        if not found:
            kind = "folder holds" if place.is_dir() else "list names"
            raise DataError(f"{where}: expected images, but this {kind} none: {place}")
        images += found
    return tuple(images)


def _listed_images(path: Path, roots: Sequence[Path]) -> list[Path]:
    """The images of a list file, one path a line, each relative to the list's folder or to the first root that has it.

    An entry that is found nowhere stays in the list, to be reported with the other unreadable images; a list of which
    nothing is found raises `DataError`.
    """
    entries = read_list(path)
    folders = list(dict.fromkeys([path.parent, *roots]))
    found = {entry: find_listed(entry, folders) for entry in entries}
    missing = sum(found[entry] is None for entry in entries)
    if entries and missing == len(entries):
        looked = ", ".join(str(folder / entries[0]) for folder in folders)
        raise DataError(
            f"{path}:1: expected image paths, but none of the {missing} exist; the first was looked for at {looked}"
        )
    warn_of_moved(str(path), found)
    return [found[entry] or folders[0] / entry for entry in entries]
