"""Anchors fitted to a data set's boxes: k-means on their sides, then small random changes that measure better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.network.graph import Graph
from utils.training.assign import MAX_RATIO

GENERATIONS = 1000
KMEANS_STEPS = 300


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit: best possible recall (the share of boxes that some anchor can answer for, its sides within
    a factor of 4), and the mean, over boxes, of the better anchor's worse side ratio (1: all fit exactly).
    """

    recall: float
    fit: float

    def __str__(self) -> str:
        return f"best possible recall {self.recall:.4f}, mean fit {self.fit:.3f}"


def measure_anchors(sides: np.ndarray, anchors: np.ndarray) -> AnchorFit:
    """Boxes (N, 2) against anchors (A, 2), both in pixels."""
    best = _closeness(sides, anchors).max(axis=1)
    return AnchorFit(float((best > 1 / MAX_RATIO).mean()), float(best.mean()))


def _closeness(sides: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(N, A): the worse side's ratio, 0..1."""
    ratio = sides[:, None] / anchors[None]
    return np.minimum(ratio, 1 / ratio).min(axis=2)


def fit_anchors(sides: np.ndarray, count: int, start: np.ndarray, seed: int = 0) -> np.ndarray:
    """`count` anchors (count, 2) for boxes (N, 2), by area; `start` ones are kept where nothing fits better."""
    rng = np.random.default_rng(seed)
    candidates = [start]
    if len(np.unique(sides, axis=0)) >= count:
        candidates.append(_kmeans(sides, count, rng))
    best = max(candidates, key=lambda anchors: _fitness(sides, anchors))
    best_fitness = _fitness(sides, best)
    for _ in range(GENERATIONS):
        change = np.where(rng.random(best.shape) < 0.9, rng.normal(1, 0.1, best.shape), 1).clip(0.3, 3)
        changed = (best * change).clip(min=2)
        fitness = _fitness(sides, changed)
        if fitness > best_fitness:
            best, best_fitness = changed, fitness
    return best[best.prod(axis=1).argsort()]


def _fitness(sides: np.ndarray, anchors: np.ndarray) -> float:
    """Mean closeness of the best anchor, of those boxes that it can answer for."""
    best = _closeness(sides, anchors).max(axis=1)
    return float((best * (best > 1 / MAX_RATIO)).mean())


def _kmeans(sides: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's algorithm on logarithms of the sides, begun at spread-out boxes (k-means++)."""
    points = np.log(sides)
    centres = points[rng.integers(len(points))][None]
    while len(centres) < count:
        distance = ((points[:, None] - centres) ** 2).sum(axis=2).min(axis=1)
        chosen = rng.choice(len(points), p=distance / distance.sum())
        centres = np.concatenate((centres, points[chosen][None]))
    for _ in range(KMEANS_STEPS):
        nearest = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        moved = np.stack(
            [points[nearest == i].mean(axis=0) if (nearest == i).any() else centres[i] for i in range(count)]
        )
        if np.allclose(moved, centres):
            break
        centres = moved
    return np.exp(centres)


def all_anchors(graph: Graph) -> np.ndarray:
    """(A, 2) the anchors that the heads use, in pixels, head by head."""
    return np.concatenate([np.array(head.options.head_anchors) for head in graph.heads()])


def with_anchors(graph: Graph, strides: Sequence[float | tuple[float, ...]], anchors: np.ndarray) -> Graph:
    """The graph with new anchors (A, 2, by area): the smallest to the head of the smallest stride, and so on."""
    heads = graph.heads()
    counts = [len(head.options.head_anchors) for head in heads]
    order = np.argsort([float(np.max(stride)) for stride in strides], kind="stable")
    flat = tuple(float(f"{value:.1f}") for value in anchors.reshape(-1))
    changes, first = {}, 0
    for place in order:
        mask = tuple(range(first, first + counts[place]))
        first += counts[place]
        changes[heads[place].index] = {"anchors": flat, "mask": mask, "num": len(anchors)}
    return graph.with_options(changes)
