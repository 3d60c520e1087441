"""Sparsity training: the gammas of channels that can be pruned are pulled to 0, so that those less needed get there.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017: an L1 penalty S * |gamma|.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.pruning.gammas import BINS, Gammas, histogram, near_zero

PULL = 0.16  # by how many S each step pulls: 0.01 / (1 - 0.937), what SGD with that learning rate and momentum does
TINY = 1e-30


@dataclass(frozen=True)
class SparsityOptions:
    """How strong the pull is; `grouped`: gammas of channels that go together are pulled together."""

    strength: float
    grouped: bool = False


def shrink(values: Tensor, pull: Tensor) -> Tensor:
    """Each value moved by its `pull` towards 0 and no further: the soft threshold, (N,) and (N,) -> (N,)."""
    return values - torch.minimum(torch.maximum(values, -pull), pull)


def shrink_groups(values: Tensor, pull: Tensor, groups: Tensor, members: Tensor) -> Tensor:
    """Each group's norm moved towards 0: the proximal step of the group lasso, pull * sqrt(size) * norm.

    (N,), (N,), (N,) and (groups, largest), as in `Gammas`, -> (N,). Equal gammas move as by `shrink`. Yuan and Lin,
    "Model selection and estimation in regression with grouped variables", 2006; Fang et al., "DepGraph", CVPR 2023.
    """
    norms = F.pad(values, (0, 1))[members].norm(dim=1)
    sizes = (members < len(values)).sum(1)
    scales = 1 - pull[members[:, 0]] * sizes.sqrt() / norms.clamp(min=TINY)
    return values * scales.clamp(min=0)[groups]


class Sparsity:
    """The pull on a network's gammas, step by step, and how many are near zero, epoch by epoch.

    It is a step of its own after the optimizer's (Adam, which divides gradients by their size, would swallow an L1
    gradient), sized like that of SGD with a learning rate of 0.01 and momentum 0.937, where a given S is known to
    work: PULL * S, times the learning rate as a share of the highest.
    """

    def __init__(self, model: Any, gammas: Gammas, options: SparsityOptions) -> None:
        self.gammas, self.options = gammas, options
        self.tensors = gammas.tensors(model)
        device = self.tensors[0].device
        self.pull = PULL * options.strength * torch.from_numpy(gammas.prunable).to(device, torch.float32)  # (N,)
        self.groups, self.members = (torch.from_numpy(each).to(device) for each in (gammas.groups, gammas.members()))
        self.counts: list[np.ndarray] = []  # an epoch's histogram each

    # ---- Each step -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Pull once; `rate` is the learning rate as a share of the highest."""
        values, pull = torch.cat(self.tensors), self.pull * rate
        if self.options.grouped:
            values = shrink_groups(values, pull, self.groups, self.members)
        else:
            values = shrink(values, pull)
        torch._foreach_copy_(self.tensors, list(values.split(self.gammas.sizes)))

    # ---- Each epoch ------------------------------------------------------------------------------------------------

    def after_epoch(self, average: Any) -> float:
        """The share of gammas near zero in the averaged network, whose histogram is kept."""
        sizes = self.gammas.sizes_of(average)[self.gammas.prunable]
        self.counts.append(histogram(sizes))
        return near_zero(sizes)

    # ---- Checkpoints -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the gammas do not say themselves: the histograms."""
        return {"counts": torch.from_numpy(np.array(self.counts, np.int32).reshape(-1, BINS))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.counts = list(state["counts"].numpy())
