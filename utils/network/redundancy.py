"""How much of a layer is redundant: which of its feature maps a cheap operation makes from another one of them.

This is the measurement behind the ghost module, whose paper opens with pairs of maps that look alike (Han et al.,
"GhostNet: More Features from Cheap Operations", CVPR 2020, Figure 1). The cheap operation is the module's own: a 3x3
depthwise kernel with a bias over one map, zeros around it, here fitted by least squares over all positions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.draw import class_colour
from utils.errors import InputError
from utils.figure import new_figure, save_figure
from utils.log import counted, progress
from utils.network.graph import Graph, Node

SIZE = 3  # of the cheap kernel: d of the paper
WEIGHTS = SIZE**2 + 1  # with the bias
STEADY = 1e-6  # a map whose deviation is this share of its largest value is constant: float32 tells no more
FAINT = 1e-6  # of a map's strongest direction: those below are lost in the rounding of the sums of squares
CHUNK = 2**22  # numbers in the shifted maps that are in memory at once: 32 MB
THRESHOLDS = (0.05, 0.1, 0.3)
SHOWN_PAIRS = 12
SHOWN_MAPS = 64


@dataclass(frozen=True)
class Pair:
    """Map `target` from map `source`: residual sum of squares / total about the target's mean, 0 to 1."""

    source: int
    target: int
    error: float


@dataclass(frozen=True)
class Redundancy:
    """A layer's maps (C, H, W) float64, the error of each pair (C source, C target), and pairs worth a look.

    The error is infinite where there is no pair: from a map to itself, and from or to a constant map.
    """

    maps: Tensor
    errors: Tensor
    pairs: list[Pair]

    @property
    def best(self) -> Tensor:
        """The least error with which each map that is not constant is made from another, ascending."""
        least = self.errors.amin(dim=0)
        return least[least.isfinite()].sort().values

    def count_under(self, threshold: float) -> int:
        """How many maps another one makes with less error than that; of two that are alike, both count."""
        return int((self.best < threshold).sum())


def pick_layer(graph: Graph, index: int) -> Node:
    """The layer whose maps are measured. Raises InputError where there is none, or it has no maps."""
    if not 0 <= index < len(graph.nodes):
        raise InputError(f"--redundancy {index}: {graph.path} has no such layer, expected 0 to {len(graph.nodes) - 1}")
    node = graph.nodes[index]
    if node.kind == "yolo":
        raise InputError(
            f"--redundancy {index}: {graph.where(node)} has no feature maps, expected the index of another layer"
        )
    return node


def feature_maps(model: nn.Module, block: nn.Module, image: Tensor) -> Tensor:
    """What `block` of `model` gives for an image (C, H, W): (C, H', W') float64. The model is in eval mode."""
    outputs: list[Tensor] = []
    handle = block.register_forward_hook(lambda module, inputs, output: outputs.append(output[0].double()))
    try:
        with torch.no_grad():
            model(image[None])
    finally:
        handle.remove()
    return outputs[0]


def measure(maps: Tensor) -> Redundancy:
    """The redundancy of maps (C, H, W) float64. Raises InputError where it is undefined."""
    height, width = maps.shape[1:]
    if height * width <= WEIGHTS:
        raise InputError(f"expected more than {WEIGHTS} positions, since as many numbers are fitted")
    if not maps.isfinite().all():
        raise InputError("expected finite feature maps, got infinity or NaN: look at the weights")
    varying = int((~constant(maps)).sum())
    if varying < 2:
        raise InputError(f"expected two maps that vary over the image, got {varying} of {len(maps)}")
    errors = pair_errors(maps)
    return Redundancy(maps, errors, best_pairs(errors, SHOWN_PAIRS))


def constant(maps: Tensor) -> Tensor:
    """Which of the maps (C, H, W) are the same everywhere, and so say nothing about the image: (C,) bool."""
    flat = maps.flatten(1)
    return flat.std(dim=1, correction=0) <= STEADY * flat.abs().amax(dim=1)


def pair_errors(maps: Tensor) -> Tensor:
    """The error of each map from each other: (C, H, W) float64 -> (C source, C target), as in Redundancy."""
    varying = (~constant(maps)).nonzero().flatten()
    targets = maps[varying].flatten(1)  # (V, H*W)
    targets = targets - targets.mean(dim=1, keepdim=True)
    targets = targets / targets.norm(dim=1, keepdim=True)  # the total sum of squares is 1
    errors = torch.full((len(maps), len(maps)), torch.inf, dtype=maps.dtype)
    at_once = max(1, CHUNK // (SIZE**2 * targets.shape[1]))
    for sources in progress(varying.split(at_once), "comparing maps", unit="part"):
        parts = reach(maps[sources]) @ targets.T  # (S, 9, V)
        errors[sources[:, None], varying] = (1 - parts.square().sum(dim=1)).clamp(min=0)
    return errors.fill_diagonal_(torch.inf)


def reach(sources: Tensor) -> Tensor:
    """What kernels can make of each map, but for the bias: (S, H, W) float64 -> orthonormal bases (S, 9, H*W).

    The span of the map's shifts, each less its mean since the bias is free; a least-squares fit is the projection onto
    it. Shifts may be nearly the same, as on smooth maps: directions below the rounding error are zeros.
    """
    height, width = sources.shape[1:]
    padded = F.pad(sources, (SIZE // 2,) * 4)
    windows = [padded[:, y : y + height, x : x + width] for y in range(SIZE) for x in range(SIZE)]
    shifts = torch.stack(windows, dim=1).flatten(2)  # (S, 9, H*W)
    shifts = shifts - shifts.mean(dim=2, keepdim=True)
    axes = torch.linalg.eigh(shifts @ shifts.mT).eigenvectors.mT @ shifts
    lengths = axes.norm(dim=2, keepdim=True)
    return torch.where(lengths > FAINT * lengths.amax(dim=1, keepdim=True), axes / lengths, 0)


def reproduce(source: Tensor, target: Tensor) -> Tensor:
    """The best that a kernel with a bias makes of `source` to resemble `target`, both (H, W) float64."""
    basis, mean = reach(source[None])[0], target.mean()
    return ((basis @ (target - mean).flatten()) @ basis).view_as(target) + mean


def best_pairs(errors: Tensor, count: int) -> list[Pair]:
    """The pairs with the least errors (C, C), ascending; up to `count`, no map in two of them.

    So neither a pair's way back nor the many pairs of a few maps that are all alike fill the list.
    """
    left = errors.clone()
    pairs: list[Pair] = []
    while len(pairs) < count and left.isfinite().any():
        source, target = divmod(int(left.argmin()), len(left))
        pairs.append(Pair(source, target, float(left[source, target])))
        left[[source, target]] = torch.inf
        left[:, [source, target]] = torch.inf
    return pairs


def format_report(found: Redundancy) -> str:
    """The numbers in lines of text."""
    count, (height, width) = len(found.best), found.maps.shape[1:]
    dead = len(found.maps) - count
    noise = (WEIGHTS - 1) / (height * width - 1)
    lines = [
        f"{counted(dead, 'constant map')} left out; {count} compared, each made from each other by a "
        f"{SIZE}x{SIZE} kernel and a bias",
        f"error: residual / variance, 0 to 1 (between maps of pure noise {1 - noise:.3f} is expected at this size)",
    ]
    lines += [f"maps that another makes with error {share_words(found, limit)}" for limit in THRESHOLDS]
    lines.append(f"median of the maps' least errors: {found.best.quantile(0.5):.4f}")
    lines.append("best pairs, no map in two of them:")
    return "\n".join(lines + [f"  {pair.source:>4} -> {pair.target:<4} {pair.error:.4f}" for pair in found.pairs])


def share_words(found: Redundancy, threshold: float) -> str:
    """`under 0.1: 12 of 64 (19%)`."""
    count, total = found.count_under(threshold), len(found.best)
    return f"under {threshold}: {count} of {total} ({count / total:.0%})"


# ---- The figure ----------------------------------------------------------------------------------------------------


def draw_redundancy(path: Path, found: Redundancy, picture: np.ndarray, title: str) -> None:
    """The maps, the best pairs, the image as the network gets it, (H, W, 3) RGB, and the errors of all maps."""
    figure, ((overview, pairs), (image, errors)) = new_figure((17, 17), 2, 2)
    figure.suptitle(title, parse_math=False)
    _draw_maps(overview, found)
    _draw_pairs(pairs, found)
    image.imshow(picture)
    image.set(title="The image, as the network gets it")
    image.axis("off")
    _draw_errors(errors, found)
    save_figure(figure, path)


def _draw_maps(axes: Any, found: Redundancy) -> None:
    """Up to 64 maps with their numbers, those of the pairs among them, and each pair in frames of its colour."""
    colours = {index: _colour(n) for n, pair in enumerate(found.pairs) for index in (pair.source, pair.target)}
    others = [index for index in range(len(found.maps)) if index not in colours]
    shown = sorted([*colours, *others[: SHOWN_MAPS - len(colours)]])
    columns = int(np.ceil(np.sqrt(len(shown))))
    for place, index in enumerate(shown):
        _tile(axes, found.maps[index], place % columns, place // columns, str(index), colours.get(index))
    _close_grid(axes, f"{len(shown)} of {counted(len(found.maps), 'map')}, a colour for each pair of the right side")


def _draw_pairs(axes: Any, found: Redundancy) -> None:
    """Source, target and what is made of the source for each pair, in two columns of pairs."""
    rows = int(np.ceil(len(found.pairs) / 2))
    for n, pair in enumerate(found.pairs):
        column, row = 3.3 * (n // rows), n % rows
        source, target = found.maps[pair.source], found.maps[pair.target]
        _tile(axes, source, column, row, str(pair.source), _colour(n))
        _tile(axes, target, column + 1, row, str(pair.target), _colour(n))
        made = reproduce(source, target)
        _tile(axes, made, column + 2, row, f"error {pair.error:.4f}", like=target)
    _close_grid(axes, "Best pairs, no map in two: a map, another one, and that other one as made from the first")


def _draw_errors(axes: Any, found: Redundancy) -> None:
    """Each map's least error, sorted, and the shares of maps under the thresholds."""
    axes.step(np.linspace(0, 100, len(found.best) + 1), [found.best[0], *found.best], where="pre", lw=2)
    for limit in THRESHOLDS:
        axes.axhline(limit, color="black", lw=0.8, ls=":")
        words, paper = share_words(found, limit), {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(99, limit + 0.004, words, ha="right", va="bottom", fontsize="large", bbox=paper)
    axes.set(
        title="How well each map is made from the best other one", xlabel="maps, sorted (%)", ylabel="least error",
        xlim=(0, 100), ylim=(0, 1.02),
    )  # fmt: skip
    axes.grid(alpha=0.3)


def _colour(number: int) -> tuple[float, ...]:
    return tuple(level / 255 for level in class_colour(number))


def _tile(
    axes: Any,
    values: Tensor,
    column: float,
    row: float,
    label: str,
    colour: tuple[float, ...] | None = None,
    like: Tensor | None = None,
) -> None:
    """A map (H, W) in its place of a grid, a label above it and perhaps a frame; `like` is the map whose greys it has.

    Black and white are three deviations from the mean where the map goes beyond: one bright spot leaves the rest seen.
    """
    height, width = (side / max(values.shape) for side in values.shape)
    left, top = column * (width + 0.08), row * (height + 0.2)
    right, bottom = left + width, top + height
    scale = values if like is None else like
    mean, far = scale.mean(), 3 * scale.std()
    black, white = float(torch.maximum(scale.min(), mean - far)), float(torch.minimum(scale.max(), mean + far))
    axes.imshow(values.numpy(), cmap="gray", vmin=black, vmax=white, extent=(left, right, bottom, top))
    axes.text(left, top - 0.03, label, va="bottom", fontsize="medium")
    if colour is not None:
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, lw=3)


def _close_grid(axes: Any, title: str) -> None:
    """Limits around all tiles, each of which had set its own, and a title above the labels of the first row."""
    axes.autoscale()
    axes.margins(0.01)
    axes.axis("off")
    axes.set_title(title, pad=20)
