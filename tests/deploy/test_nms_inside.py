"""NMS and box voting as ONNX operators give what they give in NumPy, from any predictions."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from utils.deploy.onnx_file import with_nms
from utils.inference.postprocess import detections


def nms_alone(confidence: float, iou: float, vote: bool) -> onnxruntime.InferenceSession:
    """A graph that is nothing but NMS behind its input, (B, N, 5 + 3 classes)."""
    shape = ["B", "N", 8]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "predictions")]
    same = helper.make_node("Identity", ["images"], ["predictions"])
    graph = helper.make_graph([same], "test", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with_nms(model, confidence, iou, vote)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("vote", [True, False])
def test_equals_numpy(vote: bool) -> None:
    network, rng = nms_alone(0.2, 0.45, vote), np.random.default_rng(0)
    for count in (0, 1, 60, 300):
        places = rng.uniform(50, 150, (2, count, 2)), rng.uniform(5, 60, (2, count, 2))
        given = np.concatenate((*places, rng.random((2, count, 4))), axis=2).astype(np.float32)
        (found,) = network.run(None, {"images": given})
        for image, expected in enumerate(detections(given, 0.2, 0.45, vote=vote)):
            np.testing.assert_allclose(found[found[:, 0] == image][:, 1:], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("vote", [True, False])
def test_a_box_has_one_class_where_two_are_as_likely(vote: bool) -> None:
    """The first one, as everywhere else: a saturated sigmoid gives many classes the probability 1."""
    given = np.array([[[10, 10, 8, 8, 0.5, 0.25, 1, 1], [40, 10, 8, 8, 0.5, 1, 1, 1]]], np.float32)
    (found,) = nms_alone(0.2, 0.45, vote).run(None, {"images": given})
    assert sorted(found[:, 1:].tolist()) == [[6, 6, 14, 14, 0.5, 1], [36, 6, 44, 14, 0.5, 0]]


def test_the_mean_that_it_is() -> None:
    """IoU 0.8; the third is of another class, the fourth below the threshold."""
    given = np.array(
        [
            [5, 4.5, 10, 9, 1, 0.75, 0, 0],
            [5, 4, 10, 8, 1, 0.25, 0, 0],
            [5, 3.5, 10, 7, 1, 0, 0.5, 0],
            [5, 3, 10, 6, 1, 0.1, 0, 0],
        ],
        np.float32,
    )[None]
    (found,) = nms_alone(0.2, 0.45, vote=True).run(None, {"images": given})
    assert found.tolist() == [[0, 0, 0, 10, 8.75, 0.75, 0], [0, 0, 0, 10, 7, 0.5, 1]]
