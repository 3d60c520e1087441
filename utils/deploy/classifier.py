"""Classifiers as files for other runtimes: pictures' squares in, probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.data.classes import ClassSample, load_classes
from utils.data.classification import ClassEvaluationSet, class_evaluation_loader, square, to_planes
from utils.data.images import read_image
from utils.data.labels import spread
from utils.deploy.formats import KINDS, Format, kept_if_good, megabytes, settle, with_bfloat16
from utils.deploy.network import Job
from utils.errors import DataError, InputError
from utils.evaluation.classification import ClassifierMetrics, Classifying, classify, measure_classes, probabilities_by
from utils.log import counted, say
from utils.precision import ComputePrecision
from utils.runtimes.opening import open_exported
from utils.runtimes.runtime import Check, NetworkInfo

COMPARED = 4  # pictures
BATCH = 32
LIMITS = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.02}
"""Probability that an export may be off, by the precision of its weights."""
UNABLE = frozenset({"darknet"})


@dataclass(frozen=True)
class ExportedClassifier:
    """A file or folder that was written."""

    format: Format
    path: Path
    probability: float
    """By which it differs from PyTorch, at most."""
    metrics: ClassifierMetrics | None = None
    """On the data set's validation images."""


def export_classifier(
    job: Job,
    formats: Sequence[Format],
    folder: Path,
    stem: str,
    data: str,
    measured: bool,
    precision: ComputePrecision = "auto",
) -> list[ExportedClassifier]:
    """Write each format, load it, and compare it with PyTorch on validation images of `data` before it is kept.

    With `measured` accuracy is measured, too. Raises InputError; nothing is left of a format that fails.
    """
    for name in formats:
        if name in UNABLE:
            raise InputError(f"--format {name}: expected a detector; Darknet has no form of this classifier")
    known = load_classes(data, 0, job.info.names if measured else None)
    if not known.valid:
        raise DataError(f"{data}: expected validation images, which exported files are compared on")
    if measured:
        say(f"PyTorch: {accuracy(job.model, known.valid, job.info)}")
    folder.mkdir(parents=True, exist_ok=True)
    return [write(job, name, folder, stem, known.valid, measured, precision) for name in formats]


def write(
    job: Job,
    name: Format,
    folder: Path,
    stem: str,
    valid: Sequence[ClassSample],
    measured: bool,
    precision: ComputePrecision,
) -> ExportedClassifier:
    """One format; see `export_classifier`."""
    chosen = spread(valid, COMPARED)
    pictures = torch.stack([square(to_planes(read_image(each.image)), job.info.size[0]) for each in chosen])
    with kept_if_good(folder) as partial:
        path = partial / f"{stem}{KINDS[name].suffix}"
        KINDS[name].write(job, path)
        right = probabilities_by(job.model)(pictures)
        runtime = open_exported(path)  # in float32: nothing has been checked
        apart = float(np.abs(probabilities_by(runtime)(pictures) - right).max())
        if not apart <= LIMITS[job.info.precision]:
            raise InputError(
                f"--format {name}: {runtime.kind} differs from PyTorch by more than rounding (a probability by "
                f"{apart:.2g}); nothing was written"
            )
        checks: dict[str, Check] = {"float32": {"passed": True, "score": apart}}
        if with_bfloat16(name, precision):
            lower = probabilities_by(open_exported(path, precision="bf16"))(pictures)
            off = float(np.abs(lower - right).max())
            checks["bfloat16"] = {"passed": off <= LIMITS["bfloat16"], "score": off if np.isfinite(off) else None}
        words = settle(job, path, name, checks, precision)
        metrics = accuracy(runtime, valid, job.info) if measured else None
        size = megabytes(partial)
    words += "" if metrics is None else f"; {metrics}"
    compared = f"against PyTorch on {counted(len(pictures), 'picture')}: probabilities {apart:.2g}"
    say(f"{folder / path.name}: written, {size:.1f} MB; {compared}{words}")
    return ExportedClassifier(name, folder / path.name, apart, metrics)


def accuracy(what: Classifying, samples: Sequence[ClassSample], info: NetworkInfo) -> ClassifierMetrics:
    """Top-1, top-5 and the rest on the samples."""
    loader = class_evaluation_loader(ClassEvaluationSet(samples, info.size[0]), BATCH, 0)
    return measure_classes(classify(what, len(info.names), loader, None, "classifying"), info.names)
