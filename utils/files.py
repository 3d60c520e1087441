"""Files: where a bare name is found, run folders that never overwrite, writes that are whole or absent."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from platformdirs import user_cache_path

from utils.errors import DataError, InputError

READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
PROJECT = Path(__file__).resolve().parent.parent


def user_path(name: str | Path) -> Path:
    """A path with `~` and `~user` expanded; as it is where there is no such user."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (Path.expanduser raises RuntimeError)


def natural_order(path: Path) -> list[list[tuple[bool, int, str]]]:
    """A key to sort paths by, their numbers as numbers: 1.jpg, 2.jpg, 10.jpg."""
    return [
        [(not number, int(part) if number else 0, part) for part in parts for number in [re.fullmatch("[0-9]+", part)]]
        for parts in (re.split("([0-9]+)", name) for name in path.parts)
    ]


def find_file(name: str | Path, folder: str, error: type[InputError] = InputError) -> Path:
    """The file `name` as given (relative to the working directory), else in the project's `folder` ("cfg", "weights").

    Raises `error`, naming every place looked at.
    """
    given = user_path(name)
    places = [given] if given.is_absolute() else [given, PROJECT / folder / given, PROJECT / given]
    for place in places:
        if place.is_file():
            return place
    if given.is_dir():
        raise error(f"{name}: is a folder, expected a file")
    looked = ", ".join(dict.fromkeys(str(place) for place in places[:2]))
    raise error(f"{name}: no such file (looked at {looked})")


def read_text(path: Path, error: type[InputError] = InputError) -> str:
    """The text of a file in UTF-8, its byte order mark aside. Raises `error`, with the line, for other encodings."""
    if path.exists() and not path.is_file():
        raise error(f"{path}: expected a file")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        byte = problem.object[problem.start]
        raise error(f"{path}:{line}: expected text in UTF-8, got the byte 0x{byte:02x}") from None


def make_writable(folder: Path, make: Callable[[Path], None]) -> Path:
    """Have `make` fill a folder of the project, or one in the user's cache where the project is read-only.

    Returns the one that was filled. Raises InputError where neither can be written.
    """
    places = [folder, user_cache_path("ghost-yolo") / folder.name]
    for place in places:
        try:
            make(place)
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
        else:
            return place
    raise InputError(f"{places[0]}: cannot be written, nor can {places[1]}: set XDG_CACHE_HOME to a folder that can")


def new_run_folder(parent: str | Path, name: str) -> Path:
    """Create and return `parent/name`, or `parent/name-2`, `parent/name-3` ... where that is taken."""
    if not name or Path(name).name != name or name in {".", ".."}:
        raise InputError(f"--name {name!r}: expected a plain folder name, without slashes")
    number = 1
    while True:
        folder = Path(parent) / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            if not os.path.lexists(folder):  # what is in the way is a folder above: a link that leads nowhere
                raise InputError(f"{folder}: expected a folder at {error.filename}, got a link to nowhere") from None
            number += 1
        else:
            return folder


def check_writable(folder: str | Path) -> None:
    """Raise InputError unless files can be written into a folder, which need not be there yet: before long work."""
    place = Path(folder).absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"{folder}: results cannot be written here: expected {place} to be a folder with that right")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` when the block ends well, else it vanishes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem[:40]}.{uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # on the disk before it takes the old one's place
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder."""
    for partial in folder.glob(".*.partial*"):
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_empty(folder: Path) -> None:
    """Raise `DataError` unless the folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: expected a new or empty folder; nothing is overwritten")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; it becomes `folder` when the block ends well, else it is removed.

    Raises `FileExistsError` when `folder` exists by then and is not empty: nothing is overwritten.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError as error:
            if folder.exists():
                raise FileExistsError(f"{folder}: exists already") from error
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
