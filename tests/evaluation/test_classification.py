"""Accuracy, each class's figures and the confusion, counted by hand."""

import math

import numpy as np
import pytest

from utils.evaluation.classification import (
    ClassifierMetrics,
    Predictions,
    Width,
    confusion,
    measure_classes,
    width_table,
)

LABELS = [0, 0, 0, 1, 1, 2]
FIRST = [0, 0, 1, 1, 1, 1]  # what each image is taken for


def predictions(num_classes: int = 4) -> Predictions:
    probabilities = np.full((6, num_classes), 0.1, np.float32)
    probabilities[np.arange(6), FIRST] = 1 - 0.1 * (num_classes - 1)
    return Predictions(probabilities, np.array(LABELS), np.arange(6))


def test_figures_of_each_class() -> None:
    metrics = measure_classes(predictions(), ["a", "b", "c", "d"])
    assert metrics.top1 == pytest.approx(4 / 6) and metrics.top5 == 1 and metrics.images == 6
    a, b, c, d = metrics.classes.values()
    assert (a.precision, a.recall, a.images) == (1, pytest.approx(2 / 3), 3)
    assert a.f1 == pytest.approx(0.8)
    assert (b.precision, b.recall, b.images) == (0.5, 1, 2)
    assert (c.precision, c.recall, c.images) == (None, 0, 1)
    assert (d.precision, d.recall, d.images, d.f1) == (None, None, 0, None)
    assert metrics.loss == pytest.approx(-(4 * math.log(0.7) + 2 * math.log(0.1)) / 6, rel=1e-5)
    lines = metrics.table().splitlines()
    assert lines[1].split() == ["a", "3", "1.000", "0.667", "0.800"]
    assert lines[4].split() == ["d", "0", "-", "-", "-"]


def test_confusion_has_true_classes_as_rows() -> None:
    assert confusion(predictions(), 4).tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_top_5_counts_the_first_five_guesses() -> None:
    """The true class has rank 0, 4, 5 and 9 of ten."""
    order = np.linspace(1, 0.1, 10, dtype=np.float32)
    rows = np.stack([np.roll(order, shift) for shift in (0, -4, -5, -9)])
    metrics = measure_classes(
        Predictions(rows / rows.sum(1, keepdims=True), np.zeros(4, int), np.arange(4)), list("abcdefghij")
    )
    assert (metrics.top1, metrics.top5) == (0.25, 0.5)


def test_equal_probabilities_are_in_the_order_of_the_classes_for_both() -> None:
    even = Predictions(np.full((10, 10), 0.1, np.float32), np.arange(10), np.arange(10))
    metrics = measure_classes(even, list("abcdefghij"))
    assert (metrics.top1, metrics.top5) == (0.1, 0.5)


def test_nothing_was_measured() -> None:
    none = Predictions(np.zeros((0, 2), np.float32), np.zeros(0, int), np.zeros(0, int))
    metrics = measure_classes(none, ["a", "b"])
    assert (metrics.top1, metrics.images) == (0, 0) and "-" in metrics.table()


def test_metrics_survive_json() -> None:
    from dataclasses import asdict

    metrics = measure_classes(predictions(), ["a", "b", "c", "d"])
    assert ClassifierMetrics.from_dict(asdict(metrics)) == metrics


def test_width_table() -> None:
    assert width_table([Width(0.5, 1_000, 2_500_000, 1.234, 0.9)]).splitlines()[1].split() == [
        "0.5", "1,000", "2.50", "1.23", "0.900",
    ]  # fmt: skip
