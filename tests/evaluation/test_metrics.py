"""AP equals pycocotools' on random and on awkward detections."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.evaluation.metrics import ImageResult, measure
from utils.evaluation.report import make_report


def random_results(seed: int, images: int = 12, classes: int = 4) -> list[ImageResult]:
    """Detections near the truth, doubled, missed, of wrong classes, and from nothing."""
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(images):
        count = int(rng.integers(0, 9))
        corner = rng.uniform(0, 300, (count, 2))
        side = rng.uniform(5, 150, (count, 2))
        labels = rng.integers(0, classes - 1, count)  # the last class has no labels
        truth = np.column_stack((labels, corner, corner + side)).astype(np.float32)
        found = []
        for row in np.repeat(truth, rng.integers(0, 3, count), axis=0):
            label = row[0] if rng.random() < 0.8 else rng.integers(0, classes)
            found.append([*(row[1:] + rng.normal(0, 5, 4)), rng.random(), label])
        for _ in range(int(rng.integers(0, 200 if seed == 3 else 5))):  # also more than 100 in an image
            x, y = rng.uniform(0, 300, 2)
            found.append([x, y, x + 40, y + 40, rng.random(), rng.integers(0, classes)])
        results.append(ImageResult(450, 450, truth, np.array(found, np.float32).reshape(-1, 6)))
    return results


def by_pycocotools(results: list[ImageResult], classes: int) -> np.ndarray:
    """Precision (10, 101, classes)."""
    return evaluated(results, classes).eval["precision"][:, :, :, 0, 2]


def evaluated(results: list[ImageResult], classes: int) -> COCOeval:
    """Truth and detections through pycocotools."""
    annotations, found = [], []
    for image, result in enumerate(results):
        for (label, x1, y1, x2, y2), crowd in zip(result.truth.tolist(), result.crowds().tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "bbox": box,
                                "area": box[2] * box[3], "iscrowd": int(crowd)})  # fmt: skip
        for x1, y1, x2, y2, score, label in result.found.tolist():
            found.append(
                {"image_id": image, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(results))],
            "annotations": annotations,
            "categories": [{"id": i} for i in range(classes)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int) -> None:
    results = random_results(seed)
    names = ["a", "b", "c", "none"]
    metrics = measure(results, names)
    precision = by_pycocotools(results, len(names))
    for index, name in enumerate(names[:3]):
        assert metrics.classes[name].ap == pytest.approx(precision[:, :, index].mean(), abs=1e-9)
        assert metrics.classes[name].ap50 == pytest.approx(precision[0, :, index].mean(), abs=1e-9)
    assert metrics.classes["none"].ap is None and metrics.classes["none"].ap50 is None
    assert metrics.ap == pytest.approx(precision[:, :, :3].mean(), abs=1e-9) and 0.01 < metrics.ap < 0.95
    assert metrics.labels == sum(len(result.truth) for result in results)
    ours = (metrics.ap, metrics.ap50, metrics.ap75, metrics.ap_small, metrics.ap_medium, metrics.ap_large, metrics.ar)
    theirs = evaluated(results, len(names)).stats[[0, 1, 2, 3, 4, 5, 8]]
    assert ours == pytest.approx(tuple(theirs), abs=1e-9) and max(ours) > 0.1


def test_perfect_is_one_and_nothing_is_zero() -> None:
    truth = np.array([[0, 10, 10, 50, 60], [1, 0, 0, 20, 20]], np.float32)
    found = np.column_stack((truth[:, 1:], [0.9, 0.8], truth[:, 0])).astype(np.float32)
    assert measure([ImageResult(99, 99, truth, found)], ["a", "b"]).ap == pytest.approx(1)
    empty = measure([ImageResult(99, 99, truth, found[:0])], ["a", "b"])
    assert (empty.ap, empty.ap50, empty.labels) == (0, 0, 2)
    no_labels = measure([ImageResult(99, 99, truth[:0], found)], ["a", "b"])
    assert (no_labels.ap, no_labels.classes["a"].ap) == (0, None)


def test_metrics_json(tmp_path: Path) -> None:
    make_report(random_results(0), ["a", "b", "c", "none"]).save(tmp_path / "metrics.json", {"conf": 0.001})
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert set(content["classes"]["none"].values()) == {None, 0}
    assert set(content["classes"]["a"]) == {*"ap ap50 ap75 ar labels precision recall f1".split()}
    assert 0 <= content["ap"] <= content["ap50"] <= 1 and 0 < content["confidence"] < 1
    assert content["options"] == {"conf": 0.001} and content["images"] == 12
