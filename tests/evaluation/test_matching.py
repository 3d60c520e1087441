"""The matching behind curves and errors gives the AP that pycocotools gives, crowd regions included."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_metrics import by_pycocotools, random_results
from utils.errors import InputError
from utils.evaluation.matching import Matches, average_precision, match
from utils.evaluation.metrics import ImageResult


def proper_results(seed: int, classes: int = 4, images: int = 12) -> list[ImageResult]:
    """Random results without boxes turned inside out, which no network gives; the last class has no labels of 4."""
    results = random_results(seed, images, classes + (classes < 4))
    proper = []
    for result in results:
        rows = result.found[(result.found[:, 5] < classes) & (result.found[:, 2:4] >= result.found[:, :2]).all(axis=1)]
        proper.append(replace(result, found=rows))
    return proper


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("crowds", [False, True])
def test_equals_pycocotools(seed: int, crowds: bool) -> None:
    results = proper_results(seed)
    if crowds:
        rng = np.random.default_rng(seed)
        results = [replace(result, crowd=rng.random(len(result.truth)) < 0.3) for result in results]
    ours = average_precision(match(results, 4))
    theirs = by_pycocotools(results, 4).mean(axis=1)
    theirs[theirs == -1] = np.nan
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert 0.001 < np.nanmean(ours) < 0.95


def test_counting_images_twice_is_having_them_twice() -> None:
    results = proper_results(0)
    times = np.random.default_rng(0).integers(0, 3, len(results))
    repeated = [result for result, count in zip(results, times, strict=True) for _ in range(count)]
    expected = average_precision(match(repeated, 4))
    np.testing.assert_allclose(average_precision(match(results, 4), times), expected, atol=1e-12)


def test_which_object_was_found() -> None:
    truth = np.array([[0, 0, 0, 10, 10], [1, 0, 0, 10, 10], [0, 2, 0, 12, 10]], np.float32)
    found = np.array([[2, 0, 12, 10, 0.4, 0], [1, 0, 11, 10, 0.9, 0], [0, 0, 9, 9, 0.8, 1]], np.float32)
    matches = match([ImageResult(20, 20, truth, found)], 2)
    assert matches.row.tolist() == [1, 0, 2] and matches.label.tolist() == [0, 0, 1]
    assert matches.found.tolist() == [2, 0, 1]  # the best-scored one takes the later of two equal overlaps
    assert matches.objects.tolist() == [[2, 1]]


def test_saved_and_loaded(tmp_path: Path) -> None:
    matches = match(proper_results(1), 4)
    matches.save(tmp_path / "matches.npz", names=np.array(["a", "ü"]))
    loaded, more = Matches.load(tmp_path / "matches.npz")
    assert more["names"].tolist() == ["a", "ü"]
    for name in Matches.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(matches, name))
    (tmp_path / "other.npz").write_text("no")
    with pytest.raises(InputError, match=r"other\.npz: not the matches"):
        Matches.load(tmp_path / "other.npz")
