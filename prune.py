"""Prune a detector: `python prune.py --weights runs/train/exp/best.pt --data my.data --percent 0.5`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from models import Darknet, load_model, save_weights
from train import train
from utils.errors import InputError
from utils.files import check_writable, new_run_folder, write_text
from utils.log import counted, say, warn
from utils.options import check_drop, run_command
from utils.pruning.cost import Standing
from utils.pruning.measuring import standings
from utils.pruning.options import PruneOptions
from utils.pruning.report import (
    REPORT,
    SweepPoint,
    before_and_after,
    draw_layers,
    draw_sweep,
    find_knee,
    kept_words,
    layer_channels,
    layer_notes,
    sweep_table,
)
from utils.training.autoprune import (
    Candidate,
    Search,
    Tools,
    candidate_table,
    draw_pareto,
    recommended,
    timed,
)
from utils.training.pruner import TOLERANCE, Pruning
from utils.training.recovery import begin, recovery, reopen, resumable, train_or_go_on

RUNS = "runs/prune"
AUTO_EPOCHS = 30  # of a training, unless given
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of a dry run


@dataclass(frozen=True)
class PruneResult:
    """Where the pruned network was written, what it was and is."""

    folder: Path
    before: Standing
    after: Standing


# ---- What the command does -----------------------------------------------------------------------------------------


def start(options: PruneOptions, floors: Sequence[int] | None = None) -> Pruning:
    """A network to be pruned. Raises InputError for bad input, and where results cannot be written."""
    check_writable(RUNS)
    return Pruning(options, load_model, Darknet, floors)


def prune(options: PruneOptions) -> PruneResult:
    """Remove channels, and train in between and afterwards where that is asked for.

    Raises InputError for bad input, and for a target that cannot be reached; nothing has been written then.
    """
    return prune_in_steps(options) if options.finetune_epochs else prune_once(options)


def prune_once(options: PruneOptions, folder: Path | None = None) -> PruneResult:
    """Remove channels; the smaller network goes into `folder` (default: a new one)."""
    pruning = start(options)
    keep = pruning.keep(pruning.target())
    if folder is not None:
        return write_pruned(pruning, keep, folder)
    if keep.all() and not pruning.gone:
        raise InputError("nothing would be removed: expected a greater --percent, or less strict rules")
    result = write_pruned(pruning, keep)
    goal, reached = options.target_latency_ms, result.after.milliseconds
    if goal is not None and reached is not None and reached > 1.1 * goal:
        warn(f"--target-latency-ms {goal:g}: met while choosing, {reached:.1f} ms in the table: this machine is busy")
    data = options.data or "DATA.data"
    given = {"t-weights": options.weights, "t-cfg": options.cfg, "data": data, "img-size": options.img_size}
    flags = "".join(f" --{flag} {value}" for flag, value in given.items() if value is not None)
    say(f"train on with: python train.py --weights {result.folder / 'pruned.pt'}{flags}")
    return result


def write_pruned(pruning: Pruning, keep: np.ndarray, folder: Path | None = None) -> PruneResult:
    """Remove all groups but `keep`, (groups,) bool; prove it, measure it, write it (default: a new folder), tell it."""
    options = pruning.options
    compact, difference, folded = pruning.proof(keep)
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the pruned network differs from the masked one by {difference:.1e}: a fault of prune.py")
    before, after = standings([pruning.original, compact], pruning.size, pruning.clock, pruning.precision)
    rows = layer_channels(pruning.choice, pruning.model, keep)
    notes = layer_notes(rows)
    folder = folder or new_run_folder(RUNS, options.name)
    title = f"{Path(options.weights).name} pruned: {counted(len(notes), 'layer')} with fewer channels"
    write_network(compact, folder, title, notes)
    draw_layers(folder / "channels.png", rows, f"{Path(options.weights).name}: channels of each layer")
    facts = {
        "options": asdict(options) | {"importance": pruning.criterion},
        "before": asdict(before),
        "after": asdict(after),
        "share_of_removable_channels": pruning.choice.share(keep),
        "removed_layers": pruning.gone,
        "difference_from_masked": difference,
        "difference_after_folding": folded,
        "layers": [asdict(row) for row in rows],
    }
    write_text(folder / REPORT, json.dumps(facts, indent=2) + "\n")
    for words in pruning.gone:
        say(f"removed: {words}")
    if kept := kept_words(rows):
        say(kept)
    say(before_and_after(before, after, clock_words(pruning)))
    say(
        f"proof: on {counted(len(pruning.images), 'image')} the heads equal the masked network's to {difference:.1e} "
        f"of their maximum;\nthen constants of removed channels were put into the next layers, exact to {folded:.1e} "
        "(not at the borders of maps)"
    )
    say(
        f"{pruning.choice.share(keep):.1%} of the removable channels removed; in {folder}: pruned.cfg, pruned.weights, "
        f"pruned.pt, {REPORT}, channels.png"
    )
    return PruneResult(folder, before, after)


def clock_words(pruning: Pruning) -> str:
    """What the milliseconds are of."""
    runtime, size = pruning.options.runtime, f"{pruning.size[0]}x{pruning.size[1]}"
    return f"{pruning.device.type}, float32, {size}" if runtime == "pytorch" else f"{runtime}, {size}"


def write_network(compact: Darknet, folder: Path, comment: str, notes: dict[int, str] | None = None) -> None:
    """pruned.cfg, with notes on its layers, pruned.weights, pruned.pt and the class names."""
    write_text(folder / "pruned.cfg", compact.graph.to_cfg(comment, notes))
    write_text(folder / "pruned.names", "\n".join(compact.names) + "\n")
    save_weights(compact, folder / "pruned.weights")
    save_weights(compact, folder / "pruned.pt")


def prune_in_steps(options: PruneOptions, folder: Path | None = None) -> PruneResult:
    """Prune a part of the way, train with the network as it was given as teacher, go on from there, to the end.

    `folder`: go on with what is in it.
    """
    whole = start(options)
    steps, target = options.iterations, whole.target()
    keep = whole.keep(target, 1, steps)  # bad input is an error before the folder is made
    if folder is None:
        assert whole.spec is not None
        options, folder = begin(options, whole.spec, RUNS)
    best, number = options.weights, 0
    with resumable(folder, lambda: f"step {number} of {steps}"):
        for number in range(1, steps + 1):
            say(f"step {number} of {steps}")
            step = folder / f"step{number}"
            step.mkdir(exist_ok=True)
            if not (step / REPORT).exists():
                pruning = whole
                if number > 1:
                    pruning = start(replace(options, weights=best, cfg=None, layers=0), whole.choice.floors)
                    keep = pruning.keep(target, number, steps)
                write_pruned(pruning, keep, step)
            best = str(train_or_go_on(recovery(options, step), train) / "best.pt")
    final = load_model(weights=best, device=whole.device)
    before, after = standings([whole.original, final], whole.size, whole.clock, whole.precision)
    facts = {"options": asdict(options), "before": asdict(before), "after": asdict(after)}
    write_text(folder / REPORT, json.dumps(facts, indent=2) + "\n")
    write_network(final, folder, f"{Path(options.weights).name} pruned and trained")
    say(before_and_after(before, after, clock_words(whole)))
    say(f"pruned and trained in {counted(steps, 'step')}; in {folder}: pruned.cfg, pruned.weights, pruned.pt, {REPORT}")
    return PruneResult(folder, before, after)


def sweep(pruning: Pruning) -> list[SweepPoint]:
    """What many shares would leave of the network."""
    choice = pruning.choice
    keeps = [choice.keep(0), *map(choice.of_share, SHARES)]
    models = [pruning.original, *(pruning.without(keep) for keep in keeps[1:])]
    found = standings(models, pruning.size, pruning.clock, pruning.precision)
    return [SweepPoint(*each) for each in zip((0.0, *SHARES), map(choice.share, keeps), found, strict=True)]


def dry_run(options: PruneOptions) -> list[SweepPoint]:
    """The sweep told: a table, sweep.json and sweep.png."""
    pruning = start(options)
    points = sweep(pruning)
    knee = find_knee(points)
    folder = new_run_folder(RUNS, options.name)
    write_text(folder / "sweep.json", json.dumps([asdict(point) for point in points], indent=2) + "\n")
    title = f"{Path(options.weights).name}, --strategy {options.strategy} --importance {pruning.criterion}"
    draw_sweep(folder / "sweep.png", points, knee, title)
    say(sweep_table(points, knee))
    if points[-1].share < SHARES[-1]:
        say(f"no more than {points[-1].share:.0%} can go: all that {pruning.rules} allow")
    say(
        (f"* the knee: beyond {knee.share:.0%} AP falls faster; " if knee else "")
        + f"AP without any training afterwards; ms: one image, {clock_words(pruning)}; "
        f"no network was written; in {folder}: sweep.json, sweep.png"
    )
    return points


def auto(options: PruneOptions, folder: Path | None = None) -> list[Candidate]:
    """Pruning and recovery in turns while AP holds; `folder`: go on with what is in it."""
    whole, standing = start(options), None
    if folder is None:
        assert whole.spec is not None
        standing = standings([whole.original], whole.size, whole.clock, whole.precision)[0]
        check_drop(options.max_map_drop, standing.ap or 0.0, options.weights)
        options = replace(options, finetune_epochs=options.finetune_epochs or AUTO_EPOCHS)
        options, folder = begin(options, whole.spec, RUNS)

    def network(weights: str) -> Darknet:
        return load_model(options.cfg if weights == options.weights else None, weights, device=whole.device)

    def measure(weights: str) -> Standing:
        return standings([network(weights)], whole.size, whole.clock, whole.precision)[0]

    search = Search(options, folder.resolve(), Tools(train, prune_once, lambda here: sweep(start(here)), measure))
    with resumable(folder, lambda: search.place):
        found = search.run(standing)
    found = timed(found, whole.clock([network(each.weights) for each in found]))
    best, title = recommended(found), f"{Path(options.weights).name}: at least {search.least:.3f} wanted"
    draw_pareto(folder / "pareto.png", found, search.least, title)
    write_network(network(best.weights), folder, f"{Path(options.weights).name} pruned and trained: {best.name}")
    say(candidate_table(found))
    say(f"* recommended: {best.name}; in {folder}: pruned.cfg, pruned.weights, pruned.pt, auto.json, pareto.png")
    return found


def resume(given: PruneOptions) -> PruneResult | list[Candidate]:
    """Go on with what was stopped in the folder `given.resume`."""
    options, folder = reopen(given)
    return auto(options, folder) if options.auto else prune_in_steps(options, folder)


def main(options: PruneOptions) -> None:
    """Prune, or look at what pruning would leave."""
    if options.resume is not None:
        resume(options)
    elif options.auto:
        auto(options)
    elif options.dry_run:
        dry_run(options)
    else:
        prune(options)


if __name__ == "__main__":
    run_command(main, PruneOptions, "Prune a detector: fewer channels, the same cfg and weights formats.")
