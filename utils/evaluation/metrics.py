"""Average precision as COCO defines it, by a COCO evaluator library (its numbers are pycocotools')."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster


@dataclass(frozen=True)
class ClassMetrics:
    """One class: AP over IoU .5 to .95 and at .5, fractions of 1 (None without labels), and its number of labels.

    `ap75` is AP at IoU .75, `ar` the recall of up to 100 detections an image, over IoU .5 to .95.
    """

    ap: float | None
    ap50: float | None
    labels: int
    ap75: float | None = None
    ar: float | None = None


@dataclass(frozen=True)
class Metrics:
    """The data set's AP (means over the classes that have labels), and each class's.

    Small, medium and large are objects of up to 32 x 32, up to 96 x 96 and more pixels of the image itself; None where
    there are none.
    """

    ap: float
    ap50: float
    images: int
    labels: int
    classes: dict[str, ClassMetrics]
    ap75: float | None = None
    ap_small: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    ar: float | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Metrics":
        """From what `dataclasses.asdict` made of one."""
        classes = {name: ClassMetrics(**one) for name, one in values["classes"].items()}
        return cls(**{**values, "classes": classes})

    def __str__(self) -> str:
        return f"AP@.5 {self.ap50:.3f}, AP@.5:.95 {self.ap:.3f}"

    def table(self) -> str:
        """The numbers as text, a line a class."""
        width = max(12, *(len(name) for name in self.classes))
        lines = [f"{'class':{width}} {'labels':>8} {'AP@.5':>8} {'AP@.5:.95':>10}"]
        for name, one in self.classes.items():
            ap50, ap = ("-" if value is None else f"{value:.3f}" for value in (one.ap50, one.ap))
            lines.append(f"{name:{width}} {one.labels:8,} {ap50:>8} {ap:>10}")
        lines.append(f"{'all':{width}} {self.labels:8,} {self.ap50:8.3f} {self.ap:10.3f}")
        return "\n".join(lines)


@dataclass(frozen=True)
class ImageResult:
    """One image's truth and detections, in its own pixels."""

    width: int
    height: int
    truth: np.ndarray  # (N, 5): class, x1, y1, x2, y2
    found: np.ndarray  # (M, 6): x1, y1, x2, y2, score, class
    area: np.ndarray | None = None  # (N,) of the objects in pixels; None: of their boxes
    crowd: np.ndarray | None = None  # (N,) bool: a region of many objects, which need not be found; None: no such
    file: Path | None = None  # the image

    def areas(self) -> np.ndarray:
        """(N,) pixels."""
        return (self.truth[:, 3:] - self.truth[:, 1:3]).prod(axis=1) if self.area is None else self.area

    def crowds(self) -> np.ndarray:
        """(N,) bool."""
        return np.zeros(len(self.truth), bool) if self.crowd is None else self.crowd


def measure(results: Sequence[ImageResult], names: Sequence[str]) -> Metrics:
    """COCO AP of the detections, all areas, at most 100 of a class in an image."""
    labels = np.concatenate([result.truth[~result.crowds(), 0] for result in results] or [np.zeros(0)]).astype(int)
    counts = np.bincount(labels, minlength=len(names))
    precision, recall = _accumulated(results, len(names))
    ap, ar = precision.mean(axis=1), recall.mean(axis=0)  # (10, classes, 4 areas), (classes, 4)
    classes = {}
    for index, name in enumerate(names):
        if counts[index]:
            over, at50, at75 = (float(values[index, 0]) for values in (ap.mean(axis=0), ap[0], ap[5]))
            classes[name] = ClassMetrics(over, at50, int(counts[index]), at75, float(ar[index, 0]))
        else:
            classes[name] = ClassMetrics(None, None, 0)
    every, small, medium, large = (mean_of_known(ap[:, :, area].mean(axis=0)) for area in range(4))
    ap50, ap75, recalled = (mean_of_known(values[:, 0]) for values in (ap[0], ap[5], ar))
    total = int(counts.sum())
    return Metrics(every or 0.0, ap50 or 0.0, len(results), total, classes, ap75, small, medium, large, recalled)


def mean_of_known(values: np.ndarray) -> float | None:
    """Over the classes that have objects; None without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _accumulated(results: Sequence[ImageResult], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision (10 IoU thresholds, 101 recalls, classes, 4 areas) and recall (10, classes, 4): all, small, medium,
    large; up to 100 detections an image. NaN for classes without objects of that size, 0 where nothing was found.
    """
    truth, found = _coco_truth(results, num_classes), _coco_found(results)
    precision, recall = np.full((10, 101, num_classes, 4), np.nan), np.full((10, num_classes, 4), np.nan)
    if not truth["annotations"]:
        return precision, recall
    gt = COCO(truth)
    nowhere = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 0], "score": 0.0}  # it takes no empty list
    evaluation = COCOeval_faster(gt, gt.loadRes(found or [nowhere]), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    for values, of_all in ((precision, evaluation.eval["precision"]), (recall, evaluation.eval["recall"])):
        values[...] = np.where(of_all[..., -1] < 0, np.nan, of_all[..., -1])
    return precision, recall


def _coco_truth(results: Sequence[ImageResult], num_classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, result in enumerate(results, start=1):
        rows = zip(result.truth.tolist(), result.areas().tolist(), result.crowds().tolist(), strict=True)
        for (label, x1, y1, x2, y2), area, crowd in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    images = [{"id": i, "width": r.width, "height": r.height} for i, r in enumerate(results, start=1)]
    categories = [{"id": i, "name": str(i)} for i in range(1, num_classes + 1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _coco_found(results: Sequence[ImageResult]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, result in enumerate(results, start=1)
        for x1, y1, x2, y2, score, label in result.found.tolist()
    ]
