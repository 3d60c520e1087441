"""Two measurements of the same images, class by class, and whether their difference is more than chance.

Each bootstrap sample draws as many images as there are, with replacement, and both networks are measured on it (Efron
and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: percentile intervals). Images are what varies, so a
difference on 72 images is not taken for more than it is.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.evaluation.matching import Matches, average_precision
from utils.figure import new_figure, save_figure
from utils.log import progress, warn

SAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percent


@dataclass(frozen=True)
class Measurement:
    """What test.py left in a folder."""

    path: Path
    names: tuple[str, ...]
    images: tuple[str, ...]
    matches: Matches

    @property
    def file_names(self) -> tuple[str, ...]:
        """The images' names without their folders, which may be of another system."""
        return tuple(re.split(r"[/\\]", image)[-1] for image in self.images)

    @classmethod
    def load(cls, path: Path) -> "Measurement":
        """From its metrics.json and the matches.npz beside it. Raises InputError where these are not such files."""
        try:
            names = tuple(json.loads(path.read_text(encoding="utf-8"))["classes"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}: expected a metrics.json that test.py wrote") from None
        matches, more = Matches.load(path.with_name("matches.npz"))
        if matches.objects.shape != (len(more["images"]), len(names)):
            raise InputError(f"{path}: expected the classes and images of the matches.npz beside it")
        return cls(path, names, tuple(more["images"].tolist()), matches)


@dataclass(frozen=True)
class Difference:
    """One score of two networks: a, b, and the interval that 95 % of the bootstrap samples' b - a lie in."""

    a: float
    b: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """AP@.5 and AP@.5:.95 of each class with objects, and of `all`."""

    ap50: dict[str, Difference]
    ap: dict[str, Difference]
    images: int

    def table(self) -> str:
        """A line a class and score."""
        width = max(12, *(len(name) for name in self.ap))
        lines = [f"{'class':{width}} {'score':>9} {'A':>6} {'B':>6} {'B - A':>7}  95 % interval"]
        for name in self.ap:
            for score, one in (("AP@.5", self.ap50[name]), ("AP@.5:.95", self.ap[name])):
                verdict = "" if one.clear else "  may be chance"
                lines.append(
                    f"{name:{width}} {score:>9} {one.a:6.3f} {one.b:6.3f} {one.b - one.a:+7.3f}  "
                    f"{one.low:+.3f} to {one.high:+.3f}{verdict}"
                )
        return "\n".join(lines)


def compare(a: Measurement, b: Measurement, seed: int = 0, samples: int = SAMPLES) -> Comparison:
    """Compare two measurements. Raises InputError unless both are of the same images and classes.

    Images of the same file names with as many objects may lie in another folder, or on another machine: a warning.
    """
    for what, of_a, of_b in (("classes", a.names, b.names), ("images", a.file_names, b.file_names)):
        if of_a != of_b:
            other = next((y for x, y in zip(of_a, of_b, strict=False) if x != y), None)
            words = f"{len(of_a)} there, {len(of_b)} here" if other is None else f"{other!r} is another one"
            raise InputError(f"{b.path}: expected the {what} of {a.path}: {words}")
    if a.images != b.images:
        x, y = next((x, y) for x, y in zip(a.images, b.images, strict=True) if x != y)
        if not np.array_equal(a.matches.objects, b.matches.objects):
            raise InputError(f"{b.path}: expected the images of {a.path}: {y} is not {x}, there are other objects")
        warn(f"warning: {b.path}: {y} is taken for {x}, which has the same name")
    rng = np.random.default_rng(seed)
    count = len(a.images)
    pairs = []
    for _ in progress(range(samples), "bootstrap", unit="sample"):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        pairs.append([_scores(one.matches, times) for one in (a, b)])
    drawn = np.array(pairs)  # (samples, 2 networks, 2 scores, classes + 1)
    known = [*np.flatnonzero(a.matches.objects.sum(axis=0)).tolist(), len(a.names)]
    names = [*a.names, "all"]
    own = [_scores(one.matches, None) for one in (a, b)]
    low, high = np.nanpercentile(drawn[:, 1, :, known] - drawn[:, 0, :, known], INTERVAL, axis=1)  # (classes, 2) each
    scores = [
        {names[k]: Difference(own[0][s, k], own[1][s, k], low[i, s], high[i, s]) for i, k in enumerate(known)}
        for s in range(2)
    ]
    return Comparison(scores[0], scores[1], count)


def _scores(matches: Matches, times: np.ndarray | None) -> np.ndarray:
    """(2, classes + 1): AP@.5 and AP@.5:.95 of each class, NaN without objects, and their means."""
    ap = average_precision(matches, times)  # (10, classes)
    each = np.stack((ap[0], ap.mean(axis=0)))
    known = np.isfinite(each[0])
    means = each[:, known].mean(axis=1, keepdims=True) if known.any() else np.full((2, 1), np.nan)
    return np.concatenate((each, means), axis=1)


def draw_comparison(path: Path, comparison: Comparison, names: tuple[str, str]) -> None:
    """The differences with their intervals, a line a class; grey where they may be chance."""
    figure, axes = new_figure((12, 2 + 0.35 * len(comparison.ap)), 1, 2)
    for one, title, differences in (
        (axes[0], "AP@.5", comparison.ap50),
        (axes[1], "AP@.5:.95", comparison.ap),
    ):
        for place, difference in enumerate(reversed(differences.values())):
            colour = "tab:blue" if difference.clear else "0.6"
            one.plot([difference.low, difference.high], [place, place], color=colour, lw=2)
            one.plot(difference.b - difference.a, place, "o", color=colour)
        one.axvline(0, color="black", lw=0.8)
        one.set_yticks(range(len(differences)), list(reversed(differences)))
        one.set(title=f"{title}: B - A, 95 % interval", xlabel="grey: may be chance")
        one.set_ylim(-1, len(differences))
        one.grid(alpha=0.3, axis="x")
    figure.suptitle(f"A: {names[0]}   B: {names[1]}   ({comparison.images:,} images)")
    save_figure(figure, path)
