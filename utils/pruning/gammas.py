"""The gammas of a network, the scales of its batch normalisations, as one vector: what sparsity training works on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.errors import InputError
from utils.pruning.groups import ChannelGroups

NEAR_ZERO = 0.01  # a channel whose |gamma| is below this counts as switched off
BINS = 200  # of histograms, NEAR_ZERO wide each; the last holds all that is above, too


@dataclass(frozen=True, eq=False)
class Gammas:
    """Where the gammas are that are trained, N of them, layer after layer; those that layers share once."""

    names: tuple[str, ...]
    """Of the parameters, one a layer."""
    sizes: tuple[int, ...]
    """Channels of each layer."""
    prunable: np.ndarray
    """(N,) bool: whether the channel may go."""
    groups: np.ndarray
    """(N,) whole numbers from 0: those of one group go together."""

    @classmethod
    def of(cls, model: Any) -> "Gammas":
        """Those of a Darknet. Raises InputError where there is none that is trained and may go."""
        channels = ChannelGroups.of(model)
        names = {parameter: name for name, parameter in model.named_parameters()}
        groups: dict[str, np.ndarray] = {}
        for layer in channels.judged:
            if layer.bn is not None and layer.bn.weight.requires_grad:
                groups[names[layer.bn.weight]] = channels.of_label[layer.outputs]
        ids = np.concatenate([*groups.values(), np.zeros(0, np.int64)])
        if channels.fixed[ids].all():
            raise InputError("--sparsity: expected a batch normalisation that is trained and whose channels may go")
        sizes = tuple(map(len, groups.values()))
        return cls(tuple(groups), sizes, ~channels.fixed[ids], np.unique(ids, return_inverse=True)[1])

    def tensors(self, model: Any) -> list[Tensor]:
        """The parameters themselves, (C,) each, in this network or a copy of it."""
        return [model.get_parameter(name) for name in self.names]

    def sizes_of(self, model: Any) -> np.ndarray:
        """(N,): |gamma| of each."""
        with torch.no_grad():
            return torch.cat(self.tensors(model)).abs().double().cpu().numpy()

    def members(self) -> np.ndarray:
        """(groups, largest): the places of each group's gammas, N where it has no more."""
        counts = np.bincount(self.groups)
        order = np.argsort(self.groups, kind="stable")
        table = np.full((len(counts), counts.max()), len(order))
        table[np.arange(counts.max()) < counts[:, None]] = order
        return table


def near_zero(sizes: np.ndarray) -> float:
    """The share of |gamma| that counts as switched off."""
    return float((sizes < NEAR_ZERO).mean())


def histogram(sizes: np.ndarray) -> np.ndarray:
    """(BINS,): how many |gamma| are in each bin."""
    return np.bincount((sizes / NEAR_ZERO).astype(np.int64).clip(max=BINS - 1), minlength=BINS)


def layer_counts(gammas: Gammas, model: Any) -> list[tuple[str, int, int]]:
    """Of each layer with prunable channels: its parameter's name, how many of these are near zero, and the others."""
    rows = []
    ends = np.cumsum(gammas.sizes)[:-1]
    parts = zip(np.split(gammas.sizes_of(model), ends), np.split(gammas.prunable, ends), strict=True)
    for name, (sizes, prunable) in zip(gammas.names, parts, strict=True):
        if prunable.any():
            small = int((sizes[prunable] < NEAR_ZERO).sum())
            rows.append((name, small, int(prunable.sum()) - small))
    return rows
