"""Pictures with boxes in pixels, as VOC and COCO give them: what their readers share, and what `formats` writes out."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from utils.data.images import image_size
from utils.data.labels import Problem, unreadable_image
from utils.errors import DataError

TOLERANCE = 0.01  # pixels: a box that leaves the image by less is rounding, not clipped


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

    @property
    def num_boxes(self) -> int:
        """The boxes of all pictures."""
        return sum(len(picture.boxes) for picture in self.pictures)

    def add_picture(
        self, image: Path, name: PurePosixPath, said: tuple[int, int] | None, source: Path
    ) -> Picture | None:
        """Add the picture `image`, whose (width, height) is `said` by the annotation file `source` to be such.

        None, and a problem, if the image cannot be read; a problem if the size is not as said (the image's counts).
        """
        try:
            width, height = image_size(image)
        except DataError as error:
            self.problems.append(unreadable_image(image, error))
            return None
        if said is not None and said != (width, height):
            message = f"size disagrees: {image.name} has {width}x{height} pixels (used), not {said[0]}x{said[1]}"
            self.problems.append(Problem(source, None, message))
        picture = Picture(image, name, width, height)
        self.pictures.append(picture)
        return picture

    def add_box(self, picture: Picture, box: Box, source: Path, about: str) -> None:
        """Add a box, clipped to the picture; a problem instead if nothing is left. `about` says where it was found."""
        what = f"{box.name} at {box.left:g},{box.top:g},{box.right:g},{box.bottom:g} ({about})"
        if box.right <= box.left or box.bottom <= box.top:
            self.problems.append(Problem(source, None, f"box of zero size: {what}"))
            return
        left, right = (min(max(x, 0), picture.width) for x in (box.left, box.right))
        top, bottom = (min(max(y, 0), picture.height) for y in (box.top, box.bottom))
        if right <= left or bottom <= top:
            self.problems.append(Problem(source, None, f"box outside its image: {what}"))
            return
        cut = max(abs(left - box.left), abs(top - box.top), abs(right - box.right), abs(bottom - box.bottom))
        self.counts["boxes clipped to the image"] += cut > TOLERANCE
        picture.boxes.append(Box(box.name, left, top, right, bottom))


def safe_name(name: object, where: str) -> PurePosixPath:
    """A file name from an annotation file, relative and within its folder; anything else raises `DataError`."""
    text = str(name)
    path = PurePosixPath(text)
    outside = path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts or "\\" in text
    if outside or not path.name or not text.isprintable():
        raise DataError(f"{where}: expected a file name within the folder, got {text!r}")
    return path
