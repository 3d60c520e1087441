"""The bootstrap's intervals: against a closed form, and on measurements that are the same or differ clearly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_matching import proper_results
from utils.errors import InputError
from utils.evaluation.compare import Measurement, compare
from utils.evaluation.matching import match
from utils.evaluation.metrics import ImageResult
from utils.evaluation.report import make_report

NAMES = ["a", "b", "c"]


def saved(folder: Path, results: list[ImageResult], names: list[str] = NAMES) -> Measurement:
    folder.mkdir(parents=True)
    report = make_report(results, names)
    report.save(folder / "metrics.json", {})
    report.matches.save(folder / "matches.npz", images=np.array([f"{i}.jpg" for i in range(len(results))]))
    return Measurement.load(folder / "metrics.json")


def test_same_and_worse(tmp_path: Path) -> None:
    results = proper_results(0, classes=3, images=40)
    rng = np.random.default_rng(0)
    worse = [replace(one, found=one.found[rng.random(len(one.found)) < 0.5]) for one in results]
    a, b = saved(tmp_path / "a", results), saved(tmp_path / "b", worse)
    same = compare(a, a, samples=50)
    assert all((one.low, one.high, one.clear) == (0, 0, False) for one in same.ap.values())
    clear = compare(a, b, samples=200)
    assert clear.ap["all"].clear and clear.ap["all"].high < 0 and list(clear.ap) == [*NAMES, "all"]
    assert clear.ap["all"].a == pytest.approx(make_report(results, NAMES).metrics.ap, abs=1e-9)
    assert clear.ap["all"].low < clear.ap["all"].b - clear.ap["all"].a < clear.ap["all"].high
    assert "may be chance" in same.table() and "95 % interval" in clear.table()


def test_the_interval_is_that_of_a_share() -> None:
    """One object an image, found or not and never a false alarm: AP is close to recall, whose spread is known."""
    box = np.array([[0, 0, 0, 10, 10]], np.float32)
    hit = np.array([[0, 0, 10, 10, 0.9, 0]], np.float32)
    share, count = 0.7, 400
    results = [ImageResult(9, 9, box, hit[: i < share * count]) for i in range(count)]
    nothing = [ImageResult(9, 9, box, hit[:0]) for _ in range(count)]
    files = tuple(map(str, range(count)))
    a, b = (Measurement(Path("x"), ("a",), files, match(one, 1)) for one in (nothing, results))
    found = compare(a, b).ap["all"]
    spread = (share * (1 - share) / count) ** 0.5
    assert found.b == pytest.approx(share, abs=0.01)  # of the 101 recalls
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_the_same_images_in_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = proper_results(0, classes=3)
    a, b = saved(tmp_path / "a", results), saved(tmp_path / "b", results)
    here = replace(a, images=tuple(f"/home/me/set/{image}" for image in a.images))
    there = replace(b, images=tuple(f"D:\\\\data\\{image}" for image in b.images))
    for other, warnings in ((here, 0), (b, 1), (there, 1)):
        assert compare(here, other, samples=5).ap["all"].high == 0
        assert capsys.readouterr().err.count("which has the same name") == warnings
    fewer = [replace(results[0], truth=results[0].truth[1:], area=None, crowd=None), *results[1:]]
    with pytest.raises(InputError, match=r"there are other objects"):
        compare(here, saved(tmp_path / "c", fewer), samples=5)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    results = proper_results(0, classes=3)
    a = saved(tmp_path / "a", results)
    with pytest.raises(InputError, match=r"expected the images of .*: 12 there, 11 here"):
        compare(a, saved(tmp_path / "b", results[:-1]))
    with pytest.raises(InputError, match=r"expected the classes of .*: 'd' is another one"):
        compare(a, saved(tmp_path / "c", results, ["a", "b", "d"]))
    (tmp_path / "a" / "other.json").write_text("[]")
    with pytest.raises(InputError, match=r"other\.json: expected a metrics\.json that test\.py wrote"):
        Measurement.load(tmp_path / "a" / "other.json")
