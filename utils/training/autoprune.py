"""The whole way by itself: pruning and recovery in turns for as long as AP holds."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from utils.figure import new_figure, save_figure
from utils.files import write_text
from utils.log import say
from utils.pruning.cost import Standing
from utils.pruning.options import PruneOptions
from utils.pruning.report import REPORT, SweepPoint
from utils.training.recovery import PruneOnce, Train, recovery, train_or_go_on

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
    """What the search has done for it: prune.py's and train.py's functions; `measure` takes a file of weights."""

    train: Train
    prune: PruneOnce
    sweep: Callable[[PruneOptions], list[SweepPoint]]
    measure: Callable[[str], Standing]


class Search:
    """All networks on the way, the whole one first, in `done`.

    What is done is kept in `folder`: where there is a part of it already, the search goes on there.
    """

    def __init__(self, options: PruneOptions, folder: Path, tools: Tools) -> None:
        self.options, self.folder, self.tools = options, folder, tools
        file = folder / STATE
        rows = json.loads(file.read_text()) if file.exists() else []
        self.done = [Candidate(**{**row, "standing": Standing(**row["standing"])}) for row in rows]

    @property
    def least(self) -> float:
        """The AP that a network needs."""
        return (self.done[0].standing.ap or 0.0) - self.options.max_map_drop

    @property
    def rounds(self) -> list[Candidate]:
        """What came of pruning."""
        return [each for each in self.done if each.name.startswith("round")]

    @property
    def place(self) -> str:
        """What is being done, in words."""
        return f"round {len(self.rounds) + 1}"

    def run(self, whole: Standing | None = None) -> list[Candidate]:
        """To the end; `whole`: the network to begin with, where it has been measured."""
        if not self.done:
            whole = whole or self.tools.measure(self.options.weights)
            self.add(Candidate("whole", self.options.weights, 0.0, whole, True))
        while len(self.rounds) < self.options.rounds and self.one_round():
            pass
        return self.done

    def one_round(self) -> bool:
        """Prune the last network that was good enough, and train; False where no more can go."""
        current, last = [each for each in self.done if each.accepted][-1], self.done[-1]
        cfg = self.options.cfg if current is self.done[0] else None
        here = replace(self.options.alone, weights=current.weights, cfg=cfg)
        rejected = self.rounds and not last.accepted
        share = last.share / 2 if rejected else fitting_share(self.tools.sweep(here))
        if share < LEAST_SHARE:
            return False
        name = f"round{len(self.rounds) + 1}"
        say(f"{name} of at most {self.options.rounds}: {share:.0%} of the channels that {current.name} has")
        step = self.folder / name
        step.mkdir(exist_ok=True)
        if not (step / REPORT).exists():
            self.tools.prune(replace(here, percent=share), step)
        share = json.loads((step / REPORT).read_text())["share_of_removable_channels"]
        if share < LEAST_SHARE:  # other rules stopped it
            return False
        self.judge(name, train_or_go_on(recovery(self.options, step), self.tools.train), share)
        return True

    def judge(self, name: str, trained: Path, share: float) -> None:
        """Measure the best network of a training."""
        weights = str(trained / "best.pt")
        standing = self.tools.measure(weights)
        accepted = (standing.ap or 0.0) >= self.least
        say(f"{name}: AP@.5:.95 {standing.ap:.3f}, {'at least' if accepted else 'below'} the {self.least:.3f} wanted")
        self.add(Candidate(name, weights, share, standing, accepted))

    def add(self, candidate: Candidate) -> None:
        """Remember it."""
        self.done.append(candidate)
        write_text(self.folder / STATE, json.dumps([asdict(each) for each in self.done], indent=2) + "\n")


def fitting_share(points: Sequence[SweepPoint]) -> float:
    """The greatest share of a sweep that leaves half of the AP, before recovery; the smallest where none does."""
    enough = (points[0].standing.ap or 0.0) * HALF_LEFT
    return max((point.share for point in points[1:] if (point.standing.ap or 0.0) >= enough), default=points[1].share)


def recommended(candidates: Sequence[Candidate]) -> Candidate:
    """The accepted one that takes the least time."""
    chosen = [each for each in candidates if each.accepted]
    return min(chosen, key=lambda each: each.standing.milliseconds or 0.0)


def timed(candidates: Sequence[Candidate], milliseconds: Sequence[float]) -> list[Candidate]:
    """The candidates with times that were measured in turns, so that they can be compared."""
    return [
        replace(each, standing=replace(each.standing, milliseconds=time))
        for each, time in zip(candidates, milliseconds, strict=True)
    ]


def candidate_table(candidates: Sequence[Candidate]) -> str:
    """A line for each; a star at the recommended one."""
    best = recommended(candidates)
    whole = candidates[0].standing.parameters
    lines = [f"{'':8} {'left':>8} {'parameters':>12} {'GFLOPs':>8} {'ms':>8} {'AP@.5':>7} {'AP@.5:.95':>9}"]
    for each in candidates:
        now = each.standing
        mark = " *" if each is best else "" if each.accepted else " (too low)"
        lines.append(
            f"{each.name:8} {now.parameters / whole:8.1%} {now.parameters:12,} {now.gflops:8.3f} "
            f"{now.milliseconds or 0:8.1f} {now.ap50 or 0:7.3f} {now.ap or 0:9.3f}{mark}"
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
        for number, each in enumerate(candidates):
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
            panel.annotate(
                each.name, (x, y), textcoords="offset points", xytext=(6, -12 if number % 2 else 6), fontsize=8
            )
        panel.axhline(least, color="grey", linestyle="--", linewidth=1)
        panel.set(xlabel=words, ylabel="AP@.5:.95", xlim=(0, 1.2 * max(value(each.standing) for each in candidates)))
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)
