"""From a picture to boxes in its own pixels."""

import numpy as np
import pytest

from utils.data.frames import Frame
from utils.inference.predictor import Predictor
from utils.runtimes.runtime import NetworkInfo, Runtime


class Oracle(Runtime):
    """Finds the one white rectangle of its input, and a faint second class of the same box."""

    def __init__(self) -> None:
        super().__init__(NetworkInfo(("a", "b"), (256, 128), 32, ()))

    def run(self, images: np.ndarray) -> np.ndarray:
        rows, columns = (images[0].min(axis=2) > 200).nonzero()
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return np.array([[[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, 0.2, 0.8]]], np.float32)


@pytest.mark.parametrize("stretched", [False, True])
@pytest.mark.parametrize("size", [(320, 240), (240, 320), (97, 400)])
def test_boxes_come_back_in_the_images_pixels(stretched: bool, size: tuple[int, int]) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : height // 2, width // 3 : width] = 255
    predictor = Predictor(Oracle(), ["a", "b"], (256, 128), stretched=stretched)
    (result,) = predictor([Frame(image, "x.png", read_ms=3.0)])
    scale = max(width / 256, height / 128)
    expected = [width // 3, height // 4, width, height // 2]
    np.testing.assert_allclose(result.boxes_xyxy_px, [expected], atol=1.5 * scale)
    assert result.class_ids.tolist() == [1] and result.scores.tolist() == pytest.approx([0.72])
    assert (result.width, result.height, result.resize) == (*size, "stretch" if stretched else "letterbox")
    assert result.counts() == "1 b" and result.path == "x.png" and result.frame_index is None
    assert set(result.milliseconds) == {"read", "preprocess", "inference", "nms"} and result.milliseconds["read"] == 3
    box = result.to_dict()["boxes"][0]
    assert box["name"] == "b" and box["x1"] == pytest.approx(width // 3, abs=1.5 * scale)
    found = result.to_supervision()
    assert found.xyxy.tolist() == result.boxes_xyxy_px.tolist() and found.data["class_name"].tolist() == ["b"]
    assert (result.plot() != image).any() and not (result.image != image).any()
