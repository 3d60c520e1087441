"""Freezing: layers that keep their weights and statistics while the others learn."""

from collections.abc import Sequence

from torch import nn

from utils.errors import InputError
from utils.network.graph import Graph


def frozen_layers(graph: Graph, wanted: str) -> list[int]:
    """The layers that `--freeze` names: the first N, or for `backbone` those computed before the first [upsample].

    A graph without [upsample] has its backbone before the first head's convolution. Raises InputError for an N beyond
    the graph.
    """
    if wanted != "backbone":
        number = int(wanted)
        if number > len(graph.nodes):
            raise InputError(f"--freeze {number}: expected at most the number of layers, {len(graph.nodes)}")
        return list(range(number))
    ends = [node.index for node in graph.nodes if node.kind == "upsample"]
    end = ends[0] if ends else graph.heads()[0].sources[0]
    found: set[int] = set()
    waiting = list(graph.nodes[end].sources)
    while waiting:
        index = waiting.pop()
        if index >= 0 and index not in found:
            found.add(index)
            waiting += graph.nodes[index].sources
    return sorted(found)


def freeze(blocks: Sequence[nn.Module], layers: Sequence[int]) -> list[nn.Module]:
    """Take the layers' weights out of training; returns their blocks, which must stay in eval mode."""
    frozen = [blocks[index] for index in layers]
    for block in frozen:
        block.requires_grad_(False)
    return frozen


def ranges(numbers: Sequence[int]) -> str:
    """`0-13, 17` for sorted numbers."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
