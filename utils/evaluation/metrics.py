"""Average precision as COCO defines it, by a COCO evaluator library (its numbers are pycocotools')."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from utils.files import write_text


@dataclass(frozen=True)
class ClassMetrics:
    """One class: AP over IoU .5 to .95 and at .5, fractions of 1 (None without labels), and its number of labels."""

    ap: float | None
    ap50: float | None
    labels: int


@dataclass(frozen=True)
class Metrics:
    """The data set's AP (means over the classes that have labels), and each class's."""

    ap: float
    ap50: float
    images: int
    labels: int
    classes: dict[str, ClassMetrics]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Metrics":
        """From what `dataclasses.asdict` made of one."""
        classes = {name: ClassMetrics(**one) for name, one in values["classes"].items()}
        return cls(**{**values, "classes": classes})

    def save(self, path: Path, options: dict[str, Any]) -> None:
        """Write metrics.json, with the options that the numbers were made with."""
        content = {
            "ap": self.ap,
            "ap50": self.ap50,
            "images": self.images,
            "labels": self.labels,
            "classes": {name: vars(metrics) for name, metrics in self.classes.items()},
            "options": options,
        }
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

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


def measure(results: Sequence[ImageResult], names: Sequence[str]) -> Metrics:
    """COCO AP of the detections, all areas, at most 100 an image."""
    labels = np.concatenate([result.truth[:, 0] for result in results] or [np.zeros(0)]).astype(int)
    counts = np.bincount(labels, minlength=len(names))
    precision = _precision(results, len(names))
    per_class = {}
    for index, name in enumerate(names):
        if counts[index]:
            values = precision[:, :, index]
            per_class[name] = ClassMetrics(float(values.mean()), float(values[0].mean()), int(counts[index]))
        else:
            per_class[name] = ClassMetrics(None, None, 0)
    known = [one for one in per_class.values() if one.ap is not None and one.ap50 is not None]
    ap, ap50 = (float(np.mean([getattr(one, key) for one in known])) if known else 0.0 for key in ("ap", "ap50"))
    return Metrics(ap, ap50, len(results), int(counts.sum()), per_class)


def _precision(results: Sequence[ImageResult], num_classes: int) -> np.ndarray:
    """Precision (10 IoU thresholds, 101 recalls, classes), 0 where nothing was found."""
    truth, found = _coco_truth(results, num_classes), _coco_found(results)
    if not truth["annotations"] or not found:
        return np.zeros((10, 101, num_classes))
    gt = COCO(truth)
    evaluation = COCOeval_faster(gt, gt.loadRes(found), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, -1].clip(min=0)  # area: all, detections: 100


def _coco_truth(results: Sequence[ImageResult], num_classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, result in enumerate(results, start=1):
        for label, x1, y1, x2, y2 in result.truth.tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
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
