"""`python -m utils.data.formats voc SRC DST` or `... coco ANNOTATIONS IMAGES DST`: make a ready data set in DST.

DST gets images/<split>/, labels/<split>/, train.txt, valid.txt and, named after DST, a .names and a .data file;
problems.txt names what was left out, if anything; annotations.json is COCO's own file, for test.py. It is built
beside its place and renamed when complete; nothing that exists is overwritten.
"""

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from utils.data.annotations import Annotations, Picture, one_line
from utils.data.coco import read_coco
from utils.data.datafile import read_names
from utils.data.labels import Sample, label_places, report
from utils.data.split import stratify
from utils.data.voc import read_voc
from utils.errors import DataError
from utils.files import check_empty, whole_folder
from utils.log import counted, progress, say
from utils.options import check_types, run_command


@dataclass(frozen=True)
class VocOptions:
    """Convert a Pascal VOC folder (Annotations, ImageSets/Main, JPEGImages), or a folder of images and XML files."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """The folder."""
    destination: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to make."""
    train: str = "trainval"
    """The list in ImageSets/Main, or the folder in SRC, to train on."""
    valid: str = "test"
    """The list or folder to validate on; or a share, such as 0.2, of the training images (without lists: of all)."""
    names: Path | None = None
    """A file of class names, one a line, that fixes their order; else sorted by name."""
    copy: bool = False
    """Copy the images instead of linking to them."""


@dataclass(frozen=True)
class CocoOptions:
    """Convert a COCO instances file."""

    annotations: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ANNOTATIONS.json")]
    """The JSON file with the training images' boxes."""
    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """The folder of the images."""
    destination: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to make."""
    valid_annotations: Path | None = None
    """The JSON file with the validation images' boxes; without it, validation is on the training images."""
    valid_images: Path | None = None
    """The folder of the validation images, if another."""
    names: Path | None = None
    """A file of class names, one a line, that fixes their order; else in the order of the category ids."""
    copy: bool = False
    """Copy the images instead of linking to them."""


ANNOTATIONS = "annotations.json"
Options = Annotated[VocOptions, tyro.conf.subcommand("voc")] | Annotated[CocoOptions, tyro.conf.subcommand("coco")]


@dataclass(frozen=True)
class Written:
    """What `write_dataset` made: the .data file, and how many images were linked and copied."""

    data: Path
    linked: int
    copied: int


def convert_voc(options: VocOptions) -> None:
    """Run `voc`. Raises `DataError` for a source it cannot use or a destination that is not empty."""
    check_types(options)
    check_empty(options.destination)
    share = _share(options.valid)
    splits = {"train": read_voc(options.source, options.train, else_all=share is not None)}
    if share is None:
        splits["valid"] = read_voc(options.source, options.valid)
    _check_left(splits)
    if share is not None:
        splits = _divide(splits["train"], share)
    found = {box.name for split in splits.values() for picture in split.pictures for box in picture.boxes}
    names = _chosen_names(options.names, tuple(sorted(found)), found)
    finish(options.destination, splits, names, options.copy)


def convert_coco(options: CocoOptions) -> None:
    """Run `coco`. Raises `DataError` for a source it cannot use or a destination that is not empty."""
    check_types(options)
    check_empty(options.destination)
    if options.valid_images is not None and options.valid_annotations is None:
        raise DataError("--valid-images: expected --valid-annotations with it")
    train, names = read_coco(options.annotations, options.images)
    splits = {"train": train}
    if options.valid_annotations is not None:
        splits["valid"], valid_names = read_coco(options.valid_annotations, options.valid_images or options.images)
        if valid_names != names:
            raise DataError(
                f"{options.valid_annotations}: expected the categories of {options.annotations}, got others"
            )
    _check_left(splits)
    found = {box.name for split in splits.values() for picture in split.pictures for box in picture.boxes}
    chosen = _chosen_names(options.names, names, found)
    coco = (options.valid_annotations or options.annotations) if set(chosen) == set(names) else None
    finish(options.destination, splits, chosen, options.copy, coco)


def write_dataset(
    folder: Path, splits: dict[str, Annotations], names: tuple[str, ...], copy: bool, coco: Path | None = None
) -> Written:
    """Write the data set described at the top of this file; without a split "valid", that list is the training list.

    `coco`, the validation images' annotation file, is kept beside it: test.py measures with its areas and crowds.

    Raises `DataError` when two images would share a label file, `FileExistsError` when `folder` is there and not empty.
    """
    folder = folder.absolute()
    placed: Counter[str] = Counter()
    with whole_folder(folder) as partial:
        for split, annotations in splits.items():
            lines = []
            for picture in progress(annotations.pictures, f"writing {split}", unit="image"):
                relative = Path("images", split, picture.name)
                placed[_place(picture.image, partial / relative, copy)] += 1
                _write_labels(picture, partial / relative, names)
                lines.append(f"{relative.as_posix()}\n")
            (partial / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
        valid = "valid" if "valid" in splits else "train"
        text = f"classes={len(names)}\ntrain=train.txt\nvalid={valid}.txt\nnames={folder.name}.names\n"
        if coco is not None:
            shutil.copyfile(coco, partial / ANNOTATIONS)
            text += f"annotations={ANNOTATIONS}\n"
        (partial / f"{folder.name}.data").write_text(text, encoding="utf-8")
        (partial / f"{folder.name}.names").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        problems = [f"{one_line(str(each))}\n" for annotations in splits.values() for each in annotations.problems]
        if problems:
            (partial / "problems.txt").write_text("".join(problems), encoding="utf-8")
    return Written(folder / f"{folder.name}.data", placed["linked"], placed["copied"])


def _share(valid: str) -> float | None:
    """The share that `--valid` gives, None where it is a list's name."""
    try:
        share = float(valid)
    except ValueError:
        return None
    return share if 0 < share < 1 else None


def _divide(annotations: Annotations, share: float) -> dict[str, Annotations]:
    """Take a share of the pictures for validation, of each class alike; problems and counts stay with training."""
    names = sorted({box.name for picture in annotations.pictures for box in picture.boxes})
    samples = []
    for picture in annotations.pictures:
        labels = np.zeros((len(picture.boxes), 5), np.float32)
        labels[:, 0] = [names.index(box.name) for box in picture.boxes]
        samples.append(Sample(picture.image, labels, (picture.width, picture.height)))
    part = stratify(samples, [1 - share, share]).tolist()
    train, valid = (
        [p for p, place in zip(annotations.pictures, part, strict=True) if place == index] for index in (0, 1)
    )
    if not train or not valid:
        raise DataError(
            f"--valid {share:g}: expected images enough for two parts, got {counted(len(samples), 'image')}"
        )
    return {"train": replace(annotations, pictures=train), "valid": Annotations(valid)}


def _check_left(splits: dict[str, Annotations]) -> None:
    """Raise `DataError`, with the first problems, where no image is left, or of the training images' boxes none."""
    for split, annotations in splits.items():
        lost_all = not annotations.num_boxes and (annotations.problems or annotations.counts.total())
        if not annotations.pictures or (lost_all and split == "train"):
            what = "box" if annotations.pictures else "image"
            problems = "; ".join(map(str, annotations.problems[:3])) or "none"
            count = counted(len(annotations.problems), "problem")
            raise DataError(f"{split}: no {what} left to write; {count}, the first: {problems}")


def _chosen_names(file: Path | None, default: tuple[str, ...], found: set[str]) -> tuple[str, ...]:
    """The class names: those of `file` where it is given, which must cover all that were found."""
    names = default if file is None else tuple(read_names(file))
    unknown = sorted(found - set(names))
    if unknown:
        raise DataError(f"{file}: expected a name for every class, but there are boxes of {', '.join(unknown)}")
    return names


def _place(source: Path, target: Path, copy: bool) -> str:
    """Put an image in its place; says whether it was "linked" or "copied" (also where no links can be made)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            target.symlink_to(source.resolve())
        except FileExistsError:
            raise
        except OSError:
            pass
        else:
            return "linked"
    shutil.copyfile(source, target)
    return "copied"


def _write_labels(picture: Picture, image: Path, names: tuple[str, ...]) -> None:
    """Write the label file of a picture that was put at `image`."""
    path = label_places(image)[0]
    if path.exists():
        raise DataError(f"{picture.image}: another image has the same name but for its suffix, and so the same labels")
    lines = []
    for box in picture.boxes:
        cx, cy = (box.left + box.right) / 2 / picture.width, (box.top + box.bottom) / 2 / picture.height
        width, height = (box.right - box.left) / picture.width, (box.bottom - box.top) / picture.height
        lines.append(f"{names.index(box.name)} {cx:.8f} {cy:.8f} {width:.8f} {height:.8f}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def finish(
    folder: Path, splits: dict[str, Annotations], names: tuple[str, ...], copy: bool, coco: Path | None = None
) -> None:
    """Write the data set and say what happened."""
    written = write_dataset(folder, splits, names, copy, coco)
    problems = [problem for annotations in splits.values() for problem in annotations.problems]
    report(problems, all_in=f"{folder / 'problems.txt'}")
    for split, annotations in splits.items():
        backgrounds = sum(not picture.boxes for picture in annotations.pictures)
        images = counted(len(annotations.pictures), "image")
        boxes = counted(annotations.num_boxes, "box", "boxes")
        problem_count = counted(len(annotations.problems), "problem")
        say(f"{split}: {images} ({backgrounds:,} without boxes), {boxes}, {problem_count}")
        for what, number in annotations.counts.items():
            if number:
                say(f"{split}: {number:,} {what}")
    if "valid" not in splits:
        say("valid: the same images as train, so its figures say nothing about new images")
    say(f"{counted(len(names), 'class', 'classes')}: {', '.join(names)}")
    say(f"written to {folder}: {written.data.name}, {written.linked:,} images linked, {written.copied:,} copied")
    say(f"next: python train.py --data {folder / written.data.name}")


def main(argv: list[str] | None = None) -> None:
    """The command line."""

    def convert(options: VocOptions | CocoOptions) -> None:
        if isinstance(options, VocOptions):
            convert_voc(options)
        else:
            convert_coco(options)

    run_command(convert, Options, "Make a ready data set from Pascal VOC or COCO annotations.", argv)


if __name__ == "__main__":
    main()
