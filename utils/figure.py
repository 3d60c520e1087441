"""Matplotlib figures without a window and without pyplot's global state, written whole or not at all."""

from pathlib import Path
from typing import Any

from utils.files import whole_file


def new_figure(size: tuple[float, float], rows: int, columns: int) -> tuple[Any, Any]:
    """A figure of (width, height) in inches, and its axes as `Figure.subplots` gives them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: it takes a while, and not every command draws
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def save_figure(figure: Any, path: Path) -> None:
    """At 100 dots an inch."""
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100)
