"""Where class names come from."""

import difflib
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from unicodedata import category

from utils.errors import DataError, InputError
from utils.files import PROJECT, find_file, read_text
from utils.log import warn

COCO_NAMES = PROJECT / "data" / "coco.names"
UNNAMED = "class_{}"


def fits_line(text: str) -> bool:
    """Whether a text can be a line of a file: without control characters, line ends and halves of surrogate pairs."""
    return not any(category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text)


def read_names(path: str | Path) -> tuple[str, ...]:
    """The lines of a .names file, one class each, blank ones left out. A bare name is also looked for in data/."""
    file = find_file(path, "data", DataError)
    lines = StringIO(read_text(file, DataError), newline=None)  # splitlines would divide at U+2028, too
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise DataError(f"{file}: expected class names, one a line, got none")
    check_names(names, str(file))
    return names


def check_names(names: Sequence[str], where: str) -> None:
    """Raise DataError when two classes have the same name, or one has characters that control a terminal."""
    for name, number in Counter(names).items():
        if number > 1:
            raise DataError(f"{where}: expected distinct class names, got {name!r} {number} times")
        if not fits_line(name):
            raise DataError(f"{where}: expected class names without control characters, got {name!r}")


def warn_of_other_names(own: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Say where a network's classes, of the same number, are not called as those of the data set `where`."""
    if len(own) == len(expected) and list(own) != list(map(UNNAMED.format, range(len(own)))):
        for index, (ours, theirs) in enumerate(zip(own, expected, strict=True)):
            if ours != theirs:
                warn(f"warning: class {index} is {ours!r} to the network and {theirs!r} in {where}: other classes?")
                return


def pick_classes(wanted: str | int | Sequence[int | str] | None, names: Sequence[str]) -> list[int]:
    """`0,2`, `cat,dog` or a list of such -> class indices; None: all. Raises InputError for one that is not there."""
    if wanted is None:
        return list(range(len(names)))
    picked = []
    parts = str(wanted).split(",") if isinstance(wanted, str | int) else map(str, wanted)
    for part in (part.strip() for part in parts):
        if part in names:
            picked.append(names.index(part))
        elif part.isdecimal() and int(part) < len(names):
            picked.append(int(part))
        else:
            close = difflib.get_close_matches(part, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected names, or numbers 0 to {len(names) - 1}"
            raise InputError(f"--classes {wanted}: no class {part!r}; {hint}")
    return picked


def class_names(
    num_classes: int,
    given: Sequence[str] | None = None,
    checkpoint: Sequence[str] = (),
    beside: Sequence[Path] = (),
) -> tuple[str, ...]:
    """`given` (must fit), else the checkpoint's, else the only *.names file in the folders of `beside` that fits, else
    COCO's for 80 classes, else class_0, class_1, ...
    """
    if given is not None:
        if len(given) != num_classes:
            raise DataError(f"class names: expected {num_classes}, the network's class count, got {len(given)}")
        return tuple(given)
    if len(checkpoint) == num_classes:
        return tuple(checkpoint)
    folders = dict.fromkeys(path.resolve().parent for path in beside)
    for folder in folders:
        files = sorted(folder.glob("*.names"))
        if len(files) == 1:
            names = read_names(files[0])
            if len(names) == num_classes:
                return names
    if num_classes == 80:
        return read_names(COCO_NAMES)
    return tuple(map(UNNAMED.format, range(num_classes)))
