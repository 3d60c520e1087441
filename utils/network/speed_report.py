"""Ghost blocks against plain convolutions as measured: a table, a summary in words, a heat map."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.figure import new_figure, save_figure
from utils.network.speed import Measured

EVEN = 1.05  # times that differ by less than this factor count as equal: next time, the other may be ahead
WIDEST = 2.0  # the factor at which the heat map's colours end


def is_slower(ratio: float) -> bool:
    """Whether a ratio of times, ghost / plain, is beyond what may be chance."""
    return ratio > EVEN


def is_faster(ratio: float) -> bool:
    """Whether a ratio of times, ghost / plain, is below what may be chance."""
    return ratio < 1 / EVEN


def format_sizes(rows: Sequence[Measured]) -> str:
    """The table, a line for each size; a star behind each ratio of times at which the ghost block is slower."""
    dtypes = list(rows[0].milliseconds)
    over = f"{'':20} {'parameters':>21} {'MFLOPs':>19}" + "".join(f" {dtype + ' ms':>17}" for dtype in dtypes)
    heads = f"{'kernel':>6} {'channels':>8} {'map':>4} {'plain':>10} {'ghost':>10} {'plain':>9} {'ghost':>9}"
    heads += f" {'plain':>8} {'ghost':>8}" * len(dtypes) + f" {'FLOPs':>7}"
    heads += "".join(f" {dtype:>9} " for dtype in dtypes)
    lines = [f"{over}   ghost / plain", heads.rstrip()]
    for row in rows:
        line = (
            f"{f'{row.kernel}x{row.kernel}':>6} {row.channels:8} {row.size:4} "
            f"{row.plain.parameters:10,} {row.ghost.parameters:10,} "
            f"{row.plain.flops / 1e6:9.2f} {row.ghost.flops / 1e6:9.2f}"
        )
        line += "".join(f" {times.plain:8.3f} {times.ghost:8.3f}" for times in row.milliseconds.values())
        line += f" {row.ghost.flops / row.plain.flops:7.2f}"
        for times in row.milliseconds.values():
            line += f" {times.ratio:9.2f}{'*' if is_slower(times.ratio) else ' '}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def summary(rows: Sequence[Measured]) -> str:
    """Three lines: at how many sizes the ghost block is slower, where it pays, where it does not."""
    counts = [
        f"{sum(is_slower(row.milliseconds[dtype].ratio) for row in rows)} of {len(rows)} sizes in {dtype}"
        for dtype in rows[0].milliseconds
    ]
    return (
        f"* the ghost block is slower, by more than {EVEN - 1:.0%}: at {', '.join(counts)}\n"
        f"it pays, being faster on every map, {_where(rows, is_faster)}\n"
        f"it does not, being slower on every map, {_where(rows, is_slower)}"
    )


def _where(rows: Sequence[Measured], holds: Callable[[float], bool]) -> str:
    """The kernels and channels for which something holds of the ratio of times on all maps measured."""
    parts = []
    for dtype in rows[0].milliseconds:
        ratios: dict[int, dict[int, list[float]]] = {}
        for row in rows:
            ratios.setdefault(row.kernel, {}).setdefault(row.channels, []).append(row.milliseconds[dtype].ratio)
        found = []
        for kernel, by_channels in ratios.items():
            channels = [str(number) for number, all_maps in by_channels.items() if all(map(holds, all_maps))]
            if channels:
                found.append(f"{kernel}x{kernel} of {', '.join(channels)} channels")
        parts.append(f"in {dtype} {'with ' + ' and '.join(found) if found else 'nowhere'}")
    return "; ".join(parts)


def draw_ratios(path: Path, rows: Sequence[Measured], title: str) -> None:
    """Heat maps of the ratio of times over channels and map size, a panel for each kernel and type of numbers."""
    kernels, channels, sizes = (sorted({getattr(row, key) for row in rows}) for key in ("kernel", "channels", "size"))
    dtypes = list(rows[0].milliseconds)
    width, height = 2 + 0.65 * len(channels), 1.3 + 0.5 * len(sizes)
    figure, axes = new_figure((1.5 + width * len(kernels), 0.7 + height * len(dtypes)), len(dtypes), len(kernels))
    grid = np.reshape(axes, (len(dtypes), len(kernels)))
    for line, dtype in zip(grid, dtypes, strict=True):
        for panel, kernel in zip(line, kernels, strict=True):
            ratios = np.full((len(sizes), len(channels)), np.nan)
            for row in rows:
                if row.kernel == kernel:
                    place = sizes.index(row.size), channels.index(row.channels)
                    ratios[place] = row.milliseconds[dtype].ratio
            image = _draw_panel(panel, ratios)
            panel.set_xticks(range(len(channels)), channels)
            panel.set_yticks(range(len(sizes)), sizes)
            panel.set(title=f"{kernel}x{kernel}, {dtype}", xlabel="channels, in and out", ylabel="map, px a side")
    label, ticks = "time, ghost / plain", [1 / WIDEST, WIDEST**-0.5, 1, WIDEST**0.5, WIDEST]
    bar = figure.colorbar(image, ax=grid, ticks=ticks, format="%.1f", extend="both", aspect=30, label=label)
    bar.minorticks_off()
    figure.suptitle(title)
    save_figure(figure, path)


def _draw_panel(axes: Any, ratios: np.ndarray) -> Any:
    """Blue where the ghost block is faster, red where it is slower; grey (NaN) where nothing was measured."""
    axes.set_facecolor("0.8")
    image = axes.imshow(ratios, cmap="RdBu_r", norm="log", vmin=1 / WIDEST, vmax=WIDEST, origin="lower", aspect="auto")
    for row, column in np.argwhere(np.isfinite(ratios)).tolist():
        ratio = ratios[row, column]
        dark = abs(np.log(ratio)) > 0.7 * np.log(WIDEST)
        axes.text(column, row, f"{ratio:.2f}", ha="center", va="center", color="white" if dark else "black")
    return image
