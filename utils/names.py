"""Where class names come from."""

from collections.abc import Sequence
from pathlib import Path

from utils.errors import DataError
from utils.files import PROJECT, find_file

COCO_NAMES = PROJECT / "data" / "coco.names"


def read_names(path: str | Path) -> tuple[str, ...]:
    """The lines of a .names file, one class each, blank ones left out. A bare name is also looked for in data/."""
    file = find_file(path, "data", DataError)
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if not names:
        raise DataError(f"{file}: expected class names, one a line, got none")
    return names


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
            raise DataError(f"expected {num_classes} class names, the network's class count, got {len(given)}")
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
    return tuple(f"class_{index}" for index in range(num_classes))
