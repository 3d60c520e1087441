"""How much a channel matters: a score for each, and the score of channels that go together."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from utils.network.channels import Layer
from utils.pruning.groups import ChannelGroups

Criterion = Literal["gamma", "l1", "l2", "fpgm", "lamp", "taylor", "random"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
Gradients = dict[Tensor, Tensor]
"""A parameter -> the mean over batches of |parameter x gradient|, of its own shape."""


def group_scores(
    groups: ChannelGroups, criterion: Criterion, union: bool, seed: int = 0, products: Gradients | None = None
) -> np.ndarray:
    """(groups,): the mean of the channels' scores, or with `union` the greatest; NaN where nothing judges them.

    `products` is what "taylor" needs. Raises KeyError without it.
    """
    score = (SCORES | {"taylor": _taylor(products or {}), "random": _random(seed)})[criterion]
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


def _taylor(products: Gradients) -> Score:
    """The loss's first-order change without the channel, from gamma and beta (Molchanov et al., CVPR 2019)."""

    def score(layer: Layer) -> Tensor | None:
        if layer.bn is not None:
            return products[layer.bn.weight]
        return None if layer.conv is None else products[layer.conv.weight].flatten(1).sum(1)

    return score


def _random(seed: int) -> Score:
    """Chance: what every criterion has to beat."""
    generator = torch.Generator().manual_seed(seed)
    return lambda layer: torch.rand(len(layer.outputs), generator=generator)
