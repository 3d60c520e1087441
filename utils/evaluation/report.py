"""All that test.py says of a network on a data set: as numbers for metrics.json, and as a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.evaluation.curves import Curves, confusion, curves
from utils.evaluation.errors import Errors, costs, find_errors
from utils.evaluation.matching import Matches, match
from utils.evaluation.metrics import ImageResult, Metrics, mean_of_known, measure
from utils.files import write_text


@dataclass(frozen=True)
class Report:
    """AP, the curves and their best confidence, what was taken for what at it, and the errors with their cost."""

    names: tuple[str, ...]
    metrics: Metrics
    matches: Matches
    curves: Curves
    confusion: np.ndarray
    errors: Errors
    costs: dict[str, float]

    def operating_point(self) -> dict[str, float | None]:
        """Precision, recall and F1 (means over the classes with objects) at the confidence where F1 is best."""
        means = {key: mean_of_known(values) for key, values in self._at_best().items()}
        return {**means, "confidence": self.curves.confidence}

    def _at_best(self) -> dict[str, np.ndarray]:
        return {key: getattr(self.curves, key)[:, self.curves.best] for key in ("precision", "recall", "f1")}

    def to_dict(self, options: dict[str, Any]) -> dict[str, Any]:
        """What metrics.json holds; `options` are those that the numbers were made with."""
        values = asdict(self.metrics)
        classes = values.pop("classes")
        for index, name in enumerate(self.names):
            for key, of_all in self._at_best().items():
                classes[name][key] = float(of_all[index]) if np.isfinite(of_all[index]) else None
        errors = {k: {"count": n, "costs_ap50": self.costs[k]} for k, n in self.errors.counts().items()}
        return {**values, **self.operating_point(), "errors": errors, "classes": classes, "options": options}

    def save(self, path: Path, options: dict[str, Any]) -> None:
        """Write metrics.json."""
        write_text(path, json.dumps(self.to_dict(options), indent=2, ensure_ascii=False) + "\n")

    def table(self) -> str:
        """A line a class, one for all, then sizes, the operating point and the errors."""
        keys = ("precision", "recall", "f1", "ap50", "ap75", "ap", "ar")
        heads = ("P", "R", "F1", "AP@.5", "AP@.75", "AP@.5:.95", "AR")
        values = self.to_dict({})
        width = max(12, *(len(name) for name in self.names))
        lines = [f"{'class':{width}} {'labels':>8} " + " ".join(f"{head:>9}" for head in heads)]
        for name, row in {**values["classes"], "all": values}.items():
            lines.append(f"{name:{width}} {row['labels']:8,} " + " ".join(f"{_number(row[key]):>9}" for key in keys))
        sizes = ", ".join(f"{size} {_number(values[f'ap_{size}'])}" for size in ("small", "medium", "large"))
        lines.append(f"AP@.5:.95 by size of the objects: {sizes}")
        lines.append(f"P, R and F1 at confidence {values['confidence']:.3f}, where mean F1 is best")
        errors = ", ".join(f"{k} {e['count']:,} ({e['costs_ap50']:.3f})" for k, e in values["errors"].items())
        lines.append(f"errors, and the AP@.5 that each kind costs: {errors}")
        return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def make_report(results: Sequence[ImageResult], names: Sequence[str]) -> Report:
    """Measure detections of a data set in every way."""
    matches = match(results, len(names))
    errors = find_errors(results, matches)
    shape = curves(matches)
    taken = confusion(results, len(names), shape.confidence)
    cost = costs(results, matches, errors)
    return Report(tuple(names), measure(results, names), matches, shape, taken, errors, cost)
