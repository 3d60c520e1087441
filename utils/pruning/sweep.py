"""Networks measured: size, speed and AP of one, and of what many shares of its channels would leave."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from utils.data.labels import Sample
from utils.evaluation.evaluate import EvaluationSettings, collect, evaluation_loader
from utils.evaluation.metrics import Metrics, measure
from utils.network.speed import inference_pass, time_in_turns
from utils.network.summary import gflops, trace
from utils.pruning.cost import Standing

ROUNDS = 11  # of timing

Clock = Callable[[Sequence[Any]], list[float]]
"""Networks -> milliseconds of one image in each, measured in turns."""


def torch_clock(size: tuple[int, int], device: torch.device, rounds: int = ROUNDS) -> Clock:
    """Medians in PyTorch as detect.py runs it: float32, normalisation folded in, channels last."""

    def clock(models: Sequence[Any]) -> list[float]:
        shape = 1, models[0].graph.net.channels, size[1], size[0]
        passes = {index: inference_pass(model, shape, device, torch.float32) for index, model in enumerate(models)}
        times = time_in_turns(passes, device, rounds)
        return [times[index] for index in passes]

    return clock


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
