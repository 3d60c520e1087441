"""Pascal VOC: lists in ImageSets/Main, one XML file an image in Annotations, the images in JPEGImages.

Coordinates are pixel numbers from 1, the last pixel included, as VOC's own devkit defines them and as real files
show (xmin is never 0, xmax reaches the width): the box's edges are xmin - 1, ymin - 1, xmax and ymax.
A file by a program that counts from 0 has its left edge clipped to the image.
"""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from utils.data.annotations import Annotations, Box, safe_name
from utils.data.images import IMAGE_SUFFIXES
from utils.data.labels import Problem
from utils.errors import DataError
from utils.log import progress

SUFFIXES = sorted(IMAGE_SUFFIXES, key=lambda suffix: (suffix != ".jpg", suffix))


def read_voc(folder: Path, split: str) -> Annotations:
    """Read the images and boxes that `folder/ImageSets/Main/<split>.txt` lists; `difficult` objects are kept.

    Raises `DataError` when there is no such list, naming those there are, or a listed name leaves the folder. An
    image without a sound XML file, and a box of no size, is left out with a problem.
    """
    annotations = Annotations()
    for number, name in progress(_read_list(folder, split), f"reading {split}", unit="image"):
        path = safe_name(name, f"{folder / 'ImageSets' / 'Main' / split}.txt:{number}")
        xml = folder / "Annotations" / f"{path}.xml"
        try:
            root = _parse(xml)
        except DataError as error:
            annotations.problems.append(Problem(xml, None, str(error)))
            continue
        image = _find_image(folder / "JPEGImages" / path)
        picture = annotations.add_picture(image, path.with_name(image.name), _said_size(root), xml)
        if picture is None:
            continue
        for index, element in enumerate(root.findall("object"), start=1):
            try:
                box = _box(element)
            except DataError as error:
                annotations.problems.append(Problem(xml, None, f"{error} (object {index})"))
            else:
                annotations.add_box(picture, box, xml, f"object {index}")
    return annotations


def _read_list(folder: Path, split: str) -> list[tuple[int, str]]:
    """(line number, image name) of each image of a split."""
    lists = folder / "ImageSets" / "Main"
    path = lists / f"{safe_name(split, 'split')}.txt"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in lists.glob("*.txt"))) or "none"
        raise DataError(f"{path}: no such list; expected a split with a list in {lists}, which has: {there}")
    lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, the only place where entities can be defined."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError("unsafe XML: expected no document type, got <!DOCTYPE ...>")


def _parse(path: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(path.read_bytes())
        return parser.close()
    except FileNotFoundError:
        raise DataError("missing annotation: no such file") from None
    except ElementTree.ParseError as error:
        raise DataError(f"not valid XML: {error}") from None


def _find_image(stem: Path) -> Path:
    """The image with this path but for its suffix; the path with `.jpg` when there is none."""
    candidates = [stem.with_name(stem.name + case) for suffix in SUFFIXES for case in (suffix, suffix.upper())]
    return next((candidate for candidate in candidates if candidate.is_file()), candidates[0])


def _said_size(root: ElementTree.Element) -> tuple[int, int] | None:
    width, height = root.findtext("size/width", ""), root.findtext("size/height", "")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None


def _box(element: ElementTree.Element) -> Box:
    name = element.findtext("name", "").strip()
    if not name:
        raise DataError("object without a name: expected <name>")
    texts = [element.findtext(f"bndbox/{key}", "").strip() for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = edges = [float(text) for text in texts]
    except ValueError:
        edges = [math.nan]
    if not all(map(math.isfinite, edges)):
        raise DataError(f"box without numbers: expected xmin, ymin, xmax, ymax, got {', '.join(texts)}")
    if left == right or top == bottom:  # one pixel by the letter, in practice a click that was meant to be no box
        return Box(name, left, top, right, bottom)
    return Box(name, left - 1, top - 1, right, bottom)
