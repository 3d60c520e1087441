"""The chain from labels to AP learns: white rectangles on noise."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from train import TrainOptions, train

CFG = """[net]
width=64
height=64
[convolutional]
filters=16
size=3
stride=2
pad=1
batch_normalize=1
activation=leaky
[ghost]
filters=32
size=3
stride=2
pad=1
batch_normalize=1
activation=leaky
[ghost]
filters=32
size=3
stride=2
pad=1
batch_normalize=1
activation=leaky
[convolutional]
filters=32
size=3
pad=1
batch_normalize=1
activation=leaky
[convolutional]
filters=12
size=1
activation=linear
[yolo]
mask=0,1
anchors=12,12,24,24
num=2
classes=1
SCALE
"""


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["", "scale_x_y=2"])
def test_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: str) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "set"
    folder.mkdir()
    for index in range(64):
        image = rng.integers(0, 100, (64, 64, 3), np.uint8)
        x, y = rng.integers(0, 40, 2)
        w, h = rng.integers(12, 24, 2)
        image[y : y + h, x : x + w] = 255
        cv2.imwrite(str(folder / f"{index}.png"), image)
        (folder / f"{index}.txt").write_text(f"0 {(x + w / 2) / 64} {(y + h / 2) / 64} {w / 64} {h / 64}\n")
    (tmp_path / "s.data").write_text("classes=1\ntrain=set\nvalid=set\n")
    (tmp_path / "x.cfg").write_text(CFG.replace("SCALE", scale))
    monkeypatch.chdir(tmp_path)
    result = train(TrainOptions(cfg="x.cfg", data="s.data", epochs=16, batch_size=8, workers=0))
    assert result.metrics.ap50 > 0.8
