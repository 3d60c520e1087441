"""Kept pictures are the same as those read anew."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data import cache
from utils.data.cache import Pictures, keep_pictures
from utils.data.labels import Sample
from utils.errors import DataError, InputError


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    rng = np.random.default_rng(0)
    made = []
    for index, (width, height) in enumerate([(80, 60), (33, 77), (64, 64), (200, 31)]):
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), np.uint8))
        made.append(Sample(path, np.array([[0, 0.5, 0.5, 0.5, 0.25]], np.float32), (width, height)))
    return made


@pytest.mark.parametrize("mode", ["ram", "disk", "auto"])
def test_kept_pictures_are_equal(samples: list[Sample], tmp_path: Path, mode: str) -> None:
    kept = keep_pictures(samples, (64, 64), mode, tmp_path / "x.data")
    assert kept.store is not None
    plain = Pictures(samples, (64, 64))
    for index in range(len(samples)):
        for a, b in zip(kept.read(index), plain.read(index), strict=True):
            np.testing.assert_array_equal(a, b)
    samples[1].image.unlink()
    assert kept.read(1)[0].shape == (64, 27, 3)  # no file is needed any more


def test_off_keeps_nothing(samples: list[Sample], tmp_path: Path) -> None:
    assert keep_pictures(samples, (64, 64), "off", tmp_path / "x.data").store is None


def test_an_unreadable_image_stays_unreadable(samples: list[Sample], tmp_path: Path) -> None:
    samples[2].image.write_text("broken")
    for mode in ("ram", "disk", "disk"):
        kept = keep_pictures(samples, (64, 64), mode, tmp_path / "x.data")
        assert kept.read(1)[0].shape == (64, 27, 3)
        with pytest.raises(DataError, match=r"2\.png"):
            kept.read(2)


def test_the_file_is_made_anew_when_images_change(samples: list[Sample], tmp_path: Path) -> None:
    data = tmp_path / "x.data"
    keep_pictures(samples, (64, 64), "disk", data)
    file = tmp_path / "x.data.64x64.pictures"
    before = file.stat().st_mtime_ns
    keep_pictures(samples, (64, 64), "disk", data)
    assert file.stat().st_mtime_ns == before
    cv2.imwrite(str(samples[0].image), np.full((60, 80, 3), 7, np.uint8))
    os.utime(samples[0].image, ns=(1, 1))
    kept = keep_pictures(samples, (64, 64), "disk", data)
    assert (kept.read(0)[0] == 7).all()


def test_memory_is_checked_first(samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 3 * (64 * 48 + 27 * 64 + 64 * 64 + 64 * 10)  # each scaled to fit 64x64
    for module in (cache, "utils.memory"):
        name = f"{module if isinstance(module, str) else module.__name__}.available_bytes"
        monkeypatch.setattr(name, lambda: int(needed / 0.8) - 10)
    with pytest.raises(InputError, match=r"--cache ram: 4 pictures needs .* free: take --cache disk or off"):
        keep_pictures(samples, (64, 64), "ram", tmp_path / "x.data")
    assert keep_pictures(samples, (64, 64), "auto", tmp_path / "x.data").store is None
