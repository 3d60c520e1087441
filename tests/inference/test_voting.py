"""Box voting in both paths: closed forms, loops, and what it must leave alone."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference.test_torch_postprocess import iou as iou_of
from utils.data.frames import Frame
from utils.evaluation.evaluate import EvaluationSettings
from utils.inference import postprocess, torch_postprocess
from utils.inference.predictor import Predictor
from utils.runtimes.runtime import NetworkInfo, Runtime

Detect = Callable[..., np.ndarray]


def by_numpy(rows: np.ndarray, *limits: Any, **more: Any) -> np.ndarray:
    return postprocess.detections(np.asarray(rows, np.float32)[None], *limits, **more)[0]


def by_torch(rows: np.ndarray, *limits: Any, **more: Any) -> np.ndarray:
    predictions = torch.tensor(np.asarray(rows), dtype=torch.float32)[None]
    return torch_postprocess.detections(predictions, *limits, **more)[0].numpy()


both_paths = pytest.mark.parametrize("detect", [by_numpy, by_torch])


def row(x1: float, y1: float, x2: float, y2: float, *scores: float) -> list[float]:
    """A prediction of objectness 1."""
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 1, *scores]


@both_paths
def test_two_boxes_become_their_score_weighted_mean(detect: Detect) -> None:
    """IoU 80 / 100 = 0.8."""
    rows = [row(0, 0, 10, 9, 0.75, 0), row(0, 0, 10, 8, 0.25, 0), row(100, 0, 110, 10, 0.5, 0)]
    found = detect(rows, 0.1, 0.5, vote=True)
    assert found.tolist() == [[0, 0, 10, (0.75 * 9 + 0.25 * 8) / 1, 0.75, 0], [100, 0, 110, 10, 0.5, 0]]
    assert detect(rows, 0.1, 0.5).tolist() == [[0, 0, 10, 9, 0.75, 0], [100, 0, 110, 10, 0.5, 0]]


@both_paths
def test_who_votes(detect: Detect) -> None:
    """Not a box of another class, also where NMS is over all; not one that overlaps by the threshold or less."""
    other_class = [row(0, 0, 10, 10, 0.5, 0), row(0, 0, 10, 8, 0, 0.25)]
    assert detect(other_class, 0.1, 0.5, vote=True)[:, :4].tolist() == [[0, 0, 10, 10], [0, 0, 10, 8]]
    (one,) = detect(other_class, 0.1, 0.5, agnostic=True, vote=True)
    assert one.tolist() == [0, 0, 10, 10, 0.5, 0]
    for height, voted in ((8, False), (9, True)):  # IoU 0.8 and 0.9
        found = detect([row(0, 0, 10, 10, 0.5), row(0, 0, 10, height, 0.5)], 0.1, 0.8, vote=True)
        assert found[0, 3] == (9.5 if voted else 10)
    below = [row(0, 0, 10, 10, 0.5), row(0, 0, 10, 9, 0.1)]
    assert detect(below, 0.2, 0.5, vote=True)[:, :4].tolist() == [[0, 0, 10, 10]]  # no candidate


@both_paths
def test_a_candidate_may_vote_for_two_boxes(detect: Detect) -> None:
    """The middle one overlaps both others by 1/3, which do not touch."""
    rows = [row(0, 0, 8, 10, 0.5), row(8, 0, 16, 10, 0.5), row(4, 0, 12, 10, 0.25)]
    found = detect(rows, 0.1, 0.3, vote=True)
    np.testing.assert_allclose(found[:, :4], [[4 / 3, 0, 28 / 3, 10], [20 / 3, 0, 44 / 3, 10]], rtol=1e-6)


def test_each_pair_of_box_and_class_votes_with_its_own_score() -> None:
    rows = [row(0, 0, 10, 10, 0.75, 0.25), row(0, 0, 10, 8, 0.25, 0.75)]
    found = by_torch(rows, 0.1, 0.5, multi_label=True, vote=True)
    assert found.tolist() == [[0, 0, 10, 9.5, 0.75, 0], [0, 0, 10, 8.5, 0.75, 1]]


@both_paths
@pytest.mark.parametrize("iou", [0.0, 0.45, 1.0])
def test_boxes_without_area_or_company_stay(detect: Detect, iou: float) -> None:
    rows = [row(5, 5, 5, 5, 0.5), row(5, 5, 5, 9, 0.5), row(0.1, 0.3, 0.7, 0.9, 0.3), row(1e4, 0, 2e4, 7, 0.3)]
    np.testing.assert_array_equal(detect(rows, 0.1, iou, vote=True), detect(rows, 0.1, iou))
    assert detect(np.zeros((0, 7)), 0.1, iou, vote=True).shape == (0, 6)


def crowd(seed: int, count: int, classes: int) -> np.ndarray:
    """Boxes on whole pixels that overlap a lot, all scores different."""
    rng = np.random.default_rng(seed)
    centres, sides = rng.integers(40, 100, (count, 2)), rng.integers(1, 30, (count, 2)) * 2
    scores = rng.permutation(np.linspace(0.05, 0.95, count * classes)).reshape(count, classes)
    return np.column_stack((centres, sides, np.ones(count), scores)).astype(np.float32)


def by_loops(rows: np.ndarray, kept: np.ndarray, confidence: float, iou: float) -> np.ndarray:
    """The kept boxes, moved by all candidates as the definition says; each row has its best class."""
    candidates = [
        (np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]), max(scores), int(np.argmax(scores)))
        for x, y, w, h, _, *scores in rows.astype(np.float64)
        if max(scores) > confidence
    ]
    result = kept.astype(np.float64)
    for mine in result:
        votes = [
            (box, score)
            for box, score, label in candidates
            if (label == mine[5] and iou_of(box, mine[:4]) > iou) or score == mine[4]
        ]
        mine[:4] = sum(box * score for box, score in votes) / sum(score for _, score in votes)
    return result


@given(
    st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.45, 0.6, 0.9]),
    st.booleans(), st.sampled_from([1, 7, 2**18]),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_equals_loops_and_leaves_the_rest(
    seed: int, count: int, classes: int, iou: float, agnostic: bool, pairs: int
) -> None:
    """Both paths, in parts of any size; the order of the predictions does not matter; NMS keeps the same boxes."""
    rows = crowd(seed, count, classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postprocess, "PAIRS", pairs)
        patch.setattr(torch_postprocess, "VOTE_PAIRS", pairs)
        own, its, shuffled = (
            path(given_rows, 0.2001, iou, max_detections=20, agnostic=agnostic, vote=True)
            for path, given_rows in ((by_numpy, rows), (by_torch, rows), (by_torch, rows[::-1].copy()))
        )
    for path, found in ((by_numpy, own), (by_torch, its)):
        off = path(rows, 0.2001, iou, max_detections=20, agnostic=agnostic)
        np.testing.assert_array_equal(found[:, 4:], off[:, 4:])
        corners = np.hstack((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2))
        assert set(map(tuple, off[:, :4])) <= set(map(tuple, corners))  # bit for bit
        np.testing.assert_allclose(found, by_loops(rows, off, 0.2001, iou), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shuffled, its, rtol=1e-6, atol=1e-5)


def test_many_candidates_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (30_000, 2))
    boxes = np.hstack((corner, corner + rng.uniform(50, 100, (30_000, 2)))).astype(np.float32)
    score, keep = np.linspace(1, 0.1, 30_000), np.arange(0, 30_000, 200)
    tracemalloc.start()
    postprocess.voted(boxes, score, np.zeros(30_000, np.int64), keep, 0.45)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50e6  # 120 MB if all at once


class TwoBoxes(Runtime):
    """Finds the same two boxes in every image."""

    def __init__(self) -> None:
        super().__init__(NetworkInfo(("a",), (32, 32), 32, ()))

    def run(self, images: np.ndarray) -> np.ndarray:
        return np.array([[row(0, 0, 16, 16, 0.5), row(0, 0, 16, 12, 0.5)]], np.float32)


@pytest.mark.parametrize(("vote", "bottom"), [(True, 14), (False, 16)])
def test_detecting_and_evaluating_vote_if_they_are_to(vote: bool, bottom: float) -> None:
    frame = Frame(np.zeros((32, 32, 3), np.uint8), "")
    (result,) = Predictor(TwoBoxes(), ["a"], (32, 32), vote=vote)([frame])
    assert result.boxes_xyxy_px.tolist() == [[0, 0, 16, bottom]]
    predictions = torch.from_numpy(TwoBoxes().infer(np.zeros((1, 32, 32, 3), np.uint8)))
    assert EvaluationSettings((32, 32), vote=vote).detections(predictions, TwoBoxes())[0][0, :4].tolist() == [
        0,
        0,
        16,
        bottom,
    ]
    assert Predictor(TwoBoxes(), ["a"], (32, 32)).vote and EvaluationSettings((32, 32)).vote  # both do so by default
