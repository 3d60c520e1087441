"""Threshold and NMS in NumPy: equal to the torch path, and to OpenCV's NMS."""

import cv2
import numpy as np
import pytest
import torch

from utils.inference import torch_postprocess
from utils.inference.postprocess import detections, suppress


def predictions(seed: int, count: int = 400, classes: int = 5) -> np.ndarray:
    """Two images of boxes that overlap a lot; some of them not finite."""
    rng = np.random.default_rng(seed)
    rows = (rng.uniform(50, 150, (2, count, 2)), rng.uniform(5, 60, (2, count, 2)), rng.random((2, count, 1 + classes)))
    found = np.concatenate(rows, axis=2).astype(np.float32)
    found[0, 3, 0], found[0, 4, 2], found[1, 5, 4] = np.nan, np.inf, np.nan
    return found


@pytest.mark.parametrize("confidence", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("iou", [0.0, 0.45, 1.0])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("classes", [None, [1, 4]])
def test_equals_the_torch_path(confidence: float, iou: float, agnostic: bool, classes: list[int] | None) -> None:
    for seed in range(3):
        given = predictions(seed)
        own = detections(given, confidence, iou, 50, agnostic, classes)
        other = torch_postprocess.detections(
            torch.from_numpy(given), confidence, iou, False, 50, agnostic, classes
        )  # fmt: skip
        assert [len(rows) for rows in own] == [len(rows) for rows in other]
        assert sum(map(len, own)) > 0
        for mine, its in zip(own, other, strict=True):
            np.testing.assert_allclose(mine, its.numpy(), rtol=1e-6, atol=1e-4)


def test_equals_opencv() -> None:
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 300, (500, 2)), rng.uniform(1, 80, (500, 2))
    scores = -np.sort(-rng.random(500))
    kept = cv2.dnn.NMSBoxes(np.hstack((corner, side)).tolist(), scores.tolist(), 0.0, 0.4)
    own = suppress(np.hstack((corner, corner + side)), np.zeros(500), 0.4, 500)
    assert 20 < len(own) < 400
    assert own.tolist() == np.asarray(kept).ravel().tolist()


def test_nothing_found_is_no_rows() -> None:
    (none,) = detections(np.zeros((1, 10, 8), np.float32), 0.25, 0.45)
    assert none.shape == (0, 6)
    (none,) = detections(np.zeros((1, 0, 8), np.float32), 0.25, 0.45)
    assert none.shape == (0, 6)
