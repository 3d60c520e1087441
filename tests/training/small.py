"""A tiny data set and network, for trainings that take seconds."""

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import Tensor

from utils.training.engine import Trainee

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
GHOST
GHOST
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
""".replace(
    "GHOST",
    """[ghost]
filters=32
size=3
stride=2
pad=1
batch_normalize=1
activation=leaky""",
)


def make_set(folder: Path, images: int = 64, size: int = 64) -> None:
    """White rectangles on noise: s.data, its images, and x.cfg."""
    rng = np.random.default_rng(0)
    place = folder / "set"
    place.mkdir()
    for index in range(images):
        image = rng.integers(0, 100, (size, size, 3), np.uint8)
        x, y = rng.integers(0, size - 24, 2)
        w, h = rng.integers(12, 24, 2)
        image[y : y + h, x : x + w] = 255
        cv2.imwrite(str(place / f"{index:03d}.png"), image)
        label = f"0 {(x + w / 2) / size} {(y + h / 2) / size} {w / size} {h / size}\n"
        (place / f"{index:03d}.txt").write_text(label)
    (folder / "s.data").write_text("classes=1\ntrain=set\nvalid=set\n")
    (folder / "x.cfg").write_text(CFG)


def stop_at_change(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A SIGTERM before the weights change for the so-many-th time."""
    original, calls = Trainee.change, 0

    def change(self: Trainee, loss: Tensor) -> bool:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, loss)

    monkeypatch.setattr(Trainee, "change", change)
