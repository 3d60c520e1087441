"""Which files a folder or a list names: the one place where folders are searched and lists of paths are read."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PureWindowsPath

from utils.data.images import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from utils.errors import DataError
from utils.files import read_text, user_path
from utils.log import counted, warn


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: `.git`, `._0.jpg`, `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def find_files(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, recursive: bool = True) -> list[Path]:
    """The files in a folder with one of these suffixes, sorted; hidden ones aside, links to folders followed.

    Warns of image files that cannot be read here, by suffix, and of folders that are left out.
    """
    found, left_out = [], Counter[str]()
    for place, names in walk(folder) if recursive else [next(walk(folder))]:
        for name in names:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each file takes longer than the rest)
            if suffix in suffixes:
                found.append(place / name)
            elif suffix in UNREADABLE_SUFFIXES:
                left_out[suffix] += 1
    for suffix, number in sorted(left_out.items()):
        warn(f"warning: {folder}: {counted(number, f'{suffix} file')} left out; convert them, to JPEG for example")
    return sorted(found)


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with the names of its files; linked ones last, and none of them twice."""
    seen: set[Path] = set()
    queue = [folder]
    for top in queue:  # grows
        target = real_path(top)
        if top != folder and (target in seen or real_path(top.parent).is_relative_to(target)):
            warn(f"warning: {top}: a link to {target}, which is searched anyway: not followed")
            continue
        for place, folders, files in os.walk(top, onerror=lambda error: warn(f"warning: left out: {error}")):
            here = Path(place)
            visible = [here / name for name in sorted(folders) if not is_hidden(name)]
            folders.clear()
            if real_path(here) not in seen:
                seen.add(real_path(here))
                queue += [each for each in visible if each.is_symlink()]
                folders += [each.name for each in visible if not each.is_symlink()]
                yield here, [name for name in files if not is_hidden(name)]


def real_path(path: Path) -> Path:
    """A path without links; of a link to itself as it is."""
    return Path(os.path.realpath(path))


def read_list(path: Path) -> list[str]:
    """The entries of a text file with a path a line; blank lines and those that begin with # are none."""
    lines = (line.strip() for line in read_text(path, DataError).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def find_listed(entry: str, folders: Sequence[Path]) -> Path | None:
    """The file or folder that a list names, relative to the first of `folders` that has it; None where none has.

    Paths of Windows are read, too. Of a path that was written for another place (`C:\\data\\images\\1.jpg`,
    `data/images/1.jpg`) leading folders that are not there are left out.
    """
    given = user_path(entry)
    for folder in folders:
        if (folder / given).exists():
            return folder / given
    path: PurePath = PureWindowsPath(entry) if "\\" in entry or PureWindowsPath(entry).drive else given
    parts = path.parts[bool(path.anchor) :]
    for folder in folders:
        first = next((index for index, part in enumerate(parts) if (folder / part).exists()), len(parts))
        if first < len(parts) and (found := folder.joinpath(*parts[first:])).exists():
            return found
    return None


def warn_of_moved(where: str, found: Mapping[str, Path | None]) -> None:
    """Say which entries of a list were not found just as they are written, with the first of them."""
    moved = []
    for entry, path in found.items():
        given = user_path(entry).parts
        if path is not None and path.parts[-len(given) :] != given:
            moved.append(entry)
    if moved:
        warn(
            f"warning: {where}: {counted(len(moved), 'path')} written for another place: "
            f"{moved[0]} is read as {found[moved[0]]}"
        )
