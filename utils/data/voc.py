"""Pascal VOC: lists in ImageSets/Main, one XML file an image in Annotations, the images in JPEGImages.

Also without lists: a folder of XML files and images in any subfolders, paired by name, as labelImg and Roboflow write.

Coordinates are pixel numbers from 1, the last pixel included, as VOC's own devkit defines them and as real files
show (xmin is never 0, xmax reaches the width): the box's edges are xmin - 1, ymin - 1, xmax and ymax.
A file by a program that counts from 0 has its left edge clipped to the image.
"""

import codecs
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.data.annotations import Annotations, Box, check_class_name, is_file, safe_name
from utils.data.folders import find_files
from utils.data.images import IMAGE_SUFFIXES
from utils.data.labels import Problem
from utils.errors import DataError
from utils.files import read_text
from utils.log import progress

SUFFIXES = sorted(IMAGE_SUFFIXES, key=lambda suffix: (suffix != ".jpg", suffix))
LISTS = Path("ImageSets", "Main")
UNICODE_STARTS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    "<".encode("utf-16-le"): "utf-16-le",
    "<".encode("utf-16-be"): "utf-16-be",
}
NOT_OF_TEXT = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})


@dataclass(frozen=True)
class _Annotated:
    """An image, where it goes below the split's folder, and its XML file."""

    xml: Path
    image: Path
    name: PurePosixPath


def read_voc(folder: Path, split: str, else_all: bool = False) -> Annotations:
    """Read the images and boxes that `folder/ImageSets/Main/<split>.txt` lists, or that lie in `folder/<split>`.

    With `else_all` those of the whole folder, if it has no lists. `difficult` objects are kept.

    Raises `DataError` when there is no such list or folder, naming the lists there are, or a listed name leaves the
    folder. An image without a sound XML file, and a box of no size, is left out with a problem.
    """
    annotations = Annotations()
    name = safe_name(split, "split")
    lists = sorted((folder / LISTS).glob("*.txt"))
    if folder / LISTS / f"{name}.txt" in lists:
        found = _listed(folder, folder / LISTS / f"{name}.txt")
    elif (folder / name).is_dir():
        found = _paired(folder / name, annotations)
    elif else_all and not lists:
        found = _paired(folder, annotations)
    else:
        there = ", ".join(file.stem for file in lists) or "none: with --valid 0.2 all images are found and divided"
        raise DataError(
            f"{folder / LISTS / name}.txt: no such list; expected a split with a list in {folder / LISTS}, "
            f"which has: {there}"
        )
    for annotated in progress(found, f"reading {split}", unit="image"):
        xml = annotated.xml
        try:
            root = _parse(xml)
        except DataError as error:
            annotations.problems.append(Problem(xml, None, str(error)))
            continue
        picture = annotations.add_picture(annotated.image, annotated.name, _said_size(root), xml)
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


def _listed(folder: Path, path: Path) -> list[_Annotated]:
    """The images of a list, one name a line without a suffix."""
    found = []
    for number, line in enumerate(read_text(path, DataError).splitlines(), start=1):
        if line.strip():
            name = safe_name(line.strip(), f"{path}:{number}")
            image = _find_image(folder / "JPEGImages" / name)
            found.append(_Annotated(folder / "Annotations" / f"{name}.xml", image, name.with_name(image.name)))
    return found


def _paired(folder: Path, annotations: Annotations) -> list[_Annotated]:
    """The images below a folder, each with the XML file of its name; those without one become problems."""
    files = find_files(folder, {*IMAGE_SUFFIXES, ".xml"})
    xmls = [file for file in files if file.suffix.lower() == ".xml"]
    images = [file for file in files if file.suffix.lower() != ".xml"]
    by_stem = defaultdict[str, list[Path]](list)
    for image in images:
        by_stem[image.stem].append(image)
    if not images or not xmls:
        raise DataError(f"{folder}: expected images and XML files, got {len(images)} and {len(xmls)}")
    top = Path(os.path.commonpath([image.parent for image in images]))
    found = []
    for xml in xmls:
        candidates = by_stem[xml.stem]
        agreed = [_common_folders(xml, image) for image in candidates]
        best = [image for image, count in zip(candidates, agreed, strict=True) if count == max(agreed)]
        if len(best) == 1:
            found.append(_Annotated(xml, best[0], PurePosixPath(best[0].relative_to(top).as_posix())))
        elif best:
            annotations.problems.append(Problem(xml, None, f"several images: may be of {best[0]} and of {best[1]}"))
        else:
            annotations.problems.append(Problem(xml, None, f"missing image: none of this name in {folder}"))
    for image in sorted(set(images) - {annotated.image for annotated in found}):
        annotations.problems.append(Problem(image, None, f"missing annotation: no XML file of this name in {folder}"))
    return found


def _common_folders(one: Path, other: Path) -> int:
    """How many of the folders of two paths are the same, from the top: images/train and annotations/train have one."""
    return sum(a == b for a, b in zip(one.parts[:-1], other.parts[:-1], strict=False)) + (one.parent == other.parent)


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, the only place where entities can be defined."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError("unsafe XML: expected no document type, got <!DOCTYPE ...>")


def _parse(path: Path) -> ElementTree.Element:
    """The root element of an XML file, its tags without namespaces. Raises `DataError` (kind: detail)."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError("missing annotation: no such file") from None
    except OSError as error:
        raise DataError(f"unreadable annotation: {error.strerror}") from None
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(_decode(content))
        root = parser.close()
    except ElementTree.ParseError as error:
        raise DataError(f"not valid XML: {error}") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _decode(content: bytes) -> str:
    """An XML file's text, in the encoding that its first bytes or its declaration tell, else UTF-8.

    Raises `DataError` for an encoding that Python does not know, and for content that is not in it. (The parser itself
    knows no encoding of several bytes but UTF-8 and UTF-16.)
    """
    declared = re.match(rb"<\?xml[^>]*?\sencoding\s*=\s*[\"']([^\"'>]*)", content)
    encoding = declared[1].decode("ascii", "backslashreplace") if declared else "utf-8"
    encoding = next((name for start, name in UNICODE_STARTS.items() if content.startswith(start)), encoding)
    try:
        codec = codecs.lookup(encoding).name
        if codec in NOT_OF_TEXT:
            raise LookupError
        return content.decode(codec)
    except UnicodeError:
        raise DataError(f"not valid XML: expected text in {encoding!r}") from None
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        raise DataError(f"unknown encoding: {encoding!r}") from None


def _find_image(stem: Path) -> Path:
    """The image with this path but for its suffix; the path with `.jpg` when there is none."""
    candidates = [stem.with_name(stem.name + case) for suffix in SUFFIXES for case in (suffix, suffix.upper())]
    return next((candidate for candidate in candidates if is_file(candidate)), candidates[0])


def _said_size(root: ElementTree.Element) -> tuple[float, float] | None:
    try:
        width, height = (float(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
    except ValueError:
        return None
    return width, height


def _box(element: ElementTree.Element) -> Box:
    name = element.findtext("name", "").strip()
    if not name:
        raise DataError("object without a name: expected <name>")
    name = check_class_name(name)
    texts = [element.findtext(f"bndbox/{key}", "").strip() for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = edges = [float(text) for text in texts]
    except ValueError:
        edges = [math.nan]
    if not all(map(math.isfinite, edges)):
        raise DataError(f"box without numbers: expected xmin, ymin, xmax, ymax, got {', '.join(texts)}")
    if left == right or top == bottom:  # one pixel by the letter, in practice a click that was meant to be no box
        return Box(name, left, top, right, bottom)
    (left, right), (top, bottom) = _edges(left, right), _edges(top, bottom)
    return Box(name, left, top, right, bottom)


def _edges(first: float, last: float) -> tuple[float, float]:
    """Pixel numbers as edges, in the order that they were given in: the lesser one loses one."""
    return (first - 1, last) if first < last else (first, last - 1)
