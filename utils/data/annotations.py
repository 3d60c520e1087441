"""Pictures with boxes in pixels, as VOC and COCO give them: what their readers share, and what `formats` writes out."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import parse_qs, unquote

from utils.data.images import image_size
from utils.data.labels import Problem, unreadable_image
from utils.errors import DataError
from utils.names import fits_line

TOLERANCE = 0.01  # pixels: a box that leaves the image by less is rounding, not clipped; a thinner one is none


@dataclass(frozen=True)
class Box:
    """An object: the name of its class and the edges of its box in pixels, from the image's top left corner."""

    name: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass
class Picture:
    """An image file, its size in pixels, where it goes below the split's folder, and its boxes."""

    image: Path
    name: PurePosixPath
    width: int
    height: int
    boxes: list[Box] = field(default_factory=list)


@dataclass
class Annotations:
    """One split: its pictures, what was left out and why, and how often something expected was done to a box."""

    pictures: list[Picture] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _by_name: dict[PurePosixPath, Picture] = field(default_factory=dict, init=False, repr=False)

    @property
    def num_boxes(self) -> int:
        """The boxes of all pictures."""
        return sum(len(picture.boxes) for picture in self.pictures)

    def add_picture(
        self, image: Path, name: PurePosixPath, said: tuple[float, float] | None, source: Path
    ) -> Picture | None:
        """Add the picture `image`, whose (width, height) is `said` by the annotation file `source` to be such.

        None, and a problem, if the image cannot be read; a problem if the size is not as said (the image's counts). A
        picture that was added before is returned again, with a problem.
        """
        if not fits_line(str(name)):
            self.problems.append(
                Problem(source, None, f"no name of a file: expected text in one line, got {str(name)!r}")
            )
            return None
        if name in self._by_name:
            self.problems.append(Problem(source, None, f"image listed twice: {name}; its boxes are put together"))
            return self._by_name[name]
        try:
            width, height = image_size(image)
        except DataError as error:
            self.problems.append(unreadable_image(image, error))
            return None
        if said is not None and said != (width, height):
            message = f"size disagrees: {image.name} has {width}x{height} pixels (used), not {said[0]:g}x{said[1]:g}"
            self.problems.append(Problem(source, None, message))
        picture = self._by_name[name] = Picture(image, name, width, height)
        self.pictures.append(picture)
        return picture

    def add_box(self, picture: Picture, box: Box, source: Path, about: str) -> None:
        """Add a box, clipped to the picture; a problem instead if nothing is left. `about` says where it was found.

        Edges in the wrong order are swapped, and a box that the picture has already is left out; both are counted.
        """
        what = f"{box.name} at {box.left:g},{box.top:g},{box.right:g},{box.bottom:g} ({about})"
        x0, x1 = sorted((box.left, box.right))
        y0, y1 = sorted((box.top, box.bottom))
        if not (x1 - x0 >= TOLERANCE and y1 - y0 >= TOLERANCE):  # also of NaN
            self.problems.append(Problem(source, None, f"box of zero size: {what}"))
            return
        left, right = (min(max(x, 0), picture.width) for x in (x0, x1))
        top, bottom = (min(max(y, 0), picture.height) for y in (y0, y1))
        if right - left < TOLERANCE or bottom - top < TOLERANCE:
            self.problems.append(Problem(source, None, f"box outside its image: {what}"))
            return
        clipped = Box(box.name, left, top, right, bottom)
        if clipped in picture.boxes:
            self.counts["duplicate boxes left out"] += 1
            return
        picture.boxes.append(clipped)
        self.counts["boxes with swapped edges put in order"] += (x0, y0) != (box.left, box.top)
        self.counts["boxes clipped to the image"] += max(left - x0, top - y0, x1 - right, y1 - bottom) > TOLERANCE


def one_line(text: str) -> str:
    """The text with what cannot be in a line of a file escaped."""
    return text if fits_line(text) else "".join(each if fits_line(each) else repr(each)[1:-1] for each in text)


def check_class_name(name: str) -> str:
    """The name without space around it; raises `DataError` if it is empty or cannot stand in a line of a file."""
    name = name.strip()
    if not name or not fits_line(name):
        raise DataError(f"not a class name: expected text in one line, got {name!r}")
    return name


def safe_name(name: str, where: str) -> PurePosixPath:
    """A file name from an annotation file, relative and within its folder; anything else raises `DataError`."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\\" in name
    if outside or not path.name or not fits_line(name):
        raise DataError(f"{where}: expected a file name within the folder, got {name!r}")
    return path


def possible_paths(name: str) -> list[PurePosixPath]:
    """Where a file may be below a folder, by the name that another program gave it: the longest path first.

    `name` may be a path of Windows, lead out of its folder, or be an address, also with a path in `?d=` (Label
    Studio's): `C:\\a\\b.jpg` gives a/b.jpg and b.jpg. Empty for what is no name of a file.
    """
    names = [name]
    if "://" in name or "?d=" in name:
        address, _, query = name.partition("?")
        names = [*parse_qs(query).get("d", ()), unquote(address)]
    paths = []
    for text in names:
        parts: list[str] = []
        for part in text.replace("\\", "/").split("/"):
            if part == ".." or PureWindowsPath(part).drive:
                parts = []
            elif part not in {"", "."}:
                parts.append(part)
        if fits_line(text):
            paths += [PurePosixPath(*parts[start:]) for start in range(len(parts))]
    return paths


def is_file(path: Path) -> bool:
    """Whether there is a file, also for a name that is too long for one."""
    try:
        return path.is_file()
    except OSError:
        return False
