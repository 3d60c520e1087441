"""The same network in Darknet's own sections: every block that registers an expansion (ghost blocks) is written out."""

import dataclasses
from collections.abc import Mapping

from utils.network.graph import IMAGE, Graph, Node, renumber
from utils.network.registry import KINDS


def expand(graph: Graph) -> Graph:
    """A graph without expandable blocks that computes the same and has the same weight stream."""
    places: dict[int, int] = {IMAGE: IMAGE}  # old index -> new index of its output
    nodes: list[tuple[Node, Mapping[int, int]]] = []
    for node in graph.nodes:
        rule = KINDS[node.kind].expand
        if rule is None:
            nodes.append((node, dict(places)))
        else:
            first = len(nodes)
            for part in rule(node.options):
                own = {index: first + index for index in range(len(nodes) - first)}
                nodes.append((dataclasses.replace(node, kind=part.kind, options=part.options, inert=()), own))
        places[node.index] = len(nodes) - 1
    return renumber(graph, nodes)
