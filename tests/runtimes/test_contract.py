"""What every runtime keeps to: the same boxes from threads, its caller's arrays left alone, batches of any number."""

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from detect import Detector
from models import load_model
from utils.deploy.formats import KINDS
from utils.runtimes.opening import open_exported
from utils.runtimes.pytorch import PyTorch
from utils.runtimes.runtime import Runtime, planes

RUNTIMES = ["pytorch", *KINDS]
ROUNDING = {"rtol": 1e-5, "atol": 1e-4}  # a runtime may add up in another order each time
THREADS, CALLS = 4, 12


@pytest.fixture(params=RUNTIMES)
def file(request: pytest.FixtureRequest, files: Mapping[str, Path]) -> Path:
    path: Path = files[request.param]
    return path


def opened(file: Path) -> Runtime:
    return PyTorch(load_model(weights=file)) if file.suffix == ".pt" else open_exported(file, 1, "auto")


def images(count: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 96, 96, 3), np.uint8).astype(dtype)


def expected(files: Mapping[str, Path], batch: np.ndarray) -> np.ndarray:
    """By the trained network itself: nothing folded, in double precision."""
    with torch.no_grad():
        values = torch.from_numpy(batch.astype(np.float64)).permute(0, 3, 1, 2) / 255
        found: np.ndarray = load_model(weights=files["pytorch"]).double()(values).numpy()
    return found


def test_batches_of_any_number(file: Path, files: Mapping[str, Path]) -> None:
    runtime, batch = opened(file), images(3)
    right = expected(files, batch)
    for count in (0, 1, 3):
        found = runtime.infer(batch[:count])
        assert found.dtype == np.float32 and found.shape == right[:count].shape
        np.testing.assert_allclose(found, right[:count], rtol=1e-3, atol=2e-3)


def test_a_second_call_gives_the_same(file: Path) -> None:
    runtime, one, other = opened(file), images(1), 255 - images(1)
    first = runtime.infer(one)
    kept = first.copy()
    assert np.abs(runtime.infer(other) - first).max() > 1e-2
    assert np.array_equal(first, kept)
    np.testing.assert_allclose(runtime.infer(one), kept, **ROUNDING)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_callers_array_is_left_alone(file: Path, dtype: type) -> None:
    """Also where it cannot be written, runs backwards, or has the memory order that the network wants."""
    runtime, batch = opened(file), images(2, dtype)
    right = runtime.infer(images(2))
    by_planes = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    wide = np.repeat(batch, 2, axis=2)
    frozen = batch.copy()
    frozen.flags.writeable = False
    for given in (batch, frozen, batch[:, ::-1, ::-1].copy()[:, ::-1, ::-1], by_planes, wide[:, :, ::2]):
        before = given.copy()
        np.testing.assert_allclose(runtime.infer(given), right, **ROUNDING)
        assert np.array_equal(given, before)


def test_planes_are_memory_of_their_own() -> None:
    values = np.full((1, 2, 2, 3), 255, np.float32)
    assert planes(values).max() == pytest.approx(1) and values.min() == 255
    by_planes = np.full((1, 3, 2, 2), 255, np.float32)
    assert planes(by_planes.transpose(0, 2, 3, 1)).max() == pytest.approx(1) and by_planes.min() == 255


def test_threads_share_a_detector(file: Path) -> None:
    detector = Detector(weights=str(file), conf=0.01, threads=1, precision="f32")
    pictures = [np.roll(images(1)[0], 8 * shift, axis=1) for shift in range(THREADS)]
    single = [detector(picture)[0].rows() for picture in pictures]
    assert len({rows.tobytes() for rows in single}) == THREADS and all(map(len, single))
    wrong: list[Exception] = []
    start = threading.Barrier(THREADS)

    def work(number: int) -> None:
        start.wait()
        for _ in range(CALLS):
            try:
                np.testing.assert_allclose(detector(pictures[number])[0].rows(), single[number], **ROUNDING)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
