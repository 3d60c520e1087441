"""A pruning told: the table before and after, what each layer keeps and why some keep all, the bars, the sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.figure import new_figure, save_figure
from utils.log import counted
from utils.pruning.cost import Standing
from utils.pruning.plan import Choice

REPORT = "report.json"
WIDEST_BARS = 24.0  # inches


@dataclass(frozen=True)
class LayerChannels:
    """An option of a section that counts channels, before and after; `reason` where all of them stay."""

    index: int
    kind: str
    option: str
    before: int
    after: int
    reason: str = ""


def layer_channels(choice: Choice, model: Any, keep: np.ndarray) -> list[LayerChannels]:
    """One for each count that a section gives: filters, expansion, se, squeezed."""
    groups = choice.groups
    labels = groups.labels_kept(keep)
    rows = []
    for node in model.graph.nodes:
        for option, counted_labels in groups.book.counts.get(node.index, {}).items():
            if option != "groups" and len(counted_labels):
                reason = why_all_stay(choice, groups.of_label[counted_labels])
                before, after = len(counted_labels), int(labels[counted_labels].sum())
                rows.append(LayerChannels(node.index, node.kind, option, before, after, reason))
    return rows


def why_all_stay(choice: Choice, ids: np.ndarray) -> str:
    """Why none of these groups may go; empty where one may."""
    groups = choice.groups
    if choice.removable[ids].any():
        return ""
    if groups.fixed[ids].any():
        return next(reason for labels, reason in groups.book.fixed if np.isin(groups.of_label[labels], ids).any())
    if groups.added[ids].any() and choice.strategy == "normal":
        return "tied by a shortcut (--strategy normal)"
    return "no batch normalisation to judge by"


def before_and_after(before: Standing, after: Standing, where: str) -> str:
    """The table; `where` says what the milliseconds are of."""
    rows = [
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}", _change(before.parameters, after.parameters)),
        ("GFLOPs", f"{before.gflops:.3f}", f"{after.gflops:.3f}", _change(before.gflops, after.gflops)),
        ("MB", f"{before.megabytes:.2f}", f"{after.megabytes:.2f}", _change(before.megabytes, after.megabytes)),
    ]
    if before.milliseconds is not None and after.milliseconds is not None:
        speedup = f"{before.milliseconds / after.milliseconds:.2f} times as fast"
        rows.append((f"ms ({where})", f"{before.milliseconds:.1f}", f"{after.milliseconds:.1f}", speedup))
    for name, old, new in (("AP@.5", before.ap50, after.ap50), ("AP@.5:.95", before.ap, after.ap)):
        if old is not None and new is not None:
            rows.append((name, f"{old:.3f}", f"{new:.3f}", f"{round(new, 3) - round(old, 3):+.3f}"))
    lines = [f"{'':24} {'before':>12} {'after':>12}"]
    return "\n".join(lines + [f"{name:24} {old:>12} {new:>12}   {change}" for name, old, new, change in rows])


def _change(old: float, new: float) -> str:
    return f"{100 * (new / old - 1):+.1f} %"


def draw_layers(path: Path, rows: Sequence[LayerChannels], title: str) -> None:
    """A bar for each layer: its channels, and those that stay."""
    figure, axes = new_figure((min(WIDEST_BARS, 3 + 0.22 * len(rows)), 4), 1, 1)
    x = np.arange(len(rows))
    axes.bar(x, [row.before for row in rows], color="#d0d7de", label="before")
    axes.bar(x, [row.after for row in rows], color="#1f77b4", label="after")
    names = [str(row.index) if row.option == "filters" else f"{row.index} {row.option}" for row in rows]
    axes.set_xticks(x, names, rotation=90, fontsize=7)
    axes.set_xlim(-1, len(rows))
    axes.set(xlabel="layer", ylabel="channels", title=title)
    axes.legend()
    save_figure(figure, path)


# ---- The sweep -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepPoint:
    """The share of removable channels that was asked for, the one reached, and what is left."""

    asked: float
    share: float
    standing: Standing


def sweep_table(points: Sequence[SweepPoint], knee: SweepPoint | None) -> str:
    """A line for each point, the whole network first; a star at the knee."""
    lines = [f"{'asked':>6} {'share':>6} {'parameters':>12} {'GFLOPs':>8} {'ms':>8} {'AP@.5':>7} {'AP@.5:.95':>9}"]
    for point in points:
        now = point.standing
        ap50, ap = ("" if value is None else f"{value:.3f}" for value in (now.ap50, now.ap))
        milliseconds = "" if now.milliseconds is None else f"{now.milliseconds:.1f}"
        lines.append(
            f"{point.asked:6.2f} {point.share:6.2f} {now.parameters:12,} {now.gflops:8.3f} {milliseconds:>8} "
            f"{ap50:>7} {ap:>9}{' *' if point is knee else ''}".rstrip()
        )
    return "\n".join(lines)


def find_knee(points: Sequence[SweepPoint]) -> SweepPoint | None:
    """The point of the AP curve that is farthest above the line from its first to its last point; None without AP.

    Satopaa et al., "Finding a Kneedle in a Haystack", 2011.
    """
    aps = [point.standing.ap for point in points]
    if any(ap is None for ap in aps) or len(points) < 3 or points[-1].share <= points[0].share:
        return None
    x, y = np.array([point.share for point in points]), np.array(aps, float)
    line = y[0] + (y[-1] - y[0]) * (x - x[0]) / (x[-1] - x[0])
    best = int(np.argmax(y - line))
    return points[best] if y[best] > line[best] else None


def draw_sweep(path: Path, points: Sequence[SweepPoint], knee: SweepPoint | None, title: str) -> None:
    """What is left of parameters, FLOPs, time and AP over the share of channels that is gone."""
    with_ap = points[0].standing.ap is not None
    figure, axes = new_figure((11 if with_ap else 6, 4.2), 1, 2 if with_ap else 1)
    costs, quality = axes if with_ap else (axes, None)
    shares, first = [100 * point.share for point in points], points[0].standing
    for name, values in {
        "parameters": [p.standing.parameters / first.parameters for p in points],
        "FLOPs": [p.standing.gflops / first.gflops for p in points],
        "milliseconds": [(p.standing.milliseconds or 0) / (first.milliseconds or 1) for p in points],
    }.items():
        costs.plot(shares, [100 * value for value in values], marker="o", markersize=4, label=name)
    costs.set(xlabel="removable channels gone, %", ylabel="of the whole network, %", ylim=(0, None))
    panels = [costs]
    if quality is not None:
        for name, aps in {
            "AP@.5": [p.standing.ap50 for p in points],
            "AP@.5:.95": [p.standing.ap for p in points],
        }.items():
            quality.plot(shares, aps, marker="o", markersize=4, label=name)
        quality.set(xlabel="removable channels gone, %", ylabel="AP, before any training", ylim=(0, 1))
        panels.append(quality)
    for panel in panels:
        if knee is not None:
            panel.axvline(100 * knee.share, color="grey", linestyle="--", linewidth=1, label="knee")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.suptitle(title)
    save_figure(figure, path)


def layer_notes(rows: Sequence[LayerChannels]) -> dict[int, str]:
    """Layer -> what was kept of it, for those that lost channels."""
    notes: dict[int, str] = {}
    for row in rows:
        if row.before != row.after:
            start = notes.get(row.index, f"layer {row.index} kept")
            notes[row.index] = f"{start}{',' if row.index in notes else ''} {row.after} of {row.before} {row.option}"
    return notes


def kept_words(rows: Sequence[LayerChannels]) -> str:
    """Which layers keep all channels, and why, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            name = str(row.index) if row.option == "filters" else f"{row.index} ({row.option})"
            by_reason.setdefault(row.reason, []).append(name)
    return "\n".join(
        f"{counted(len(layers), 'layer keeps', 'layers keep')} all channels, {reason}: {', '.join(layers)}"
        for reason, layers in by_reason.items()
    )
