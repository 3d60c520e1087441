"""Threshold and NMS against loops."""

import numpy as np
import pytest
import torch

from utils.inference.torch_postprocess import NMS_PART, detections


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


def by_loops(rows: np.ndarray, confidence: float, threshold: float, multi_label: bool) -> list[list[float]]:
    """Greedy NMS per class, as every text describes it."""
    candidates = []
    for cx, cy, w, h, objectness, *classes in rows:
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        scores = [objectness * value for value in classes]
        labels = range(len(scores)) if multi_label else [int(np.argmax(scores))]
        candidates += [[*box, scores[label], label] for label in labels if scores[label] > confidence]
    kept: list[list[float]] = []
    for candidate in sorted(candidates, key=lambda row: -row[4]):
        if all(candidate[5] != other[5] or iou(np.array(candidate), np.array(other)) <= threshold for other in kept):
            kept.append(candidate)
    return kept


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("confidence", [0.001, 0.25])
def test_equals_loops(multi_label: bool, confidence: float) -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        (rng.uniform(50, 150, (2, 80, 2)), rng.uniform(20, 60, (2, 80, 2)), rng.random((2, 80, 4))), axis=2
    ).astype(np.float32)
    got = detections(torch.from_numpy(rows), confidence, 0.45, multi_label)
    for mine, image in zip(got, rows, strict=True):
        np.testing.assert_allclose(mine.numpy(), by_loops(image, confidence, 0.45, multi_label), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("limit", [40, 5000])
def test_many_candidates_equal_loops(limit: int) -> None:
    """More than enter NMS at a time, whether or not the limit cuts it short."""
    rng = np.random.default_rng(1)
    count = 2 * NMS_PART
    rows = np.concatenate(
        (rng.uniform(50, 150, (count, 2)), rng.uniform(20, 60, (count, 2)), rng.random((count, 3))), axis=1
    ).astype(np.float32)
    (got,) = detections(torch.from_numpy(rows)[None], 0.1, 0.45, multi_label=True, max_detections=limit)
    expected = by_loops(rows, 0.1, 0.45, multi_label=True)
    assert len(expected) > 60
    np.testing.assert_allclose(got.numpy(), expected[:limit], rtol=1e-4, atol=1e-4)


def test_a_diverged_networks_boxes_are_none() -> None:
    rows = torch.tensor([[[5.0, 5, 2, 2, 1, 1], [5, 5, torch.inf, 2, 1, 1], [torch.nan, 5, 2, 2, 1, 1]]])
    assert detections(rows, 0.1, 0.5)[0][:, :4].tolist() == [[4, 4, 6, 6]]


def test_limit_and_nothing() -> None:
    rows = torch.rand(1, 500, 7)
    rows[..., :2] = torch.arange(500).view(1, 500, 1) * 100.0
    assert len(detections(rows, 0.0, 0.5, max_detections=300)[0]) == 300
    assert detections(rows, 1.0, 0.5)[0].shape == (0, 6)


def test_the_best_of_each_class_enter_nms() -> None:
    rng = np.random.default_rng(2)
    rows = np.concatenate((rng.uniform(50, 900, (300, 2)), rng.uniform(20, 60, (300, 2)), rng.random((300, 6))), axis=1)
    rows = rows.astype(np.float32)
    (got,) = detections(torch.from_numpy(rows)[None], 0.1, 0.45, per_class=7)
    labels, scores = rows[:, 5:].argmax(axis=1), rows[:, 4] * rows[:, 5:].max(axis=1)
    best = [np.flatnonzero(labels == label)[np.argsort(-scores[labels == label])][:7] for label in range(5)]
    expected = by_loops(rows[np.concatenate(best)], 0.1, 0.45, False)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_over_all_classes_and_of_some() -> None:
    """Two boxes in one place of two classes: both stay by class, the better one over all; others are dropped before."""
    rows = torch.tensor([[[10, 10, 8, 8, 1, 0.9, 0.1, 0.1], [10, 10, 8, 8, 1, 0.1, 0.8, 0.1]]])
    assert detections(rows, 0.2, 0.5)[0][:, 5].tolist() == [0, 1]
    assert detections(rows, 0.2, 0.5, agnostic=True)[0][:, 5].tolist() == [0]
    assert detections(rows, 0.2, 0.5, agnostic=True, classes=[1, 2])[0][:, 5].tolist() == [1]
    assert detections(rows, 0.05, 0.5, multi_label=True, classes=[2])[0][:, 5].tolist() == [2]
