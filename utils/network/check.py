"""The cfg linter: every key as honoured, inert or unknown, and every finding with file and line, before epoch 0."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from utils.errors import CfgError, InputError
from utils.log import counted
from utils.network.cfg import (
    Entry,
    NetOptions,
    Options,
    Section,
    contradiction,
    keys_of,
    read_cfg,
    read_entry,
    typed,
)
from utils.network.graph import Graph, build_graph, build_node, kind_of

ZERO_IN_DARKNET = {
    **dict.fromkeys(("convolutional", "shortcut", "ghost", "ghost_bottleneck"), ("relu6",)),
    **dict.fromkeys(("activation", "scale_channels", "sam"), ("mish", "swish", "relu6")),
}
"""Section -> activations that Darknet's CPU code has no case for there (src/activations.c: activate)."""


@dataclass
class Report:
    """What the linter found: lines of `file:line: message`, and how each (section, key) is used."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # what Darknet reads otherwise than one may expect
    notes: list[str] = field(default_factory=list)  # what is allowed but likely not meant
    keys: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)  # -> (status, how often)

    def count(self, kind: str, key: str, status: str) -> None:
        """Note one more occurrence of a key."""
        self.keys[kind, key] = (status, self.keys.get((kind, key), ("", 0))[1] + 1)

    def problem(self, message: str) -> None:
        """Note a finding once."""
        if message not in self.problems:
            self.problems.append(message)

    def __str__(self) -> str:
        lines = [f"{'section':18} {'key':26} {'times':>5}  status"]
        for (kind, key), (status, times) in self.keys.items():
            lines.append(f"{f'[{kind}]':18} {key:26} {times:5}  {status}")
        lines += ["", *(f"note: {note}" for note in self.notes), *(f"warning: {each}" for each in self.warnings)]
        lines += self.problems or ["no problems found"]
        return "\n".join(lines)


def check_cfg(path: str | Path, build: Callable[[Graph], nn.Module], strict: bool = False) -> Report:
    """Lint a .cfg file. `build` makes the network of a graph, whose channels and sizes are then checked as well.

    If `strict`, warnings are problems. Raises CfgError only when the text itself cannot be read.
    """
    sections = read_cfg(path)
    report = Report()
    for number, section in enumerate(sections):
        warnings = _check_section(section, number - 1, report)
        if strict:
            report.problems += warnings
        else:
            report.warnings += warnings
    if not report.problems:
        try:
            graph = build_graph(sections, [])
            _check_network(graph, build, report)
        except InputError as error:
            report.problem(str(error))
    return report


def _check_section(section: Section, index: int, report: Report) -> list[str]:
    """Keys, values and references of one section; layer `index` (-1 for [net]). Returns its warnings."""
    try:
        options_type = NetOptions if index < 0 else kind_of(section).options
    except CfgError as error:
        report.problem(str(error))
        return []
    first: dict[str, Entry] = {}
    warnings: list[str] = []
    sound = True
    for entry in section.entries:
        if first.setdefault(entry.key, entry) is not entry:
            line = first[entry.key].line
            report.count(section.kind, f"{entry.key} (repeated)", f"inert: the first counts, line {line}")
            warnings += contradiction(section, first[entry.key], entry)
            continue
        report.count(section.kind, entry.key, _status(options_type, entry.key))
        try:
            read_entry(section, entry, options_type, warnings)
        except CfgError as error:
            report.problem(str(error))
            sound = False
    if sound:
        warnings.clear()  # they come again, with those of the whole section
        try:
            if index < 0:
                typed(section, options_type, warnings)
            else:
                build_node(index, section, warnings)
        except CfgError as error:
            report.problem(str(error))
    return warnings


def _status(options_type: type[Options], key: str) -> str:
    if key in keys_of(options_type):
        return keys_of(options_type)[key].metadata.get("used_by", "honoured")
    if key in options_type.INERT:
        return f"inert: {options_type.INERT[key]}"
    return "refused unless 0" if key in options_type.REFUSED else "unknown"


def _check_network(graph: Graph, build: Callable[[Graph], nn.Module], report: Report) -> None:
    """Channels, strides, head filters, whether the sizes divide: by building the network and running it on no data."""
    for node in graph.nodes:
        name = getattr(node.options, "activation", None)
        if name in ZERO_IN_DARKNET.get(node.kind, ()):
            report.notes.append(
                f"{graph.where(node)}: activation={name}: Darknet on a CPU makes maps of zeros of it here"
            )
    for head in graph.heads():
        before = graph.nodes[head.sources[0]].options if head.sources[0] >= 0 else None
        logistic = getattr(before, "activation", None) == "logistic"
        if logistic != head.options.new_coords:
            wanted = "logistic" if head.options.new_coords else "linear"
            report.notes.append(
                f"{graph.where(head)}: with new_coords={int(head.options.new_coords)} the layer before usually has "
                f"activation={wanted}, got {getattr(before, 'activation', 'none')}"
            )
    with torch.device("meta"):
        network = build(graph)
        network.eval()
        try:
            network(torch.empty(1, graph.net.channels, graph.net.height, graph.net.width))
        except InputError as error:
            report.problem(f"{graph.path}: [net] {error}")
        except RuntimeError as error:
            report.problem(
                f"{graph.path}: the sizes do not fit together at {graph.net.width}x{graph.net.height}: {error}"
            )


def verdict(report: Report, path: str) -> str:
    """The closing line."""
    if report.problems:
        return f"{path}: {counted(len(report.problems), 'problem')}"
    return f"{path}: no problems"
