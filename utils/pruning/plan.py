"""Which channels go: the least important ones, as many as are asked for, and none that another rule needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from utils.pruning.groups import ChannelGroups

Strategy = Literal["normal", "slim"]
"""What happens to channels that a shortcut ties. normal: they stay; slim: one goes only where all of them would, the
greatest score counts.
"""


@dataclass(frozen=True)
class Limits:
    """What each layer keeps: a share of its channels, at least one, and a multiple of `round_to` (or all)."""

    min_keep: float = 0.1
    round_to: int = 8


class Choice:
    """The groups that may go, the least important first, and what stays when the first so many of them do.

    `floors`: how many channels each of `groups.widths` keeps at least, where that is not a share of its present ones.
    """

    def __init__(
        self,
        groups: ChannelGroups,
        scores: np.ndarray,
        strategy: Strategy,
        limits: Limits,
        floors: Sequence[int] | None = None,
    ) -> None:
        self.groups, self.strategy, self.limits = groups, strategy, limits
        self.floors = floors or [max(1, math.ceil(limits.min_keep * len(ids))) for ids in groups.widths]
        pairs = sorted(zip(self.floors, groups.widths, strict=True), key=lambda pair: pair[0])
        self._widths = list({ids.tobytes(): (ids, floor) for floor, ids in pairs}.values())  # equal ones: the greatest
        self.removable = ~groups.fixed & np.isfinite(scores) & (groups.sizes > 0)
        if strategy == "normal":
            self.removable &= ~groups.added
        self.scores = np.where(self.removable, scores, np.inf)
        candidates = np.flatnonzero(self.removable)
        self.order = candidates[np.argsort(scores[candidates], kind="stable")]

    def keep(self, dropped: int) -> np.ndarray:
        """(groups,) bool: what stays without the first `dropped` groups, save for what rules bring back."""
        keep = np.ones(self.groups.count, bool)
        keep[self.order[:dropped]] = False
        while True:
            before = keep.sum()
            for ids, floor in self._widths:
                self._restore(keep, ids, floor, self.limits.round_to)
            for slices in self.groups.equal:
                counts = keep[slices].sum(1)
                for ids, count in zip(slices, counts, strict=True):
                    if count < counts.max():
                        self._restore(keep, ids, int(counts.max()), 1)
            if keep.sum() == before:
                return keep

    def _restore(self, keep: np.ndarray, ids: np.ndarray, least: int, multiple: int) -> None:
        """Bring back the most important of the groups `ids` until enough channels stay, and a multiple of them."""

        def enough(number: np.ndarray) -> np.ndarray:
            return (number == len(ids)) | ((number >= least) & (number % multiple == 0))

        here = keep[ids]
        have = int(here.sum())
        if enough(np.array(have)):
            return
        gone, copies = np.unique(ids[~here], return_counts=True)
        best = np.argsort(-self.scores[gone], kind="stable")
        needed = int(np.argmax(enough(have + copies[best].cumsum()))) + 1
        keep[gone[best[:needed]]] = True

    def share(self, keep: np.ndarray) -> float:
        """The share of the removable channels that is gone."""
        sizes = self.groups.sizes
        return float(sizes[~keep].sum() / max(1, sizes[self.removable].sum()))

    def of_share(self, share: float) -> np.ndarray:
        """What stays when this share of the removable channels goes, or as much as rules allow."""
        return self.least(lambda keep: self.share(keep) >= share)

    def least(self, reached: Callable[[np.ndarray], bool]) -> np.ndarray:
        """What stays when as few groups go as it takes until `reached(keep)`; or as many as can, if it never is."""
        low, high = 0, len(self.order)
        while low < high:
            middle = (low + high) // 2
            if reached(self.keep(middle)):
                high = middle
            else:
                low = middle + 1
        return self.keep(low)
