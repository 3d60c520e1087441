"""Box voting by a closed form, on every path from predictions to boxes: nothing is lost, or moved twice."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.deploy.test_nms_inside import nms_alone
from utils.data.frames import Frame
from utils.deploy.compare import changed_boxes
from utils.deploy.parity import compare_boxes
from utils.evaluation.evaluate import EvaluationSettings, run_batch
from utils.inference.augmented import Augmented
from utils.inference.predictor import Predictor
from utils.inference.tiling import Merge, merge_tiles
from utils.runtimes.runtime import NetworkInfo, Runtime, with_objectness

SIDE = 160
PREDICTIONS = np.array([[left + 50, 50, 100, 100, 1, score, 0, 0] for left, score in ((0, 0.9), (40, 0.8), (20, 0.7))])
PREDICTIONS = PREDICTIONS.astype(np.float32)
FIRST, SECOND = 0.7 * 20 / 1.6, (0.8 * 40 + 0.7 * 20) / 1.5  # the third, with IoU 2/3 to both, goes and votes for both
EXPECTED = np.array([[FIRST, 0, FIRST + 100, 100, 0.9, 0], [SECOND, 0, SECOND + 100, 100, 0.8, 0]], np.float32)
"""Their own IoU was 3/7 and is 0.64 now."""
IMAGE = np.zeros((SIDE, SIDE, 3), np.uint8)


class Plain(Runtime):
    """Finds the three boxes in the first picture that it sees; in later ones only as `everywhere`."""

    def __init__(self, info: NetworkInfo | None = None, everywhere: bool = True) -> None:
        super().__init__(info or NetworkInfo(("a", "b", "c"), (SIDE, SIDE), 32, ()))
        self.everywhere, self.seen = everywhere, 0

    def run(self, images: np.ndarray) -> np.ndarray:
        self.seen += 1
        return PREDICTIONS[None] * (self.everywhere or self.seen == 1)


class Inside(Plain):
    """The same with NMS and voting in ONNX."""

    def __init__(self, everywhere: bool = True) -> None:
        super().__init__(replace(Plain().info, nms=(0.25, 0.45), vote=True), everywhere)
        self.network = nms_alone(0.25, 0.45, vote=True)

    def run(self, images: np.ndarray) -> np.ndarray:
        (found,) = self.network.run(None, {"images": super().run(images)})
        return with_objectness(found, 1, 3)


class Network(nn.Module):
    """The same in PyTorch; nothing in a larger view."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(PREDICTIONS)[None] * self.factor * (images.shape[3] == SIDE)


def by_predictor(runtime: Runtime, tile: tuple[int, int] | None = None) -> np.ndarray:
    (found,) = Predictor(runtime, "abc", (SIDE, SIDE), tile=tile)([Frame(IMAGE, "")])
    return np.column_stack((found.boxes_xyxy_px, found.scores, found.class_ids))


def by_evaluation(model: nn.Module | Runtime) -> np.ndarray:
    settings = EvaluationSettings((SIDE, SIDE), 0.25, 0.45)
    return run_batch(model, torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), settings)[0]


PATHS: dict[str, Callable[[], np.ndarray]] = {
    "predictor": lambda: by_predictor(Plain()),
    "one window": lambda: by_predictor(Plain(), (SIDE, SIDE)),
    "tiles": lambda: by_predictor(Plain(everywhere=False), (96, 96)),
    "nms inside": lambda: by_predictor(Inside()),
    "nms inside, one window": lambda: by_predictor(Inside(), (SIDE, SIDE)),
    "nms inside, tiles": lambda: by_predictor(Inside(everywhere=False), (96, 96)),
    "evaluation": lambda: by_evaluation(Network()),
    "evaluation of a runtime": lambda: by_evaluation(Plain()),
    "evaluation, nms inside": lambda: by_evaluation(Inside()),
    "evaluation, test-time augmentation": lambda: by_evaluation(Augmented(Network(), 32)),
    "the same object in two tiles": lambda: merge_tiles([EXPECTED] * 2, [(0, 0, SIDE, SIDE)] * 2, Merge((SIDE, SIDE))),
}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_gives_the_closed_form(path: str) -> None:
    np.testing.assert_allclose(PATHS[path](), EXPECTED, rtol=1e-6, atol=1e-4)


def test_one_window_gives_what_no_tiles_give() -> None:
    for vote in (True, False):
        whole = Predictor(Plain(), "abc", (SIDE, SIDE), vote=vote)
        tiled = replace(whole, tile=(SIDE, SIDE))
        (one,), (other,) = whole([Frame(IMAGE, "")]), tiled([Frame(IMAGE, "")])
        assert len(one) == 2
        np.testing.assert_array_equal(one.boxes_xyxy_px, other.boxes_xyxy_px)


def test_behind_nms_inside_only_nms_over_all_classes_suppresses() -> None:
    boxes = Predictor(Inside(), "abc", (SIDE, SIDE), iou=0.1)([Frame(IMAGE, "")])[0]
    assert len(boxes) == 2
    limited = Predictor(Inside(), "abc", (SIDE, SIDE), confidence=0.85)([Frame(IMAGE, "")])[0]
    assert limited.scores.tolist() == pytest.approx([0.9])
    assert len(Predictor(Inside(), "abc", (SIDE, SIDE), max_detections=1)([Frame(IMAGE, "")])[0]) == 1
    assert len(Predictor(Inside(), "abc", (SIDE, SIDE), classes=[1])([Frame(IMAGE, "")])[0]) == 0
    assert len(Predictor(Inside(), "abc", (SIDE, SIDE), agnostic=True)([Frame(IMAGE, "")])[0]) == 1


@pytest.mark.parametrize("pair", [(Plain, Inside), (Inside, Plain), (Inside, Inside)])
def test_parity_with_nms_inside(pair: tuple[type[Plain], type[Plain]]) -> None:
    """By the file's thresholds before those of the comparison."""
    stage = compare_boxes(pair[0](), pair[1](), [IMAGE], (0.25, 0.3), 0.001)
    assert stage.agrees and stage.words.startswith("2 boxes and 2 (")
    stage = compare_boxes(pair[0](), pair[1](), [IMAGE], (0.75, 0.45), 0.001)
    assert stage.agrees and stage.words.startswith("2 boxes and 2 (")
    assert changed_boxes(Plain(), Inside(), [IMAGE]) == 0
