"""What a data set's images gave: put as it was asked for, and written in other tools' formats."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.coco import CocoTruth, read_truth
from utils.data.datafile import DataSpec
from utils.data.labels import Sample
from utils.evaluation.metrics import ImageResult
from utils.files import write_text
from utils.inference.result import label_lines


def read_objects(spec: DataSpec, samples: Sequence[Sample]) -> CocoTruth | None:
    """Read the annotation file of the validation samples, None where the data set names none.

    Raises DataError for a bad file, and where an image is not in it.
    """
    if spec.annotations is None:
        return None
    return read_truth(spec.annotations, spec.names, [sample.image for sample in samples])


def with_objects(result: ImageResult, coco: CocoTruth) -> ImageResult:
    """The result with its annotation file's objects instead of those of the label file."""
    assert result.file is not None
    objects = coco.images[result.file]
    return replace(result, truth=objects.boxes, area=objects.area, crowd=objects.crowd)


def as_asked(
    results: Sequence[ImageResult], names: Sequence[str], chosen: Sequence[int], single_cls: bool
) -> tuple[list[ImageResult], tuple[str, ...]]:
    """The results with only the chosen classes, or with all as one, and the names of the classes."""

    def reduced(result: ImageResult) -> ImageResult:
        keep = np.isin(result.truth[:, 0], chosen)
        truth = result.truth[keep].copy()
        found = result.found[np.isin(result.found[:, 5], chosen)].copy()
        if single_cls:
            truth[:, 0] = found[:, 5] = 0
        return replace(result, truth=truth, found=found, area=result.areas()[keep], crowd=result.crowds()[keep])

    return [reduced(result) for result in results], ("object",) if single_cls else tuple(names)


def coco_results(
    results: Sequence[ImageResult], coco: CocoTruth | None, single_cls: bool = False
) -> list[dict[str, Any]]:
    """Detections as COCO's result format has them; boxes are left, top, width, height in pixels.

    image_id and category_id are those of the annotation file; without one, the file's name without suffix (a number
    where it is one), and the classes counted from 1 (1 with `single_cls`).
    """
    rows = []
    for result in results:
        assert result.file is not None
        stem = result.file.stem
        image = int(stem) if stem.isdecimal() else stem
        if coco is not None:
            image = coco.images[result.file].image_id
        for x1, y1, x2, y2, score, label in result.found.tolist():
            box = [round(value, 5) for value in (x1, y1, x2 - x1, y2 - y1)]
            category = int(label) + 1 if coco is None or single_cls else coco.category_ids[int(label)]
            rows.append({"image_id": image, "category_id": category, "bbox": box, "score": round(score, 8)})
    return rows


def write_labels(folder: Path, results: Sequence[ImageResult]) -> None:
    """A text file for each image, also where nothing was found; NAME-2.txt ... for further images of the same name."""
    names: Counter[str] = Counter()
    for result in results:
        assert result.file is not None
        names[result.file.stem] += 1
        number = names[result.file.stem]
        name = result.file.stem if number == 1 else f"{result.file.stem}-{number}"
        write_text(folder / f"{name}.txt", label_lines(result.found, result.width, result.height))
