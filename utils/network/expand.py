"""The same network in Darknet's own sections: every block that registers an expansion (ghost blocks) is written out."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from utils.errors import CfgError
from utils.network.fuse import fuse
from utils.network.graph import IMAGE, Graph, Node, references, renumber
from utils.network.registry import INPUT, KINDS, Block


def expand(graph: Graph, blocks: Iterable[Any]) -> Graph:
    """A graph without expandable blocks that computes the same and has the same weight stream.

    `blocks` are the graph's. Raises CfgError, with file and line, for a block that Darknet has no sections for.
    """
    channels = {IMAGE: graph.net.channels, **{index: block.out_channels for index, block in enumerate(blocks)}}
    places: dict[int, int] = {IMAGE: IMAGE}  # old index -> new index of its output
    nodes: list[tuple[Node, Mapping[int, int]]] = []
    for node in graph.nodes:
        rule = KINDS[node.kind].expand
        if rule is None:
            nodes.append((node, dict(places)))
        else:
            first = len(nodes)
            try:
                parts = rule(node.options, tuple(channels[source] for source in node.sources))
                if node.sources[0] == IMAGE and any(INPUT in references(part.options) for part in parts):
                    raise CfgError("reads the image twice, which Darknet's sections cannot")
            except CfgError as error:
                raise CfgError(f"{graph.where(node)} {error}") from None
            for part in parts:
                own = {index: first + index for index in range(len(nodes) - first)}
                own[INPUT] = places[node.sources[0]]
                nodes.append((dataclasses.replace(node, kind=part.kind, options=part.options, inert=()), own))
        places[node.index] = len(nodes) - 1
    return renumber(graph, nodes)


def expanded(model: Any) -> Any:
    """A copy in Darknet's own sections, in eval mode. Raises CfgError for a block that Darknet has no sections for."""
    return _rebuilt(model, expand(model.graph, model.blocks), model)


def folded(model: Any) -> Any:
    """A copy of a network in Darknet's own sections whose convolutions have taken batch normalisation over."""
    convs = [node.index for node in model.graph.nodes if getattr(node.options, "batch_normalize", False)]
    graph = model.graph.with_options({index: {"batch_normalize": False} for index in convs})
    return _rebuilt(model, graph, fuse(model))


def _rebuilt(model: Any, graph: Graph, weights: Any) -> Any:
    """`graph` as a network like `model`, with the tensors of `weights`, whose weight stream is the same."""
    copy = type(model)(graph, model.names).eval()
    with torch.no_grad():
        for source, target in zip(_stream(weights), _stream(copy), strict=True):
            target.copy_(source)
    copy.seen = model.seen
    return copy


def _stream(model: Any) -> list[Tensor]:
    """All tensors in the order of Darknet's weight stream."""
    return [tensor for block in model.blocks if isinstance(block, Block) for tensor in block.darknet_tensors()]
