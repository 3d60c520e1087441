"""Curves and confusion against counting by hand, and against pycocotools' precision."""

import warnings

import numpy as np
import pytest

from tests.evaluation.test_matching import proper_results
from tests.evaluation.test_metrics import by_pycocotools
from utils.evaluation.curves import CONFIDENCES, confusion, curves
from utils.evaluation.matching import match
from utils.evaluation.metrics import ImageResult
from utils.evaluation.report import make_report


@pytest.mark.parametrize("seed", [0, 1])
def test_curves(seed: int) -> None:
    results = proper_results(seed)
    matches = match(results, 4)
    shape = curves(matches)
    np.testing.assert_allclose(shape.by_recall[:3], by_pycocotools(results, 4)[0].T[:3], atol=1e-9)
    for place in (0, 123, 400, 777, 1000):
        for label in range(3):
            mine = (matches.label == label) & (matches.score >= CONFIDENCES[place])
            right, total = (mine & matches.correct[:, 0]).sum(), matches.objects[:, label].sum()
            precision = right / mine.sum() if mine.any() else 1
            assert shape.precision[label, place] == pytest.approx(precision)
            assert shape.recall[label, place] == pytest.approx(right / total)
            f1 = 2 * right / (mine.sum() + total)
            assert shape.f1[label, place] == pytest.approx(f1)
    assert np.isnan(shape.f1[3]).all()  # without labels
    assert shape.f1[:3, shape.best].mean() == shape.f1[:3].mean(axis=0).max()


def test_confusion() -> None:
    truth = np.array([[0, 0, 0, 10, 10], [1, 20, 0, 30, 10], [1, 40, 0, 50, 10], [0, 60, 0, 99, 10]], np.float32)
    found = np.array(
        [
            [0, 0, 10, 10, 0.9, 0],  # right
            [1, 0, 11, 10, 0.95, 1],  # its object is the first one's, which lies better
            [20, 0, 30, 9, 0.8, 0],  # taken for class 0
            [70, 0, 80, 10, 0.7, 1],  # on the crowd region
            [0, 50, 10, 60, 0.7, 0],  # nothing there
            [40, 0, 50, 10, 0.1, 1],  # not sure enough
        ],
        np.float32,
    )
    crowd = np.array([False, False, False, True])
    counts = confusion([ImageResult(99, 99, truth, found, crowd=crowd)], 2, 0.5)
    assert counts.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(("width", "found_it"), [(4.9, False), (5.1, True)])
def test_a_pair_needs_half_of_the_union(width: float, found_it: bool) -> None:
    truth = np.array([[0, 0, 0, 10, 10]], np.float32)
    found = np.array([[0, 0, width, 10, 0.9, 0]], np.float32)  # IoU: a tenth of the width
    counts = confusion([ImageResult(99, 99, truth, found)], 1, 0.5)
    assert counts.tolist() == ([[1, 0], [0, 0]] if found_it else [[0, 1], [1, 0]])


def test_report_of_nothing() -> None:
    nothing = ImageResult(9, 9, np.zeros((0, 5), np.float32), np.zeros((0, 6), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = make_report([nothing], ["a", "b"])
        table = report.table()
    assert "all" in table and report.metrics.ap == 0 and report.to_dict({})["precision"] is None
