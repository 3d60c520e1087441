"""What a network costs, and what would be left of it: counted from the channels that stay, nothing is built."""

import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.errors import InputError
from utils.network.channels import Layer
from utils.network.summary import uses
from utils.pruning.groups import ChannelGroups

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Standing:
    """A network's size, speed and accuracy; what was not measured is None.

    `milliseconds` of one image, `megabytes` (2^20) of float32 weights, AP as fractions of 1.
    """

    parameters: int
    gflops: float
    milliseconds: float | None = None
    ap50: float | None = None
    ap: float | None = None

    @property
    def megabytes(self) -> float:
        """Of the weights."""
        return 4 * self.parameters / 2**20


class Costs:
    """Parameters and FLOPs of what is left of a network, for inputs of `size`, (width, height)."""

    def __init__(self, model: Any, groups: ChannelGroups, size: tuple[int, int]) -> None:
        self.groups, self.layers = groups, groups.book.layers
        self.all_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.uses = _uses(model, size)
        labelled = {layer.conv for layer in self.layers}
        self.other_macs = sum(uses * conv.weight.numel() for conv, uses in self.uses.items() if conv not in labelled)
        others = sum(tensor.numel() for tensor, _ in groups.book.tensors)
        self.unlabelled = self.all_parameters - others - self._labelled(np.ones(groups.count, bool))

    def parameters(self, keep: np.ndarray) -> int:
        """Of the network with the groups that stay, (groups,) bool."""
        labels = self.groups.labels_kept(keep)
        others = sum(len(t) * int(labels[along].sum()) for t, along in self.groups.book.tensors)
        return self.unlabelled + others + self._labelled(keep)

    def _labelled(self, keep: np.ndarray) -> int:
        labels, seen, total = self.groups.labels_kept(keep), set(), 0
        for layer in self.layers:
            outputs = int(labels[layer.outputs].sum())
            if layer.conv is not None and layer.conv.weight not in seen:
                seen.add(layer.conv.weight)
                total += kept_values(layer, labels) + outputs * (layer.conv.bias is not None)
            if layer.bn is not None and layer.bn.weight not in seen:
                seen.add(layer.bn.weight)
                total += 2 * outputs
        return total

    def gflops(self, keep: np.ndarray) -> float:
        """Billions of operations for one image, 2 for each multiply-add of a convolution or linear layer."""
        labels = self.groups.labels_kept(keep)
        macs = sum(
            self.uses[layer.conv] * kept_values(layer, labels) for layer in self.layers if layer.conv is not None
        )
        return 2 * (self.other_macs + macs) / 1e9


def kept_values(layer: Layer, labels: np.ndarray) -> int:
    """How many values of a convolution's weight stay."""
    assert layer.conv is not None
    outputs = int(labels[layer.outputs].sum())
    inputs = 1 if layer.depthwise else int(labels[layer.inputs].sum()) // layer.groups
    return outputs * inputs * int(np.prod(layer.conv.weight.shape[2:]))


@torch.no_grad()
def _uses(model: Any, size: tuple[int, int]) -> Counter[nn.Conv2d | nn.Linear]:
    """Each convolution and linear layer -> how many multiply-adds each of its weights does for an image."""
    found: Counter[nn.Conv2d | nn.Linear] = Counter()

    def record(module: Any, inputs: Any, output: torch.Tensor) -> None:
        found[module] += uses(module, output)

    device = next(model.parameters()).device
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                hooks.callback(module.register_forward_hook(record).remove)
        model.raw(torch.zeros(1, model.graph.net.channels, size[1], size[0], device=device))
    return found


@dataclass(frozen=True)
class Target:
    """What is to be left: an amount, now `present`, has to come down to `goal`.

    `flag` is the option that says so. `strict`: it is an error where rules do not allow it.
    """

    flag: str
    present: float
    goal: float
    unit: str
    strict: bool = True

    def words(self, amount: float) -> str:
        """`1.63G FLOPs`, `7.9 ms`."""
        return f"{amount:.1f} ms" if self.unit == "ms" else f"{in_short(amount)} {self.unit}"

    def after(self, step: int, steps: int) -> float:
        """The goal of one of several steps, each of which leaves the same share of what the one before has left."""
        return self.present * min(1.0, self.goal / self.present) ** (step / steps)


def in_short(amount: float) -> str:
    """1,633,110,195 -> `1.634G`, four digits, rounded up, as `parse_target` reads it."""
    unit = next((unit for unit in ("G", "M", "K") if amount >= UNITS[unit]), "")
    number = amount / UNITS.get(unit, 1)
    digits = max(0, 3 - math.floor(math.log10(max(number, 1))))
    return f"{math.ceil(round(number * 10**digits, 6)) / 10**digits:g}{unit}"


def parse_target(text: str, present: float, flag: str) -> float:
    """`0.3`, a share of what there is, or an amount such as `1.0M` or `2.5G`, as an amount. Raises InputError."""
    unit = UNITS.get(text[-1:].upper())
    try:
        number = float(text[:-1] if unit else text)
    except ValueError:
        number = -1.0
    value = number * (unit or (present if number <= 1 else 1))
    if not 0 < value < present:
        raise InputError(
            f"{flag} {text}: expected a share of what there is, 0 to 1, or an amount such as 1.5M or 2G, "
            f"less than the present {in_short(present)}"
        )
    return value
