"""Anchors fitted to boxes."""

from pathlib import Path

import numpy as np
import pytest

from models import Darknet
from utils.data.labels import Sample
from utils.data.stats import sides_px
from utils.network.graph import load_graph, parse_graph
from utils.training.anchors import all_anchors, fit_anchors, measure_anchors, with_anchors


def test_sides_are_those_of_the_letterboxed_image() -> None:
    sample = Sample(Path("x"), np.array([[0, 0.5, 0.5, 0.25, 0.5]], np.float32), (800, 400))
    np.testing.assert_allclose(sides_px([sample], (416, 416)), [[104, 104]])


def test_recall_and_fit_by_hand() -> None:
    sides = np.array([[10.0, 10.0], [20.0, 10.0], [50.0, 10.0], [10.0, 41.0]])
    found = measure_anchors(sides, np.array([[10.0, 10.0]]))
    assert found.recall == 0.5  # sides within a factor of 4: the first two
    assert found.fit == pytest.approx((1 + 0.5 + 0.2 + 10 / 41) / 4)


def test_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    true = np.array([[12.0, 30.0], [60.0, 45.0], [200.0, 180.0]])
    sides = np.concatenate([centre * rng.normal(1, 0.05, (200, 2)) for centre in true])
    start = np.array([[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]])
    found = fit_anchors(sides, 3, start)
    np.testing.assert_allclose(found, true, rtol=0.05)
    assert measure_anchors(sides, start).recall < 0.5 and measure_anchors(sides, found).recall == 1


def test_good_anchors_are_never_made_worse() -> None:
    sides = np.array([[10.0, 10.0], [40.0, 40.0]] * 5)
    start = np.array([[10.0, 10.0], [40.0, 40.0]])
    np.testing.assert_array_equal(fit_anchors(sides, 2, start), start)
    few = np.array([[10.0, 12.0]] * 3)  # fewer distinct boxes than anchors
    assert measure_anchors(few, fit_anchors(few, 2, start)).fit >= measure_anchors(few, start).fit


@pytest.mark.parametrize("cfg", ["yolov3-tiny.cfg", "ghost-yolov3-tiny-lite.cfg", "yolov4.cfg"])
def test_the_smallest_anchors_go_to_the_finest_head(cfg: str) -> None:
    """Heads come coarse first in yolov3, fine first in yolov4: the strides decide, not the order."""
    graph = load_graph(cfg)
    model = Darknet(graph)
    count = len(all_anchors(graph))
    new = np.arange(1, count + 1)[:, None] * np.array([[7.0, 9.0]])
    fitted = parse_graph(with_anchors(graph, model.strides, new).to_cfg())
    by_stride = dict(zip(model.strides, fitted.heads(), strict=True))
    found = [anchor for stride in sorted(by_stride) for anchor in by_stride[stride].options.head_anchors]
    np.testing.assert_allclose(found, new)
    assert Darknet(fitted).strides == model.strides
