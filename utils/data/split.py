"""`python -m utils.data.split DATA DST --valid 0.2`: divide a data set's images, each class in the same shares.

Images that have several classes make that a puzzle. It is solved greedily, in the way of Sechidis et al. ("On the
stratification of multi-label data", ECML 2011): the images with the rarest classes first, each where most is lacking.
DST gets lists of the images where they are, a .names and a .data file; no image is copied and no label changed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from utils.data.datafile import load_data
from utils.data.folders import real_path
from utils.data.labels import Sample, load_samples, report
from utils.errors import DataError
from utils.files import check_empty, whole_folder
from utils.log import counted, say
from utils.options import check_types, run_command


@dataclass(frozen=True)
class SplitOptions:
    """How to divide."""

    data: tyro.conf.Positional[str]
    """The .data or .yaml file; its training and validation images are divided anew."""
    destination: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to make."""
    valid: float = 0.2
    """Share of the validation images."""
    test: float = 0.0
    """Share of the test images."""
    seed: int = 0
    """Another one gives another division."""


def stratify(samples: Sequence[Sample], shares: Sequence[float], seed: int = 0) -> np.ndarray:
    """(N,) int64: the part of each sample. `shares` add up to 1; each part gets its share of each class's boxes and of
    the images without any, as nearly as whole images allow.
    """
    rng, wanted = np.random.default_rng(seed), np.array(shares)
    classes = int(max((sample.labels[:, 0].max(initial=-1) for sample in samples), default=-1)) + 1
    boxes = np.stack([np.bincount(sample.labels[:, 0].astype(int), minlength=classes) for sample in samples])
    counts = np.column_stack((boxes, boxes.sum(axis=1) == 0, np.ones(len(samples))))  # and backgrounds, and images
    totals = np.maximum(counts.sum(axis=0), 1)
    lacking = np.outer(wanted, counts.sum(axis=0))  # (parts, classes + 2)
    images_with = (counts > 0).sum(axis=0)
    rarest = np.where(counts > 0, images_with, len(samples) + 1).min(axis=1)  # how many images have its rarest class
    order = rng.permutation(len(samples))
    order = order[np.lexsort((-(counts / totals)[order].max(axis=1), rarest[order]))]
    part = np.zeros(len(samples), np.int64)
    for image in order.tolist():
        change = ((lacking - counts[image]) ** 2 - lacking**2) @ (1 / totals) / wanted
        part[image] = change.argmin()
        lacking[part[image]] -= counts[image]
    return part


def split(options: SplitOptions) -> Path:
    """Write the lists; returns the .data file. Raises `DataError` for bad input."""
    check_types(options)
    shares = {"train": 1 - options.valid - options.test, "valid": options.valid, "test": options.test}
    if min(shares.values()) < 0 or not options.valid > 0 or shares["train"] <= 0:
        raise DataError(f"--valid {options.valid} --test {options.test}: expected shares that leave some for training")
    check_empty(options.destination)
    spec = load_data(options.data)
    images = list({real_path(image): image for image in (*spec.train, *spec.valid)}.values())
    samples, problems = load_samples(images, spec.num_classes, "images")
    report(problems)
    names = [name for name, share in shares.items() if share > 0]
    part = stratify(samples, [shares[name] for name in names], options.seed)
    for number, name in enumerate(names):
        if not (part == number).any():
            raise DataError(f"{options.data}: {counted(len(samples), 'image')} are too few for any in {name}")
    folder = options.destination.absolute()
    with whole_folder(folder) as partial:
        lines = [f"classes={spec.num_classes}"]
        for number, name in enumerate(names):
            lines.append(f"{name}={name}.txt")
            files = [str(samples[i].image.absolute()) for i in np.flatnonzero(part == number)]
            (partial / f"{name}.txt").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
        lines.append(f"names={folder.name}.names")
        (partial / f"{folder.name}.names").write_text("".join(f"{n}\n" for n in spec.names), encoding="utf-8")
        (partial / f"{folder.name}.data").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    _say_shares(samples, part, names, spec.names)
    say(f"written to {options.destination}: {folder.name}.data with {', '.join(f'{name}.txt' for name in names)}")
    return folder / f"{folder.name}.data"


def _say_shares(samples: Sequence[Sample], part: np.ndarray, parts: Sequence[str], names: Sequence[str]) -> None:
    boxes = [Counter[int]() for _ in parts]
    for sample, number in zip(samples, part.tolist(), strict=True):
        boxes[number].update(sample.labels[:, 0].astype(int).tolist())
    width = max(12, *(len(name) for name in names))
    say(f"{'':{width}} " + " ".join(f"{name:>14}" for name in parts))
    say(f"{'images':{width}} " + " ".join(f"{(part == number).sum():>14,}" for number in range(len(parts))))
    for label, name in enumerate(names):
        total = max(1, sum(count[label] for count in boxes))
        say(f"{name:{width}} " + " ".join(f"{count[label]:>7,} {count[label] / total:6.1%}" for count in boxes))


if __name__ == "__main__":
    run_command(split, SplitOptions, "Divide a data set's images into training, validation and test lists.")
