"""Whole residual blocks removed: what a shortcut adds to its input, where nothing else reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from utils.errors import InputError
from utils.network.graph import Graph, references, renumber


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
        if graph.nodes[place].kind == "yolo" or _is_shared(graph, place, inside):
            return None
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


def _is_shared(graph: Graph, place: int, inside: range) -> bool:
    """Whether a layer outside has this one's weights (`share_index`), or names it for Darknet (`embedding_layer`)."""
    others = (node.options for node in graph.nodes if node.index not in inside)
    return any(place in references(options, role) for options in others for role in ("weights", "inert"))


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
    """The network without its `count` least important residual blocks, and what went, in words.

    Raises InputError where it has fewer.
    """
    gone: list[str] = []
    places = [node.index for node in model.graph.nodes]  # as they are numbered in the whole network
    for _ in range(count):
        blocks = residual_blocks(model)
        if not blocks:
            raise InputError(f"--layers {count}: expected at most {len(gone)}, as many blocks as can be removed")
        block = blocks[0]
        inside = slice(block.source + 1, block.last + 1)
        gone.append(
            f"layers {places[inside][0]} to {places[inside][-1]} of the whole network, mean gamma {block.gamma:.3f}"
        )
        del places[inside]
        model = remove_block(model, block, build)
    return model, gone
