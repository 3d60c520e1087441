"""Channel labels of a block that is a chain: one module after another, each reading what the one before puts out."""

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from operator import getitem
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Tracer

from utils.network.channels import ChannelBook, Labels

PER_CHANNEL = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Mish, nn.GELU, nn.ELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid),
    *(nn.Tanh, nn.Identity, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
"""Modules without parameters that work on each channel by itself."""


def chain_of(block: nn.Module) -> list[nn.Module] | None:
    """The modules that a block's only input goes through one after another; None for a block that does anything else.

    They are convolutions, batch normalisations and `PER_CHANNEL`, each of them used once. `forward` is traced, so that
    parallel branches and sums are not taken for a chain whose numbers of channels happen to fit.
    """
    try:
        nodes = list(Tracer().trace(block).nodes)
    except Exception:  # a `forward` that depends on what it computes cannot be traced
        return None
    if any(after.all_input_nodes != [before] or list(before.users) != [after] for before, after in pairwise(nodes)):
        return None
    steps = nodes[1:-1]
    if steps and steps[0].target is getitem and steps[0].args == (nodes[0], 0):  # inputs[0] of forward(*inputs)
        steps = steps[1:]
    if not steps or any(step.op != "call_module" or step.kwargs for step in steps) or nodes[-1].args != (nodes[-2],):
        return None
    modules = [block.get_submodule(str(step.target)) for step in steps]
    fits = all(_can_be_labelled(*pair) for pair in zip(modules, [*modules[1:], None], strict=True))
    return modules if fits and len(set(modules)) == len(modules) else None


def _can_be_labelled(module: nn.Module, following: nn.Module | None) -> bool:
    """Whether channels may be taken out of a module; a convolution needs a bias or a normalisation behind it."""
    if isinstance(module, nn.BatchNorm2d):
        return module.affine and module.track_running_stats
    if type(module) is nn.Conv2d:
        return module.bias is not None or isinstance(following, nn.BatchNorm2d)
    return type(module) in PER_CHANNEL


Build = Callable[[Any, int], nn.Module]
"""A section's options and how many channels it reads -> its block."""


def chain_labels(block: nn.Module, book: ChannelBook, inputs: Labels, options: Any, build: Build) -> Labels | None:
    """Write a chain into the book and return the labels of its outputs; None, and nothing is written, if it is none.

    Channels may be removed where the smaller block can be built: the inputs, if nothing but the first convolution
    depends on their number; the outputs of a convolution, if an option is their number (that of several convolutions
    may be the same one) and nothing else depends on it. The others stay.
    """
    modules = chain_of(block)
    if modules is None:
        return None
    widths = _Widths(block, modules, len(inputs), options, build)
    parts = _write(book, modules, inputs)
    free: set[int] = set(widths.given_by(None))
    for field in fields(options):
        if type(getattr(options, field.name)) is int and (field.metadata.get("minimum") or 1) <= 1:
            places = [place for place in widths.given_by(field.name) if place not in free]
            if places:
                free.update(places)
                book.count(**{field.name: parts[places[0]]})
                if len(places) > 1:
                    book.same_counts(np.concatenate([parts[place] for place in places]), len(places))
    stay = [labels for place, labels in enumerate(parts) if place not in free]
    book.keep(stay, "a block of fewer channels here is not known to be the same one")
    return book.masks[-1][1]


class _Widths:
    """What gives the parts of a chain their numbers of channels, found out by building smaller ones.

    Part 0 is the input, further ones are what convolutions put out, save for depthwise ones.
    """

    def __init__(self, block: nn.Module, modules: list[nn.Module], channels: int, options: Any, build: Build) -> None:
        self.block, self.modules, self.options, self.build = block, modules, options, build
        self.book = ChannelBook()
        self.parts = _write(self.book, modules, self.book.fresh(channels))
        self.convs = [(layer, layer.conv.weight.shape[2:]) for layer in self.book.layers if layer.conv is not None]

    def given_by(self, option: str | None) -> list[int]:
        """The parts whose number of channels is this option (None: the number of inputs), if nothing else changes."""
        value = len(self.parts[0]) if option is None else getattr(self.options, option)
        smaller = self._built(option, value - 1) if value > 1 else None
        if smaller is None:
            return []
        made = [shape[0] for (layer, _), shape in zip(self.convs, smaller, strict=True) if not layer.depthwise]
        changed = [
            place
            for place, (part, number) in enumerate(zip(self.parts[1:], made, strict=True), start=1)
            if len(part) == value and number == value - 1
        ]
        places = [0] if option is None else changed
        fits = places and all(self._built(option, left) == self._expected(places, left) for left in (value - 1, 1))
        return places if fits else []

    def _expected(self, places: list[int], left: int) -> list[tuple[int, ...]]:
        """The shapes of the convolutions' weights when so many channels of these parts are left."""
        gone = np.concatenate([self.parts[place][left:] for place in places])
        shapes = []
        for layer, kernel in self.convs:
            outputs, inputs = (int((~np.isin(labels, gone)).sum()) for labels in (layer.outputs, layer.inputs))
            shapes.append((outputs, 1 if layer.depthwise else inputs // layer.groups, *kernel))
        return shapes

    def _built(self, option: str | None, value: int) -> list[tuple[int, ...]] | None:
        """The shapes in a block with this option instead; None where it cannot be built, or is another chain."""
        changes, channels = ({}, value) if option is None else ({option: value}, len(self.parts[0]))
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                smaller = self.build(replace(self.options, **changes), channels)
        except Exception:  # what a block raises for a width that it cannot have
            return None
        found = chain_of(smaller.train(self.block.training))
        if found is None or list(map(type, found)) != list(map(type, self.modules)):
            return None
        return [tuple(module.weight.shape) for module in found if isinstance(module, nn.Conv2d)]


def _write(book: ChannelBook, modules: list[nn.Module], inputs: Labels) -> list[Labels]:
    """Write the modules into the book; return the labels of each part of the chain, see `_Widths`."""
    parts, labels = [inputs], inputs
    for before, module, following in zip([None, *modules], modules, [*modules[1:], None], strict=False):
        if isinstance(module, nn.Conv2d):
            labels = book.conv(module, following if isinstance(following, nn.BatchNorm2d) else None, labels)
            if not book.layers[-1].depthwise:
                parts.append(labels)
        elif isinstance(module, nn.BatchNorm2d) and not isinstance(before, nn.Conv2d):
            book.norm(module, labels)
        if following is None or isinstance(following, nn.Conv2d):
            book.masks.append((module, labels))
    return parts
