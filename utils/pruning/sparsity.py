"""Sparsity training: the gammas of channels that can be pruned are pulled to 0, so that those less needed get there.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017: an L1 penalty S * |gamma|.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.pruning.gammas import BINS, Gammas, histogram, near_zero

SparsitySchedule = Literal["constant", "global-decay"]
PULL = 0.16  # by how many S each step pulls: 0.01 / (1 - 0.937), what SGD with that learning rate and momentum does
DECAY = 0.01  # the share of S that is left after half of the training
TINY = 1e-30


@dataclass(frozen=True)
class SparsityOptions:
    """The strength S of the pull and how it changes; `grouped`: gammas of channels that go together are pulled as one.

    `schedule`: S stays (constant), or is `DECAY` times as much once half of the epochs are over (global-decay).
    """

    strength: float
    schedule: SparsitySchedule = "constant"
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
    """The pull on a network's gammas, step by step, and its strength and how many are near zero, epoch by epoch.

    It is a step of its own after the optimizer's (Adam, which divides gradients by their size, would swallow an L1
    gradient), sized like that of SGD with a learning rate of 0.01 and momentum 0.937, where a given S is known to
    work: PULL * S, times the learning rate as a share of the highest.
    """

    def __init__(self, model: Any, gammas: Gammas, options: SparsityOptions, epochs: int) -> None:
        self.gammas, self.options, self.epochs = gammas, options, epochs
        self.tensors = gammas.tensors(model)
        device = self.tensors[0].device
        self.pull = PULL * torch.from_numpy(gammas.prunable).to(device, torch.float32)  # (N,), times S
        self.groups, self.members = (torch.from_numpy(each).to(device) for each in (gammas.groups, gammas.members()))
        self.counts: list[np.ndarray] = []  # a histogram for each epoch that is over

    @property
    def strength(self) -> float:
        """S in the present epoch."""
        decays = self.options.schedule == "global-decay" and len(self.counts) >= math.ceil(self.epochs / 2)
        return self.options.strength * (DECAY if decays else 1)

    # ---- Each step -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Pull once; `rate` is the learning rate as a share of the highest."""
        values, pull = torch.cat(self.tensors), self.pull * (self.strength * rate)
        if self.options.grouped:
            values = shrink_groups(values, pull, self.groups, self.members)
        else:
            values = shrink(values, pull)
        torch._foreach_copy_(self.tensors, list(values.split(self.gammas.sizes)))

    # ---- Each epoch ------------------------------------------------------------------------------------------------

    def after_epoch(self, average: Any) -> float:
        """End the epoch: return the share of gammas near zero in the averaged network, and keep their histogram."""
        sizes = self.gammas.sizes_of(average)[self.gammas.prunable]
        self.counts.append(histogram(sizes))
        return near_zero(sizes)

    # ---- Checkpoints -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The histograms, which also say how many epochs are over."""
        return {"counts": torch.from_numpy(np.array(self.counts, np.int32).reshape(-1, BINS))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.counts = list(state["counts"].numpy())
