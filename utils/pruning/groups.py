"""A network's channels as groups that go together, each with how much it matters: what pruning chooses from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from utils.network.channels import ChannelBook, Layer, label_channels


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """The labels of a `ChannelBook`, tied ones counted as one: arrays over groups, from 0."""

    book: ChannelBook
    of_label: np.ndarray
    """(labels,): the group of each."""

    @classmethod
    def of(cls, model: Any) -> "ChannelGroups":
        """Those of a Darknet."""
        book = label_channels(model)
        return cls(book, book.groups())

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.of_label.max()) + 1

    def _marked(self, labels: list[np.ndarray]) -> np.ndarray:
        marked = np.zeros(self.count, bool)
        for each in labels:
            marked[self.of_label[each]] = True
        return marked

    @cached_property
    def fixed(self) -> np.ndarray:
        """(groups,) bool: those that stay, whatever they are worth."""
        return self._marked([labels for labels, _ in self.book.fixed])

    @cached_property
    def added(self) -> np.ndarray:
        """(groups,) bool: those that a shortcut ties."""
        return self._marked(self.book.shortcuts)

    @cached_property
    def judged(self) -> list[Layer]:
        """The layers by which channels are judged: all but gates."""
        return [layer for layer in self.book.layers if not layer.gate]

    @cached_property
    def sizes(self) -> np.ndarray:
        """(groups,): how many output channels of convolutions are in each."""
        sizes = np.zeros(self.count, np.int64)
        for layer in self.judged:
            if layer.conv is not None:
                np.add.at(sizes, self.of_label[layer.outputs], 1)
        return sizes

    @cached_property
    def widths(self) -> list[np.ndarray]:
        """The groups of each convolution's outputs: no layer may be emptied."""
        return [self.of_label[layer.outputs] for layer in self.judged if layer.conv is not None]

    @cached_property
    def equal(self) -> list[np.ndarray]:
        """(slices, labels) of groups: as many must stay in each slice."""
        return [self.of_label[slices] for slices in self.book.equal]

    def labels_kept(self, keep: np.ndarray) -> np.ndarray:
        """(groups,) bool -> (labels,) bool."""
        return keep[self.of_label]
