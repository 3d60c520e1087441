"""Ways to choose channels side by side, at the same cost and after the same training: table and picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.figure import new_figure, save_figure
from utils.pruning.cost import Standing
from utils.pruning.importance import Criterion
from utils.pruning.reference import Reference

Method = Criterion | Reference


@dataclass(frozen=True)
class PruningBenchmark:
    """Prune a network to the same FLOPs in several ways, train each result alike, and measure all."""

    weights: str
    """The trained network's weights, .weights or .pt; a bare name is found in weights/."""
    data: str
    """Data set, a Darknet .data or a .yaml, to train and to measure on."""
    cfg: str | None = None
    """Network (default: the one inside the .pt)."""
    t_weights: str | None = None
    """Teacher of the trainings (default: the network itself); AP is compared with its."""
    t_cfg: str | None = None
    """The teacher's network (default: the one inside its .pt)."""
    methods: tuple[Method, ...] = ("taylor", "gamma", "random", "torch-pruning")
    """Ways to judge channels: those of prune.py --importance, and those of the package Torch-Pruning."""
    target_flops: tuple[str, ...] = ("0.5", "0.3", "0.15")
    """FLOPs that are left, each a share such as 0.3 or an amount such as 1.5G."""
    finetune_epochs: int = 30
    """Epochs of each training."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    batch_size: int = 16
    """Images per step."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of --methods random, and of the trainings."""
    name: str = "exp"
    """Results go to PROJECT/NAME (NAME-2 ... where it exists)."""
    project: str = "runs/benchmark"
    """Folder of the results' folder."""


@dataclass(frozen=True)
class Compared:
    """A network pruned by `method`: AP before any training, and what it is after its training."""

    method: str
    untrained_ap: float
    standing: Standing


def comparison_table(whole: Standing, rows: Sequence[Compared]) -> str:
    """The whole network, then a line for each; what is left of it in percent, how much faster, AP gained or lost."""
    lines = [
        f"{'':20} {'parameters':>12} {'left':>7} {'GFLOPs':>7} {'left':>7} {'ms':>6} {'faster':>6} "
        f"{'untrained':>9} {'AP@.5':>6} {'AP@.5:.95':>9} {'change':>7}"
    ]
    for row in (Compared("whole", whole.ap or 0, whole), *rows):
        now = row.standing
        ap50, ap = now.ap50 or 0, now.ap or 0
        parameters, flops = now.parameters / whole.parameters, now.gflops / whole.gflops
        faster = (whole.milliseconds or 0) / (now.milliseconds or 1)
        lines.append(
            f"{row.method:20} {now.parameters:12,} {parameters:7.1%} {now.gflops:7.3f} {flops:7.1%} "
            f"{now.milliseconds or 0:6.1f} {faster:6.2f} {row.untrained_ap:9.3f} {ap50:6.3f} {ap:9.3f} "
            f"{ap - (whole.ap or 0):+7.3f}"
        )
    return "\n".join(lines)


def draw_comparison(path: Path, whole: Standing, rows: Sequence[Compared], title: str) -> None:
    """AP over FLOPs and over milliseconds, a line for each method; dashed: AP of the whole network."""
    figure, axes = new_figure((11, 4.5), 1, 2)
    for panel, words, value in (
        (axes[0], "GFLOPs", lambda now: now.gflops),
        (axes[1], "milliseconds an image", lambda now: now.milliseconds or 0),
    ):
        for method in dict.fromkeys(row.method for row in rows):
            points = sorted((value(row.standing), row.standing.ap or 0) for row in rows if row.method == method)
            panel.plot(*zip(*points, strict=True), marker="o", markersize=5, label=method)
        panel.plot(value(whole), whole.ap or 0, "k*", markersize=13, label="whole")
        panel.axhline(whole.ap or 0, color="grey", linestyle="--", linewidth=1)
        panel.set(xlabel=words, ylabel="AP@.5:.95", xlim=(0, 1.08 * value(whole)))
        panel.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    save_figure(figure, path)
