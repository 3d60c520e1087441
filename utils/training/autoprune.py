"""The whole way by itself: sparsity training, then pruning and recovery in turns for as long as AP holds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from utils.figure import new_figure, save_figure
from utils.files import write_text
from utils.log import say
from utils.pruning.cost import Standing
from utils.pruning.options import PruneOptions
from utils.pruning.report import SweepPoint
from utils.training.recovery import PruneOnce, Train, recovery, sparse_training, train_or_go_on

STATE = "auto.json"
LEAST_SHARE = 0.05  # a round that would remove less is not worth its training
HALF_LEFT = 0.5  # of AP, before recovery: what a round may cost at most


@dataclass(frozen=True)
class Candidate:
    """A network on the way: `share` of the removable channels went in its round; `accepted`: AP is high enough."""

    name: str
    weights: str
    share: float
    standing: Standing
    accepted: bool


@dataclass(frozen=True)
class Tools:
    """What the search has done for it: prune.py's and train.py's functions."""

    train: Train
    prune: PruneOnce
    sweep: Callable[[PruneOptions], list[SweepPoint]]
    measure: Callable[[PruneOptions], Standing]


def search(options: PruneOptions, folder: Path, tools: Tools) -> list[Candidate]:
    """All networks on the way, the whole one first.

    What is done is kept in `folder`: called again after it was stopped, it goes on there.
    """
    done = read_state(folder)
    if not done:
        whole = tools.measure(options)
        done = [Candidate("whole", options.weights, 0.0, whole, True)]
        write_state(folder, done)
    least = (done[0].standing.ap or 0.0) - options.max_map_drop
    if len(done) == 1:
        say(f"sparsity training, {options.sparsity_epochs} epochs")
        trained = train_or_go_on(sparse_training(options, folder / "sparse"), tools.train)
        add(folder, done, "sparse", str(trained / "best.pt"), 0.0, options, least, tools)
    while len(done) < 2 + options.rounds:
        current = [each for each in done if each.accepted or each.name == "sparse"][-1]
        here = replace(options, weights=current.weights, cfg=None, auto=False)
        rejected = done[-1] if not done[-1].accepted and done[-1].name != "sparse" else None
        share = rejected.share / 2 if rejected else fitting_share(tools.sweep(here))
        if share < LEAST_SHARE:
            break
        number = len(done) - 1
        say(f"round {number} of at most {options.rounds}: {share:.0%} of the channels that {current.name} has")
        step = folder / f"round{number}"
        step.mkdir(exist_ok=True)
        if not (step / "report.json").exists():
            tools.prune(replace(here, percent=share), step)
        trained = train_or_go_on(recovery(options, step), tools.train)
        add(folder, done, f"round{number}", str(trained / "best.pt"), share, options, least, tools)
    return done


def add(
    folder: Path,
    done: list[Candidate],
    name: str,
    weights: str,
    share: float,
    options: PruneOptions,
    least: float,
    tools: Tools,
) -> None:
    """Measure a network, and remember it."""
    standing = tools.measure(replace(options, weights=weights, cfg=None))
    done.append(Candidate(name, weights, share, standing, (standing.ap or 0.0) >= least))
    say(f"{name}: AP@.5:.95 {standing.ap:.3f}, {'at least' if done[-1].accepted else 'below'} the {least:.3f} wanted")
    write_state(folder, done)


def fitting_share(points: Sequence[SweepPoint]) -> float:
    """The greatest share of a sweep that leaves half of the AP, before recovery; the smallest where none does."""
    enough = (points[0].standing.ap or 0.0) * HALF_LEFT
    return max((point.asked for point in points[1:] if (point.standing.ap or 0.0) >= enough), default=points[1].asked)


def recommended(candidates: Sequence[Candidate]) -> Candidate:
    """The accepted one that takes the least time."""
    return min((each for each in candidates if each.accepted), key=lambda each: each.standing.milliseconds or 0.0)


def read_state(folder: Path) -> list[Candidate]:
    """What was done before."""
    file = folder / STATE
    rows = json.loads(file.read_text()) if file.exists() else []
    return [Candidate(**{**row, "standing": Standing(**row["standing"])}) for row in rows]


def write_state(folder: Path, done: Sequence[Candidate]) -> None:
    """Remember it."""
    write_text(folder / STATE, json.dumps([asdict(each) for each in done], indent=2) + "\n")


def candidate_table(candidates: Sequence[Candidate]) -> str:
    """A line for each; a star at the recommended one."""
    best = recommended(candidates)
    lines = [f"{'':8} {'removed':>8} {'parameters':>12} {'GFLOPs':>8} {'ms':>8} {'AP@.5':>7} {'AP@.5:.95':>9}"]
    for each in candidates:
        now = each.standing
        mark = " *" if each is best else "" if each.accepted else " (too low)"
        lines.append(
            f"{each.name:8} {each.share:8.0%} {now.parameters:12,} {now.gflops:8.3f} {now.milliseconds or 0:8.1f} "
            f"{now.ap50 or 0:7.3f} {now.ap or 0:9.3f}{mark}"
        )
    return "\n".join(lines)


def draw_pareto(path: Path, candidates: Sequence[Candidate], least: float, title: str) -> None:
    """AP over milliseconds and over parameters; hollow: AP below what is wanted; a star: the recommended one."""
    figure, axes = new_figure((11, 4.5), 1, 2)
    best = recommended(candidates)
    for panel, words, value in (
        (axes[0], "milliseconds an image", lambda now: now.milliseconds or 0),
        (axes[1], "million parameters", lambda now: now.parameters / 1e6),
    ):
        for each in candidates:
            x, y = value(each.standing), each.standing.ap or 0
            panel.plot(
                x,
                y,
                marker="*" if each is best else "o",
                markersize=15 if each is best else 7,
                color="#1f77b4",
                markerfacecolor="#1f77b4" if each.accepted else "none",
                linestyle="none",
            )
            panel.annotate(each.name, (x, y), textcoords="offset points", xytext=(6, 6), fontsize=8)
        panel.axhline(least, color="grey", linestyle="--", linewidth=1)
        panel.set(xlabel=words, ylabel="AP@.5:.95", xlim=(0, 1.2 * max(value(each.standing) for each in candidates)))
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)
