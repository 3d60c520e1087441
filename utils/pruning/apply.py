"""Channels removed: the smaller network as an ordinary graph with weights, and what proves that it is the same one."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.network.channels import ChannelBook, Labels, Layer
from utils.network.graph import Graph

# ---- The smaller network -------------------------------------------------------------------------------------------


def pruned_graph(graph: Graph, book: ChannelBook, keep: np.ndarray) -> Graph:
    """The graph with what is left of its channels; `keep` is (labels,) bool, as everywhere here."""
    changes: dict[int, dict[str, Any]] = {}
    for node, options in book.counts.items():
        changes[node] = {name: int(keep[labels].sum()) for name, labels in options.items()}
        changes[node] |= book.constants.get(node, {})
    return graph.with_options(changes)


def prune_channels(model: Any, book: ChannelBook, keep: np.ndarray, build: Callable[[Graph], Any]) -> Any:
    """A network without the channels that do not stay, their weights copied; `build` is Darknet."""
    compact = build(pruned_graph(model.graph, book, keep)).to(next(model.parameters()))  # device, and type of numbers
    compact.names, compact.seen = list(model.names), model.seen
    outputs = {tensor: layer.outputs for layer in book.layers for tensor in _per_output(layer)}
    weights = {layer.conv.weight: layer for layer in book.layers if layer.conv is not None}
    others = dict(book.tensors)
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        values = tensor.detach()
        if tensor in outputs:
            values = values[places(outputs[tensor], keep)]
        elif tensor in weights:
            values = kept_weight(values, weights[tensor], keep)
        elif tensor in others:
            values = values[..., places(others[tensor], keep)]
        tensors[name] = values
    compact.load_state_dict(tensors)
    return compact.train(model.training)


def _per_output(layer: Layer) -> Iterator[Tensor]:
    """Tensors of a value for each output channel."""
    bn = layer.bn
    if layer.conv is not None and layer.conv.bias is not None:
        yield layer.conv.bias
    if bn is not None:
        assert bn.running_mean is not None and bn.running_var is not None
        yield from (bn.weight, bn.bias, bn.running_mean, bn.running_var)


def places(labels: Labels, keep: np.ndarray) -> Tensor:
    """The indices of the labels that stay."""
    return torch.from_numpy(np.flatnonzero(keep[labels]))


def kept_weight(weight: Tensor, layer: Layer, keep: np.ndarray) -> Tensor:
    """What stays of a convolution's or linear layer's weight, (out, in / groups, ...)."""
    if layer.depthwise:
        return weight[places(layer.outputs, keep)]
    parts = zip(
        weight.chunk(layer.groups),
        np.split(layer.outputs, layer.groups),
        np.split(layer.inputs, layer.groups),
        strict=True,
    )
    return torch.cat([rows[places(outputs, keep)][:, places(inputs, keep)] for rows, outputs, inputs in parts])


# ---- The proof -----------------------------------------------------------------------------------------------------


@contextmanager
def masked(book: ChannelBook, keep: np.ndarray) -> Iterator[None]:
    """Meanwhile, each channel that goes is 0 wherever it comes out of a layer, behind its activation."""
    with ExitStack() as hooks:
        for module, labels in book.masks:
            if not keep[labels].all():
                mask = torch.from_numpy(keep[labels])
                hooks.callback(module.register_forward_hook(_times(mask)).remove)
        yield


def _times(mask: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * mask.to(output).view(-1, *(1,) * (output.ndim - 2))

    return hook


@torch.no_grad()
def all_heads(model: Any, images: Sequence[Tensor]) -> list[list[Tensor]]:
    """The raw head maps of each image (1, C, H, W), in float32."""
    return [[head.float() for head in model.heads(image)] for image in images]


def head_difference(one: Sequence[Sequence[Tensor]], other: Sequence[Sequence[Tensor]]) -> float:
    """The greatest difference of two networks' heads, over the greatest value of each map; NaN where either has one."""
    differences = [
        (a - b).abs().max() / a.abs().max().clamp(min=1e-12)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    ]
    return float(torch.stack(differences).max())


# ---- What a removed channel still contributes ----------------------------------------------------------------------


def constant(model: Any, book: ChannelBook, keep: np.ndarray) -> Any:
    """A copy in which each channel that goes is what it is with gamma = 0 (or weights of 0): its activation of beta."""
    copy = deepcopy(model)
    twins = dict(zip(model.modules(), copy.modules(), strict=True))
    with torch.no_grad():
        for layer in book.layers:
            if not layer.gate:
                module = layer.bn if layer.bn is not None else layer.conv
                assert module is not None
                twins[module].weight[~torch.from_numpy(keep[layer.outputs])] = 0
    return copy


@torch.no_grad()
def fold_constants(model: Any, compact: Any, book: ChannelBook, keep: np.ndarray, images: Sequence[Tensor]) -> None:
    """Put what removed channels contributed as constants into the means or biases behind what read them.

    The constants are what flows in `constant(model)`: exact inside a map, but not where padding, which has no such
    constant, lies under the kernel. Weights that several layers share are left alone.
    """
    source = constant(model, book, keep)
    twins = dict(zip(model.modules(), source.modules(), strict=True))
    names = {module: name for name, module in model.named_modules()}
    readers = [
        layer
        for layer in book.layers
        if layer.conv is not None and not layer.depthwise and not keep[layer.inputs].all()
    ]
    uses = Counter(layer.conv.weight for layer in book.layers if layer.conv is not None)
    sums: dict[Layer, Tensor] = {}
    with ExitStack() as hooks:
        for layer in readers:
            if layer.conv is not None and uses[layer.conv.weight] == 1:
                hooks.callback(twins[layer.conv].register_forward_pre_hook(_adding(sums, layer)).remove)
        for image in images:
            source.heads(image)
    for layer, total in sums.items():
        gone = ~torch.from_numpy(keep[layer.inputs])
        offset = _response(layer, torch.where(gone.to(total.device), total / len(images), 0))
        offset = offset[places(layer.outputs, keep)]
        target = compact.get_submodule(names[layer.bn or layer.conv])
        if layer.bn is not None:
            target.running_mean -= offset
        else:
            target.bias += offset


def _adding(sums: dict[Layer, Tensor], layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        means = x.mean([0, *range(2, x.ndim)])
        sums[layer] = sums[layer] + means if layer in sums else means

    return hook


def _response(layer: Layer, values: Tensor) -> Tensor:
    """A convolution's output, without bias, for inputs that are constant maps: (in,) -> (out,)."""
    conv = layer.conv
    assert conv is not None
    if isinstance(conv, nn.Linear):
        return F.linear(values, conv.weight)
    maps = values.view(1, -1, 1, 1).expand(-1, -1, *conv.weight.shape[2:])
    return F.conv2d(maps, conv.weight, groups=conv.groups).flatten()
