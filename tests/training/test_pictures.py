"""The drawings of training batches, pixel by pixel."""

from pathlib import Path

import cv2
import numpy as np
import torch

from utils.draw import class_colour
from utils.training.pictures import draw_batch


def test_batches_are_drawn_with_the_boxes_that_are_learnt(tmp_path: Path) -> None:
    """Two grey images of 64x64: one with a box of the second class and an ignored one, one without."""
    images = torch.full((2, 3, 64, 64), 90, dtype=torch.uint8)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.25], [0, -1, 0.1, 0.1, 0.1, 0.1]])
    draw_batch(tmp_path / "a.png", images, targets, ["", ""])
    drawn = cv2.imread(str(tmp_path / "a.png"))
    assert drawn.shape == (64, 128, 3) and (drawn[:, 64:] == 90).all()
    rows, columns = np.nonzero((drawn != 90).any(axis=2))
    edges = columns.min(), rows.min(), columns.max(), rows.max()
    np.testing.assert_allclose(edges, (16, 24, 48, 40), atol=1)
    assert drawn[24, 32].tolist() == list(class_colour(1))[::-1]  # BGR
    assert (drawn[30:34, 22:42] == 90).all()  # an outline, not a filled box
