"""The main job on the embedded data: train, measure, detect, and one picture of it all. Run by `make demo`."""

import time

import cv2
import numpy as np

from detect import CommandOptions
from detect import main as detect
from train import TrainOptions, train
from utils.data.datafile import load_data
from utils.data.images import read_image
from utils.log import say

OPTIONS = TrainOptions(cfg="ghost-yolov3-tiny-lite.cfg", data="shapes.data", epochs=20, img_size=224, name="demo")
COLUMNS, ROWS, TILE = 4, 2, 320


def main() -> None:
    """Train for some minutes, then draw what was found in eight validation images."""
    start = time.perf_counter()
    result = train(OPTIONS)
    image = load_data(OPTIONS.data).valid[0]
    pattern = str(image.parent / "*[05].jpg")
    weights = str(result.folder / "best.pt")
    folder = detect(CommandOptions(weights=weights, source=pattern, agnostic_nms=True, name="demo"))
    assert folder is not None
    files = sorted(folder.glob("*.jpg"))[: COLUMNS * ROWS]
    tiles = [cv2.resize(read_image(file), (TILE, TILE)) for file in files]
    rows = [np.hstack(tiles[row * COLUMNS : (row + 1) * COLUMNS]) for row in range(ROWS)]
    picture = result.folder / "detections.jpg"
    cv2.imwrite(str(picture), np.vstack(rows))
    minutes = (time.perf_counter() - start) / 60
    say(f"demo: AP@.5 {result.metrics.ap50:.3f} in {minutes:.1f} minutes; look at {picture}")


if __name__ == "__main__":
    main()
