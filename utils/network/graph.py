"""Sections -> one Graph. Relative layer indices end here: forward, weights, summary, expansion and pruning all walk
`graph.nodes`, whose sources are absolute.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.errors import CfgError
from utils.log import warn
from utils.network.cfg import NetOptions, Options, Section, format_section, parse_cfg, read_cfg, typed
from utils.network.registry import KINDS, BlockKind

IMAGE = -1  # the source index of the network's input


@dataclass(frozen=True)
class Node:
    """One section in place: `sources` are absolute indices of the nodes it reads, IMAGE for the input."""

    index: int
    kind: str
    sources: tuple[int, ...]
    options: Any  # the kind's options dataclass, its references absolute
    inert: tuple[tuple[str, str], ...] = ()  # keys kept for Darknet, as text
    line: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True)
class Graph:
    """A network as data: [net] and the nodes in file order. `path` is the file it came from, for messages."""

    net: NetOptions
    nodes: tuple[Node, ...]
    net_inert: tuple[tuple[str, str], ...] = ()
    path: str = dataclasses.field(default="cfg", compare=False)

    @cached_property
    def _readers(self) -> dict[int, list[int]]:
        readers: dict[int, list[int]] = {}
        for node in self.nodes:
            for source in dict.fromkeys(node.sources):
                readers.setdefault(source, []).append(node.index)
        return readers

    def consumers(self, index: int) -> list[int]:
        """Indices of the nodes that read node `index` (IMAGE: the input), ascending."""
        return self._readers.get(index, [])

    def last_use(self, index: int) -> int:
        """The index of the last node that reads node `index`; its own index where nobody does."""
        return self.consumers(index)[-1] if self.consumers(index) else index

    def heads(self) -> list[Node]:
        """The [yolo] nodes in file order."""
        return [node for node in self.nodes if node.kind == "yolo"]

    def where(self, node: Node) -> str:
        """`file:line: [kind]`, the start of a message about the node."""
        return f"{self.path}:{node.line}: [{node.kind}]"

    def with_options(self, changes: Mapping[int, Mapping[str, Any]]) -> "Graph":
        """A graph with some options of some nodes replaced: `{index: {"filters": 32}}`.

        Raises CfgError, with file and line, for values that a cfg file may not have either.
        """
        nodes = list(self.nodes)
        for index, change in changes.items():
            node = nodes[index]
            nodes[index] = dataclasses.replace(node, options=dataclasses.replace(node.options, **change))
            try:
                nodes[index].options.validate()
            except CfgError as error:
                raise CfgError(f"{self.where(node)} {error}") from None
        return dataclasses.replace(self, nodes=tuple(nodes))

    def to_cfg(self, comment: str = "", notes: Mapping[int, str] | None = None) -> str:
        """The graph as cfg text, which parses back to an equal graph.

        `comment` lines come first, behind `#`; `notes`, by a node's index, stand before its section.
        """
        parts = [format_section("net", self.net, self.net_inert)]
        for node in self.nodes:
            options = _map_references(node.options, lambda field, target, at=node.index: target - at)
            note = f"# {notes[node.index]}\n" if notes and node.index in notes else ""
            parts.append(note + format_section(node.kind, options, node.inert))
        lead = "".join(f"# {line}\n" for line in comment.splitlines())
        return (lead + "\n" if lead else "") + "\n".join(parts)


def load_graph(path: str | Path, strict: bool = False) -> Graph:
    """Read a .cfg file (a bare name is also looked for in cfg/) into a Graph; warns of what Darknet reads unexpectedly.

    Raises CfgError with file and line, if `strict` also for keys that Darknet does not know.
    """
    warnings: list[str] = []
    graph = build_graph(read_cfg(path), warnings, strict)
    for each in warnings:
        warn(f"warning: {each}")
    return graph


def parse_graph(text: str, path: str = "cfg") -> Graph:
    """Cfg text into a Graph; `path` is what errors call it."""
    return build_graph(parse_cfg(text, path), [])


def build_graph(sections: list[Section], warnings: list[str], strict: bool = False) -> Graph:
    """Sections, [net] first, into a Graph; `warnings` and `strict` as in `typed`."""
    net, net_inert = typed(sections[0], NetOptions, warnings, strict)
    nodes = tuple(build_node(index, section, warnings, strict) for index, section in enumerate(sections[1:]))
    if not nodes:
        raise CfgError(f"{sections[0].path}: expected sections after [net]")
    return Graph(net, nodes, net_inert, sections[0].path)


def kind_of(section: Section) -> BlockKind:
    """The registered kind of a section; CfgError that lists what is known."""
    if section.kind == "ghostnet":
        raise CfgError(f"{section.path}: expected a detector; this is a classifier, for classify.py")
    if section.kind not in KINDS:
        known = " ".join(sorted({kind.name for kind in KINDS.values()}))
        raise CfgError(f"{section.where()}: unknown section [{section.kind}], expected one of: {known}")
    return KINDS[section.kind]


def build_node(index: int, section: Section, warnings: list[str], strict: bool = False) -> Node:
    """One section at position `index` (the first after [net] is 0), its relative references made absolute."""
    kind = kind_of(section)
    options, inert = typed(section, kind.options, warnings, strict)

    def absolute(field: dataclasses.Field[Any], value: int) -> int:
        target = index + value if value < 0 else value
        if not 0 <= target < index:
            key = field.name.rstrip("_")
            raise CfgError(
                f"{section.where(key)}: [{section.kind}] {key}={value}: there is no such layer before this one, "
                f"which is layer {index}; expected {-index} to -1 or 0 to {index - 1}"
                if index
                else f"{section.where(key)}: [{section.kind}] {key}={value}: the first layer has none before it"
            )
        return target

    options = _map_references(options, absolute)
    return Node(index, kind.name, sources_of(kind, options, index), options, inert, section.line)


def sources_of(kind: BlockKind, options: Options, index: int) -> tuple[int, ...]:
    """The nodes that a block at `index` reads: the previous one, those it names, or both."""
    named = references(options)
    return {"previous": (index - 1,), "listed": named, "both": (index - 1, *named)}[kind.reads]


def references(options: Options, role: str = "source") -> tuple[int, ...]:
    """The layers that a section names as those it reads; or as those with another `role`, see `option`."""
    return tuple(target for _, targets in _references(options, role) for target in targets)


def _references(options: Options, role: str | None = None) -> Iterable[tuple[dataclasses.Field[Any], tuple[int, ...]]]:
    """The reference fields that are set, with their values as a tuple."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        marked = field.metadata.get("reference")
        if marked is not None and value is not None and role in (None, marked):
            yield field, value if isinstance(value, tuple) else (value,)


def _map_references(options: Any, change: Any) -> Any:
    """The options with `change(field, value)` applied to each referenced index."""
    changed: dict[str, Any] = {}
    for field, targets in _references(options):
        values = tuple(change(field, target) for target in targets)
        changed[field.name] = values if isinstance(getattr(options, field.name), tuple) else values[0]
    return dataclasses.replace(options, **changed) if changed else options


def renumber(graph: Graph, nodes: Iterable[tuple[Node, Mapping[int, int]]]) -> Graph:
    """A graph of new nodes, each with the map from the old indices in its references to new ones."""
    renewed = []
    for index, (node, places) in enumerate(nodes):
        options = _map_references(node.options, lambda field, target, places=places: places[target])
        sources = sources_of(KINDS[node.kind], options, index)
        renewed.append(dataclasses.replace(node, index=index, options=options, sources=sources))
    return dataclasses.replace(graph, nodes=tuple(renewed))


# ---- Fitting heads to a data set -----------------------------------------------------------------------------------


def fit_heads(graph: Graph, num_classes: int) -> Graph:
    """The graph with every [yolo] head at `num_classes` and the `filters` of the layer before it to match."""
    changes: dict[int, dict[str, Any]] = {}
    for head in graph.heads():
        options = dataclasses.replace(head.options, classes=num_classes)
        before = graph.nodes[head.sources[0]] if head.sources[0] >= 0 else None
        if before is None or not hasattr(before.options, "filters") or graph.consumers(before.index) != [head.index]:
            raise CfgError(
                f"{graph.where(head)}: cannot be fitted to {num_classes} classes: expected a layer with `filters` "
                f"right before it that only this head reads"
            )
        changes[head.index] = {"classes": num_classes}
        changes[before.index] = {"filters": options.in_channels}
    return graph.with_options(changes)


def widen_heads(graph: Graph, scale_x_y: float) -> Graph:
    """The graph with this scale_x_y in every [yolo] head that has less: how far beyond its cell a centre may lie.

    Heads with new_coords, which decode otherwise, stay as they are.
    """
    changes = {
        head.index: {"scale_x_y": scale_x_y}
        for head in graph.heads()
        if head.options.scale_x_y < scale_x_y and not head.options.new_coords
    }
    return graph.with_options(changes)


def num_classes_of(graph: Graph) -> int:
    """The class count that all [yolo] heads share. Raises CfgError when they differ or there is no head."""
    counts = sorted({head.options.classes for head in graph.heads()})
    if len(counts) != 1:
        heads = f"heads with {' and '.join(map(str, counts))} classes" if counts else "no [yolo] section"
        raise CfgError(f"{graph.path}: expected [yolo] heads with one class count, got {heads}")
    return counts[0]
