"""Networks measured: size, speed, AP; and the pictures that two networks are compared on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.data.datafile import load_data
from utils.data.dataset import letterboxed
from utils.data.labels import Sample, load_samples
from utils.deploy.formats import KINDS
from utils.deploy.network import Job
from utils.evaluation.evaluate import EvaluationSettings, collect, evaluation_loader
from utils.evaluation.metrics import Metrics, measure
from utils.letterbox import GREY
from utils.network.speed import inference_pass, time_in_turns
from utils.network.summary import gflops, trace
from utils.pruning.cost import Standing
from utils.pruning.options import Timed, TimedExport
from utils.runtimes.opening import open_exported
from utils.runtimes.pytorch import describe

ROUNDS = 11  # of timing
PROOF_IMAGES = 4

Clock = Callable[[Sequence[Any]], list[float]]
"""Networks -> milliseconds of one image in each, measured in turns."""


def clock_of(
    runtime: Timed, size: tuple[int, int], device: torch.device, rounds: int = ROUNDS, told: bool = True
) -> Clock:
    """What times networks with inputs of this (width, height); `told`: with a bar, and a warning on a busy machine.

    Raises InputError where a package is missing.
    """
    if runtime == "pytorch":
        return torch_clock(size, device, rounds, told)
    return exported_clock(runtime, size, rounds, told)


def exported_clock(runtime: TimedExport, size: tuple[int, int], rounds: int, told: bool) -> Clock:
    """Medians on the CPU in a runtime of export.py's files, from pixels to predictions, in float32."""
    kind = KINDS["darknet" if runtime == "opencv" else runtime]

    def clock(models: Sequence[Any]) -> list[float]:
        picture = np.full((1, size[1], size[0], models[0].graph.net.channels), GREY, np.uint8)
        works = {}
        with TemporaryDirectory() as folder:
            for index, model in enumerate(models):
                path = Path(folder) / f"{index}{kind.suffix}"
                kind.write(Job(model, replace(describe(model, size), dynamic=False), fold_bn=True), path)
                works[index] = partial(open_exported(path).infer, picture)
            times = time_in_turns(works, torch.device("cpu"), rounds, told)
        return [times[index] for index in works]

    return clock


def torch_clock(size: tuple[int, int], device: torch.device, rounds: int, told: bool) -> Clock:
    """Medians in PyTorch as detect.py runs it: float32, normalisation folded in, channels last."""

    def clock(models: Sequence[Any]) -> list[float]:
        shape = 1, models[0].graph.net.channels, size[1], size[0]
        passes = {index: inference_pass(model, shape, device, torch.float32) for index, model in enumerate(models)}
        times = time_in_turns(passes, device, rounds, told)
        return [times[index] for index in passes]

    return clock


def steady(clock: Clock, reference: Any) -> Callable[[Any], float]:
    """What times a network on a machine that others use, too: milliseconds as they are there as a rule.

    Network and reference are timed in turns; their ratio, which load changes little, times the median of what the
    reference has taken so far.
    """
    taken: list[float] = []

    def milliseconds(model: Any) -> float:
        own, its = clock([model, reference])
        taken.append(its)
        return own / its * median(taken)

    return milliseconds


def standings(
    models: Sequence[Any], size: tuple[int, int], clock: Clock, average_precision: Callable[[Any], Metrics] | None
) -> list[Standing]:
    """Each network's; AP where it can be measured."""
    times = clock(models)
    found = []
    for model, milliseconds in zip(models, times, strict=True):
        device = next(model.parameters()).device
        rows = trace(model, torch.zeros(1, model.graph.net.channels, size[1], size[0], device=device))
        metrics = None if average_precision is None else average_precision(model)
        aps = (None, None) if metrics is None else (metrics.ap50, metrics.ap)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found.append(Standing(parameters, gflops(rows), milliseconds, *aps))
    return found


def precision_of(samples: Sequence[Sample], settings: EvaluationSettings) -> Callable[[Any], Metrics]:
    """What measures a network's AP on these images."""
    loader = evaluation_loader(samples, settings)

    def average_precision(model: Any) -> Metrics:
        return measure(collect(model, samples, settings, "evaluation", loader), model.names)

    return average_precision


def some_shapes() -> list[Sample]:
    """Pictures for the proof where there is no data set: of the embedded shapes."""
    spec = load_data("shapes.data")
    return load_samples(spec.valid[:PROOF_IMAGES], spec.num_classes, "images")[0]


def proof_images(samples: list[Sample], size: tuple[int, int], device: torch.device, channels: int) -> list[Tensor]:
    """The first images that can be read, (1, channels, H, W), letterboxed."""
    pictures = letterboxed(samples[:PROOF_IMAGES], size, channels)
    return [torch.from_numpy(picture).permute(2, 0, 1)[None].float().to(device) / 255 for picture in pictures]
