"""The same network in Darknet's own sections: every block that registers an expansion (ghost blocks) is written out."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from utils.errors import CfgError
from utils.network.graph import IMAGE, Graph, Node, references, renumber
from utils.network.registry import INPUT, KINDS


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
