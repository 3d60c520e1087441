"""OpenCV's Darknet importer as a runtime."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from models import load_model, save_weights
from tests.network.test_opencv import BASE
from utils.errors import InputError
from utils.runtimes.opencv import OpenCv
from utils.runtimes.pytorch import describe


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    """A network as export.py writes it."""
    file = tmp_path / "x.cfg"
    file.write_text(BASE)
    model = load_model(file)
    save_weights(model, tmp_path / "x.weights")
    (tmp_path / "x.json").write_text(json.dumps(asdict(describe(model))))
    return file


def test_comments_may_be_in_any_encoding(cfg: Path) -> None:
    images = np.zeros((1, 96, 96, 3), np.uint8)
    expected = OpenCv(cfg).infer(images)
    cfg.write_bytes("# Größe 416 × 416\n".encode("latin-1") + cfg.read_bytes())
    np.testing.assert_array_equal(OpenCv(cfg).infer(images), expected)


def test_what_opencv_cannot_load_or_compute_is_one_line(cfg: Path) -> None:
    with pytest.raises(InputError, match="OpenCV could not compute the network") as caught:
        OpenCv(cfg).infer(np.zeros((1, 96, 96, 1), np.uint8))  # a grey image for three channels
    assert "\n" not in str(caught.value)
    cfg.write_text(BASE.replace("[yolo]", "[unknown]\n[yolo]"))
    with pytest.raises(InputError, match="cannot be loaded by OpenCV") as caught:
        OpenCv(cfg)
    assert "\n" not in str(caught.value)
