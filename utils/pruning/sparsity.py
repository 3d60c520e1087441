"""Sparsity training: the gammas of channels that can be pruned are pulled to 0, so that those less needed get there.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017: an L1 penalty S * |gamma|.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.pruning.gammas import BINS, Gammas, histogram, near_zero

SparsitySchedule = Literal["constant", "global-decay", "local-decay", "auto"]
USUAL = 0.001  # S, unless another one is given
PULL = 0.16  # by how many S each step pulls: 0.01 / (1 - 0.937), what SGD with that learning rate and momentum does
DECAY = 0.01  # what is left of S after half of the training
AUTO_END = 0.8  # the share of the training in which `auto` wants its share to get there
AUTO_LEAST, AUTO_MOST = 0.8, 1.5  # by what S is multiplied after an epoch, where AP is well
TINY = 1e-30
STATE = ("strength", "wanted", "care", "mark", "best_ap", "last_ap")  # numbers that a checkpoint holds


@dataclass(frozen=True)
class SparsityOptions:
    """How strong the pull is (None: what a training of this length needs; `auto` alone), and how it changes.

    `share` of the gammas is to get near zero (`local-decay`, `auto`), without losing more than `max_drop` of AP
    (`auto`). `grouped`: gammas of channels that go together are pulled together.
    """

    strength: float | None = USUAL
    schedule: SparsitySchedule = "constant"
    share: float = 0.7
    max_drop: float = 0.02
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
    """The pull on a network's gammas, step by step, and how strong it is, epoch by epoch.

    It is a step of its own after the optimizer's (Adam, which divides gradients by their size, would swallow an L1
    gradient), sized like that of SGD with a learning rate of 0.01 and momentum 0.937, where a given S is known to
    work: PULL * S, times the learning rate as a share of the highest. `rates` are the sums of these shares over the
    steps of each epoch.
    """

    def __init__(self, model: Any, gammas: Gammas, options: SparsityOptions, rates: Sequence[float]) -> None:
        self.model, self.gammas, self.options, self.rates = model, gammas, options, rates
        self.tensors = gammas.tensors(model)
        device = self.tensors[0].device
        self.factors = torch.from_numpy(gammas.prunable).to(device, torch.float32)  # (N,), times S
        self.groups, self.members = (torch.from_numpy(each).to(device) for each in (gammas.groups, gammas.members()))
        self.mark = self._mark()
        self.best_ap = self.last_ap = 0.0
        self.care = 1.0
        self.counts: list[np.ndarray] = []  # an epoch's histogram each
        self.strength = options.strength if options.strength is not None else self._needed(0)
        self.wanted = self.strength  # what S is where AP allows it

    # ---- Each step -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Pull once; `rate` is the learning rate as a share of the highest."""
        values, pull = torch.cat(self.tensors), self.factors * (PULL * self.strength * rate)
        if self.options.grouped:
            values = shrink_groups(values, pull, self.groups, self.members)
        else:
            values = shrink(values, pull)
        torch._foreach_copy_(self.tensors, list(values.split(self.gammas.sizes)))

    # ---- Each epoch ------------------------------------------------------------------------------------------------

    def after_epoch(self, done: int, average: Any, ap: float | None) -> float:
        """After so many epochs: S for the next one, from AP (None: not measured) where it hangs on that.

        Returns the share of gammas near zero in the averaged network, whose histogram is kept.
        """
        sizes = self.gammas.sizes_of(average)[self.gammas.prunable]
        self.counts.append(histogram(sizes))
        schedule = self.options.schedule
        if schedule == "auto":
            self._steer(done, ap)
        elif done == math.ceil(len(self.rates) / 2) and schedule == "global-decay":
            self.strength *= DECAY
        elif done == math.ceil(len(self.rates) / 2) and schedule == "local-decay":
            self.factors *= torch.from_numpy(np.where(self._staying(), DECAY, 1)).to(self.factors)
        return near_zero(sizes)

    def _staying(self) -> np.ndarray:
        """(N,) bool: those left when the wanted share of prunable gammas goes, groups of the least mean first."""
        groups, prunable = self.gammas.groups, self.gammas.prunable
        sizes = np.bincount(groups)
        means = np.bincount(groups, self.gammas.sizes_of(self.model)) / sizes
        means[groups[~prunable]] = np.inf
        order = np.argsort(means, kind="stable")
        going = np.zeros(len(sizes), bool)
        going[order[sizes[order].cumsum() <= self.options.share * prunable.sum()]] = True
        return ~going[groups]

    def _mark(self) -> float:
        """The greatest |gamma| of the wanted share, the least ones: 0 when all of that share is."""
        sizes = np.sort(self.gammas.sizes_of(self.model)[self.gammas.prunable])
        return float(sizes[math.ceil(self.options.share * len(sizes)) - 1])

    def _needed(self, done: int) -> float:
        """The S that brings the mark to 0 in AUTO_END of the training, or in the next epoch, if nothing resists."""
        end = max(done + 1, round(AUTO_END * len(self.rates)))
        return self.mark / (PULL * sum(self.rates[done:end]))

    def _steer(self, done: int, ap: float | None) -> None:
        """Make the mark fall as fast as it has to from here on, with care where AP has lost too much against its best.

        Care halves S each time that AP falls further, and doubles it again when AP rises: a high learning rate lowers
        AP, too, for a while. Nor is S raised meanwhile.
        """
        assert ap is not None
        before, self.mark = self.mark, self._mark()
        falling, self.last_ap, self.best_ap = ap < self.last_ap, ap, max(self.best_ap, ap)
        lost, allowed = self.best_ap - ap, self.options.max_drop
        most = AUTO_MOST if self.care == 1 and lost <= allowed / 2 else 1.0
        if done < len(self.rates):
            achieved = (before - self.mark) / (PULL * self.rates[done - 1])  # as an S that nothing resists
            self.wanted *= min(max(self._needed(done) / max(achieved, TINY), AUTO_LEAST), most)
        if falling and lost > allowed:
            self.care /= 2
        elif not falling or lost <= allowed / 2:
            self.care = min(1.0, 2 * self.care)
        self.strength = self.wanted * self.care

    # ---- Checkpoints -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that changes from step to step and epoch to epoch, beside the gammas."""
        counts = torch.from_numpy(np.array(self.counts, np.int32).reshape(-1, BINS))
        return {**{name: getattr(self, name) for name in STATE}, "factors": self.factors.cpu(), "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for name in STATE:
            setattr(self, name, state[name])
        self.factors.copy_(state["factors"])
        self.counts = list(state["counts"].numpy())
