"""Who shares whose channels: each channel of each feature map has a label, and channels of equal labels go together.

A convolution makes fresh labels, a depthwise one passes them on, a route concatenates them, a shortcut ties those of
its inputs. Each block says so of itself in a `ChannelBook` (`Block.label`); whoever removes channels asks the
book what else goes with them, and along which axes of which tensors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

Labels = np.ndarray
"""(C,) whole numbers, one for each channel of a map."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer with the normalisation behind it; or, where `conv` is None, a normalisation alone.

    `gate`: its outputs only weigh other channels, and say nothing of how much these matter.
    """

    node: int
    conv: nn.Conv2d | nn.Linear | None
    bn: nn.BatchNorm2d | None
    inputs: Labels
    outputs: Labels
    gate: bool = False

    @property
    def groups(self) -> int:
        """Of the convolution."""
        return self.conv.groups if isinstance(self.conv, nn.Conv2d) else 1

    @property
    def depthwise(self) -> bool:
        """Whether each output reads one input, whose label it has."""
        return self.groups > 1 and self.groups == len(self.inputs)


class ChannelBook:
    """The labels of a network's channels. `node` is the index of the graph's node that is writing.

    `kind` and `options` are its section's.
    """

    def __init__(self) -> None:
        self.node, self.kind = -1, ""
        self.options: Any = None
        self.layers: list[Layer] = []
        self.maps: dict[int, Labels] = {}  # node -> the labels of its output
        self.masks: list[tuple[nn.Module, Labels]] = []  # modules whose outputs have these labels
        self.tensors: list[tuple[Tensor, Labels]] = []  # other tensors, with the labels along their last axis
        self.counts: dict[int, dict[str, Labels]] = {}  # node -> option -> labels of which it is the number
        self.constants: dict[int, dict[str, Any]] = {}  # node -> option -> what it becomes once channels are gone
        self.equal: list[np.ndarray] = []  # (slices, labels): as many must stay of each slice
        self.fixed: list[tuple[Labels, str]] = []  # channels that stay, and why
        self.shortcuts: list[Labels] = []
        self._parents: list[int] = []

    # ---- What blocks write -----------------------------------------------------------------------------------------

    def fresh(self, count: int) -> Labels:
        """Labels that nothing else has."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def conv(
        self,
        conv: nn.Conv2d | nn.Linear,
        bn: nn.BatchNorm2d | None,
        inputs: Labels,
        module: nn.Module | None = None,
        gate: bool = False,
    ) -> Labels:
        """The labels of a convolution's outputs; `module` is what puts them out, activation included.

        A depthwise convolution's outputs have the labels of what they read. Of a grouped one's inputs and outputs as
        many must stay in each group. Convolutions that share weights have their labels in common.
        """
        count, groups = len(conv.weight), conv.groups if isinstance(conv, nn.Conv2d) else 1
        if groups > 1 and groups == len(inputs):
            outputs = inputs.repeat(count // groups)
        else:
            outputs = self.fresh(count)
            if groups > 1:
                self.same_counts(inputs, groups)
                self.same_counts(outputs, groups)
        for layer in self.layers:
            if layer.conv is not None and layer.conv.weight is conv.weight:
                self.tie(layer.inputs, inputs)
                self.tie(layer.outputs, outputs)
        self.layers.append(Layer(self.node, conv, bn, inputs, outputs, gate))
        if module is not None:
            self.masks.append((module, outputs))
        return outputs

    def norm(self, bn: nn.BatchNorm2d, labels: Labels) -> None:
        """A normalisation that stands alone."""
        self.layers.append(Layer(self.node, None, bn, labels, labels))

    def tensor(self, tensor: Tensor, labels: Labels) -> None:
        """Another parameter, with a value for each channel along its last axis."""
        self.tensors.append((tensor, labels))

    def tie(self, first: Labels, second: Labels) -> None:
        """Channels in the same places go together."""
        for pair in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted(map(self._root, pair))
            self._parents[high] = low

    def tie_shortcut(self, first: Labels, second: Labels) -> None:
        """The same where two maps are added: the first min(C) channels of both."""
        common = min(len(first), len(second))
        self.tie(first[:common], second[:common])
        self.shortcuts.append(first[:common])

    def same_counts(self, labels: Labels, slices: int) -> None:
        """As many channels stay in each of so many equal slices."""
        self.equal.append(labels.reshape(slices, -1))

    def count(self, **options: Labels) -> None:
        """Options of the section that are the number of these labels."""
        self.counts.setdefault(self.node, {}).update(options)

    def set(self, **options: Any) -> None:
        """Options that the section needs once channels are gone."""
        self.constants.setdefault(self.node, {}).update(options)

    def keep(self, labels: Iterable[Labels], reason: str) -> None:
        """These channels stay."""
        self.fixed += [(each, reason) for each in labels]

    # ---- What is read ----------------------------------------------------------------------------------------------

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def groups(self) -> np.ndarray:
        """(labels,): for each label the number of its group, from 0; labels of one group go together."""
        roots = np.array([self._root(label) for label in range(len(self._parents))], dtype=np.int64)
        return np.unique(roots, return_inverse=True)[1]


def label_channels(model: Any) -> ChannelBook:
    """The labels of a network's channels; `model` is a Darknet, with `graph` and `blocks`."""
    book = ChannelBook()
    graph = model.graph
    book.maps[-1] = book.fresh(graph.net.channels)
    book.keep([book.maps[-1]], "the image")
    for node, block in zip(graph.nodes, model.blocks, strict=True):
        book.node, book.kind, book.options = node.index, node.kind, node.options
        labels = block.label(book, *(book.maps[source] for source in node.sources))
        assert len(labels) == block.out_channels, graph.where(node)
        book.maps[node.index] = labels
        if node.kind != "yolo":
            book.masks.append((block, labels))
    return book
