"""How much a channel matters: a score for each, and the score of channels that go together."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from utils.log import progress
from utils.network.channels import Layer
from utils.pruning.groups import ChannelGroups

Criterion = Literal["gamma", "l1", "l2", "fpgm", "lamp", "taylor", "random"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
Changes = dict[Layer, Tensor]
"""A layer -> (C,), what "taylor" goes by; see `loss_changes`."""


def group_scores(
    groups: ChannelGroups, criterion: Criterion, union: bool, seed: int = 0, changes: Changes | None = None
) -> np.ndarray:
    """(groups,): the mean of the channels' scores, or with `union` the greatest; NaN where nothing judges them.

    `changes` is what "taylor" needs.
    """
    score = (SCORES | {"taylor": (changes or {}).get, "random": _random(seed)})[criterion]
    total, number = np.zeros(groups.count), np.zeros(groups.count)
    greatest = np.full(groups.count, -np.inf)
    for layer in groups.judged:
        values = score(layer)
        if values is None:
            continue
        ids, scores = groups.of_label[layer.outputs], values.detach().double().cpu().numpy()
        np.add.at(total, ids, scores)
        np.add.at(number, ids, 1)
        np.maximum.at(greatest, ids, scores)
    scores = greatest if union else total / np.maximum(number, 1)
    return np.where(number > 0, scores, np.nan)


Score = Callable[[Layer], Tensor | None]
"""A layer -> (C,) scores of its outputs, at least 0; None where it cannot tell."""


def _gamma(layer: Layer) -> Tensor | None:
    """|gamma| of the batch normalisation (Liu et al., "Network Slimming", ICCV 2017)."""
    return None if layer.bn is None else layer.bn.weight.abs()


def _filters(layer: Layer) -> Tensor | None:
    """(C, values) of the convolution."""
    return None if layer.conv is None else layer.conv.weight.detach().flatten(1)


def _relative(scores: Tensor) -> Tensor:
    """Over their mean, so that layers can be compared."""
    return scores / scores.mean().clamp(min=1e-12)


def _l1(layer: Layer) -> Tensor | None:
    """The sum of |weights| (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""
    filters = _filters(layer)
    return None if filters is None else _relative(filters.abs().sum(1))


def _l2(layer: Layer) -> Tensor | None:
    """The Euclidean norm of the weights."""
    filters = _filters(layer)
    return None if filters is None else _relative(filters.norm(dim=1))


def _fpgm(layer: Layer) -> Tensor | None:
    """The distance to all other filters: those near the geometric median can be replaced (He et al., CVPR 2019)."""
    filters = _filters(layer)
    return None if filters is None else _relative(torch.cdist(filters, filters).sum(1))


def _lamp(layer: Layer) -> Tensor | None:
    """The squared norm over the sum of those at least as great in the layer (Lee et al., ICLR 2021)."""
    filters = _filters(layer)
    if filters is None:
        return None
    energies, order = filters.double().square().sum(1).sort(descending=True)
    scores = torch.empty_like(energies)
    scores[order] = energies / energies.cumsum(0).clamp(min=1e-300)
    return scores


SCORES: dict[str, Score] = {"gamma": _gamma, "l1": _l1, "l2": _l2, "fpgm": _fpgm, "lamp": _lamp}


def loss_changes(groups: ChannelGroups, model: Any, criterion: Any, loader: Iterable[Any]) -> Changes:
    """What "taylor" needs: for each channel the square of the loss's first-order change without it, over batches.

    Of gamma and beta where there are any, else of the weights (Molchanov et al., "Importance Estimation for Neural
    Network Pruning", CVPR 2019). `loader` yields images (B, C, H, W) uint8, targets and more; the network, in eval
    mode, stays as it is.
    """
    parameters = [tensor for layer in groups.judged for tensor in _judging(layer)]
    changes = {layer: torch.zeros(len(layer.outputs), device=parameters[0].device) for layer in groups.judged}
    for images, targets, *_ in progress(loader, "gradients", unit="batch"):
        images, targets = images.to(parameters[0].device).float() / 255, targets.to(parameters[0].device)
        loss, _ = criterion(model.raw(images), targets, tuple(images.shape[2:]))
        gradients = dict(zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))
        for layer in groups.judged:
            products = [
                (tensor.detach() * gradient).reshape(len(tensor), -1).sum(1)
                for tensor in _judging(layer)
                if (gradient := gradients[tensor]) is not None
            ]
            changes[layer] += sum(products, torch.zeros_like(changes[layer])).square()
    return changes


def _judging(layer: Layer) -> list[Tensor]:
    """Gamma and beta, or the weights."""
    if layer.bn is not None:
        return [layer.bn.weight, layer.bn.bias]
    return [] if layer.conv is None else [layer.conv.weight]


def _random(seed: int) -> Score:
    """Chance: what every criterion has to beat."""
    generator = torch.Generator().manual_seed(seed)
    return lambda layer: torch.rand(len(layer.outputs), generator=generator)
