"""Whole residual blocks removed: what a shortcut adds to its input, where nothing else reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from utils.network.graph import Graph, renumber


@dataclass(frozen=True)
class ResidualBlock:
    """Nodes `source` + 1 to `last`, which add something to the output of node `source`; `gamma`: their mean |gamma|."""

    source: int
    last: int
    gamma: float


def residual_blocks(model: Any) -> list[ResidualBlock]:
    """The blocks of a Darknet without which the network would still fit together, the least important first."""
    found = [block for node in model.graph.nodes if (block := _residual(model, node.index)) is not None]
    return sorted(found, key=lambda block: block.gamma)


def _residual(model: Any, index: int) -> ResidualBlock | None:
    """The block that ends with this node, if one does."""
    graph, node = model.graph, model.graph.nodes[index]
    if node.kind == "shortcut":
        options = node.options
        if len(node.sources) != 2 or options.activation != "linear" or options.weights_type != "none":
            return None
        source = min(node.sources)
    elif node.kind == "ghost_bottleneck":
        if len(model.blocks[index].bottleneck.shortcut):
            return None
        source = node.sources[0]
    else:
        return None
    inside = range(source + 1, index + 1)
    if source < 0 or model.blocks[source].out_channels != model.blocks[index].out_channels:
        return None
    for place in inside:
        if not all(origin == source or origin in inside for origin in graph.nodes[place].sources):
            return None
        if place != index and not all(reader in inside for reader in graph.consumers(place)):
            return None
    gammas = [
        float(module.weight.detach().abs().mean())
        for place in inside
        for module in model.blocks[place].modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    return ResidualBlock(source, index, sum(gammas) / len(gammas)) if gammas else None


def remove_block(model: Any, block: ResidualBlock, build: Callable[[Graph], Any]) -> Any:
    """The network without a block, in eval mode; what read the block reads its input. `build` is Darknet."""
    gone = range(block.source + 1, block.last + 1)
    shift = len(gone)
    places = {node.index: node.index - shift * (node.index > block.last) for node in model.graph.nodes} | {-1: -1}
    places[block.last] = block.source
    graph = renumber(model.graph, [(node, places) for node in model.graph.nodes if node.index not in gone])
    smaller = build(graph)
    smaller.names, smaller.seen = list(model.names), model.seen
    tensors = {}
    for name, tensor in model.state_dict().items():
        head, index, rest = name.split(".", 2)
        if int(index) not in gone:
            tensors[f"{head}.{places[int(index)]}.{rest}"] = tensor
    smaller.load_state_dict(tensors)
    return smaller.to(next(model.parameters()).device).eval()


def remove_layers(model: Any, count: int, build: Callable[[Graph], Any]) -> tuple[Any, list[str]]:
    """The network without its `count` least important residual blocks (or all it has), and what went, in words."""
    gone = []
    for _ in range(count):
        blocks = residual_blocks(model)
        if not blocks:
            break
        block = blocks[0]
        gone.append(f"layers {block.source + 1} to {block.last} (mean gamma {block.gamma:.3f})")
        model = remove_block(model, block, build)
    return model, gone
