"""Pictures of what a training learns from: the first batches as the network gets them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from utils.data.augment import IGNORED
from utils.draw import draw_boxes, write_tiles
from utils.letterbox import to_bgr

MAX_TILES = 16


def draw_batch(path: Path, images: Tensor, targets: Tensor, names: Sequence[str]) -> None:
    """Up to 16 training images as the network gets them, (B, C, H, W) uint8, RGB or grey, with the boxes (M, 6)
    that are learnt.
    """
    tiles = []
    height, width = images.shape[2:]
    for index, image in enumerate(images[:MAX_TILES]):
        rows = targets[(targets[:, 0] == index) & (targets[:, 1] != IGNORED)].numpy()
        half = rows[:, 4:6] / 2
        boxes = np.concatenate((rows[:, 2:4] - half, rows[:, 2:4] + half), axis=1) * [width, height, width, height]
        classes = rows[:, 1].astype(int).tolist()
        picture = to_bgr(image.permute(1, 2, 0).numpy())
        tiles.append(draw_boxes(picture, boxes, [names[label] for label in classes], classes))
    write_tiles(path, tiles)
