"""Pictures of sparsity training: how gammas fall over the epochs, and in which layers they are near zero."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.figure import new_figure, save_figure
from utils.pruning.gammas import BINS, NEAR_ZERO

ROWS = 24  # epochs shown at most
BIN = 4  # bins of the histograms drawn as one
OVERLAP = 1.7  # rows that the highest ridge covers


def draw_gammas(path: Path, counts: Sequence[np.ndarray], title: str) -> None:
    """A ridge for each epoch (of many, some of them): the histogram of |gamma|, (BINS,), and the share near zero.

    Heights are square roots of counts, each ridge over its highest, so that the few large gammas stay visible beside
    many at 0.
    """
    chosen = np.unique(np.linspace(0, len(counts) - 1, min(ROWS, len(counts))).round().astype(int))
    joined = np.array(counts).reshape(len(counts), -1, BIN).sum(2)  # (epochs, BINS / BIN)
    used = int(np.flatnonzero(joined.sum(0)).max()) + 2
    figure, axes = new_figure((9, 2.5 + 0.3 * len(chosen)), 1, 1)
    edges = np.arange(min(used, BINS // BIN) + 1) * BIN * NEAR_ZERO
    for row, epoch in enumerate(chosen):
        heights = np.sqrt(joined[epoch, : len(edges) - 1])
        heights = heights / heights.max() * OVERLAP
        colour = _colour(row / max(1, len(chosen) - 1))
        axes.stairs(heights - row, edges, baseline=-row, fill=True, color=colour, alpha=0.9, zorder=row)
        axes.stairs(heights - row, edges, baseline=-row, color="black", linewidth=0.6, zorder=row)
        share = counts[epoch][0] / counts[epoch].sum()
        axes.text(1.01, -row, f"{share:.1%}", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.text(1.01, 0.8, f"below {NEAR_ZERO:g}", transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(-np.arange(len(chosen)), [str(epoch + 1) for epoch in chosen])
    axes.set(
        title=title, xlabel="|gamma|", ylabel="epoch", xlim=(0, edges[-1]), ylim=(-len(chosen) + 0.5, OVERLAP + 0.2)
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    save_figure(figure, path)


def _colour(place: float) -> tuple[float, ...]:
    """From the first epoch's (0) to the last one's (1)."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.15 + 0.75 * place)


def draw_sparsity(path: Path, layers: Sequence[tuple[str, int, int]], title: str) -> None:
    """A bar for each layer, as `layer_counts` gives them: gammas near zero below, the others above."""
    figure, axes = new_figure((max(8, 2 + 0.22 * len(layers)), 5.5), 1, 1)
    places = np.arange(len(layers))
    small, others = (np.array([layer[column] for layer in layers]) for column in (1, 2))
    axes.bar(places, small, color="#c44e52", label=f"|gamma| below {NEAR_ZERO:g}: {small.sum():,}")
    axes.bar(places, others, bottom=small, color="#4c72b0", label=f"others: {others.sum():,}")
    for place, low, high in zip(places, small, small + others, strict=True):
        axes.text(place, high, f"{low / high:.0%}", ha="center", va="bottom", fontsize=7, rotation=90)
    axes.set_xticks(places, [short_name(layer[0]) for layer in layers], rotation=90, fontsize=8)
    axes.set(title=title, xlabel="layer", ylabel="channels that can be pruned", xlim=(-0.7, len(layers) - 0.3))
    axes.set_ylim(0, 1.12 * max(small + others))
    axes.legend()
    axes.grid(axis="y", alpha=0.3)
    save_figure(figure, path)


def short_name(name: str) -> str:
    """`blocks.4.unit.1.weight` -> `4`; `blocks.4.ghost.primary_conv.1.weight` -> `4 primary_conv`."""
    node, *inside = name.split(".")[1:-1]
    words = [part for part in inside if not part.isdigit() and part not in {"unit", "ghost", "bottleneck", "conv"}]
    return " ".join([node, *words])
