"""Prune a detector: `python prune.py --weights runs/train/exp/best.pt --data my.data --percent 0.5`."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from models import Darknet, load_model, save_weights
from train import head_specs, train
from utils.data.augment import Augmentation
from utils.data.cache import Pictures
from utils.data.datafile import DataSpec, load_data
from utils.data.dataset import TrainingSet, make_training_loader
from utils.data.labels import Sample, load_samples, report
from utils.data.sampler import StepSampler
from utils.errors import DataError, InputError, Stopped
from utils.evaluation.evaluate import EvaluationSettings
from utils.files import find_file, new_run_folder, write_text
from utils.log import counted, say
from utils.options import choose_device, parse_size, run_command
from utils.pruning.apply import all_heads, constant, fold_constants, head_difference, masked, prune_channels
from utils.pruning.cost import Costs, Standing, parse_target
from utils.pruning.groups import ChannelGroups
from utils.pruning.importance import Changes, group_scores, loss_changes
from utils.pruning.layers import remove_layers
from utils.pruning.measuring import precision_of, proof_images, some_shapes, standings, torch_clock
from utils.pruning.options import PruneOptions, check_options
from utils.pruning.plan import Choice, Limits
from utils.pruning.report import (
    LayerChannels,
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
from utils.training.autoprune import Candidate, Tools, candidate_table, draw_pareto, recommended, search
from utils.training.loss import DetectionLoss
from utils.training.recovery import in_steps

RUNS = "runs/prune"
SEARCH = "options.json"
TOLERANCE = 1e-4  # of the greatest value of a head: more than rounding
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of a dry run
QUICK_ROUNDS = 5  # of timing, on the way to a target
TAYLOR_IMAGES = 256


@dataclass(frozen=True)
class PruneResult:
    """Where the pruned network was written, what it was and is, and each layer's channels."""

    folder: Path
    before: Standing
    after: Standing
    layers: list[LayerChannels]


@dataclass(frozen=True)
class Target:
    """An option that says how little of the network is to be left: `amount` of (groups,) bool has to come to `goal`."""

    option: str
    goal: float
    words: str
    amount: Callable[[np.ndarray], float]


class Pruning:
    """A network with all that is needed to choose among its channels. Raises InputError for bad input."""

    def __init__(self, options: PruneOptions) -> None:
        check_options(options)
        self.options = options
        self.device = choose_device(options.device)
        self.model = load_model(options.cfg, options.weights, device=self.device)
        net = self.model.graph.net
        self.size = parse_size(options.img_size) or (net.width, net.height)
        self.model.check_size(*self.size)
        self.spec = None if options.data is None else read_spec(options, self.model)
        self.settings = EvaluationSettings(self.size, batch_size=options.batch_size, workers=options.workers)
        samples = [] if self.spec is None else read_samples(self.spec, self.spec.valid)
        self.precision = precision_of(samples, self.settings) if samples else None
        self.clock = torch_clock(self.size, self.device)
        self.images = proof_images(samples or some_shapes(), self.size, self.device)
        self.original = self.model
        self.model, self.gone = remove_layers(self.model, options.layers, Darknet)
        self.choose()

    def choose(self) -> None:
        """Judge the channels of what is left of the network."""
        options = self.options
        groups = ChannelGroups.of(self.model)
        changes = self.loss_changes(groups) if options.importance == "taylor" else None
        scores = group_scores(groups, options.importance, options.strategy == "slim", options.seed, changes)
        self.choice = Choice(groups, scores, options.strategy, Limits(options.min_keep, options.round_to))
        self.costs = Costs(self.model, groups, self.size)
        if not len(self.choice.order):
            raise InputError(f"{options.weights}: nothing can be pruned: {nothing_words(options)}")

    def loss_changes(self, groups: ChannelGroups) -> Changes:
        """What the Taylor criterion needs, from training images."""
        assert self.spec is not None
        samples = read_samples(self.spec, self.spec.train[:TAYLOR_IMAGES])
        dataset = TrainingSet(Pictures(samples, self.size), Augmentation(mosaic=0), self.options.seed)
        sampler = StepSampler(len(samples), self.options.batch_size, self.size, self.options.seed)
        loader = make_training_loader(dataset, sampler, self.options.workers)
        return loss_changes(groups, self.model, DetectionLoss(head_specs(self.model)), loader)

    # ---- Which channels --------------------------------------------------------------------------------------------

    def target(self) -> Target | None:
        """What is to be reached; None where a share of the channels is to go."""
        options, costs = self.options, self.costs
        if options.target_flops is not None:
            now = 1e9 * costs.gflops(self.choice.keep(0))
            goal = parse_target(options.target_flops, now, "--target-flops")
            return Target("target_flops", goal, "{:,.0f} FLOPs", lambda keep: 1e9 * costs.gflops(keep))
        if options.target_params is not None:
            goal = parse_target(options.target_params, costs.parameters(self.choice.keep(0)), "--target-params")
            return Target("target_params", goal, "{:,.0f} parameters", costs.parameters)
        if options.target_latency_ms is not None:
            clock = torch_clock(self.size, self.device, QUICK_ROUNDS)
            return Target(
                "target_latency_ms", options.target_latency_ms, "{:.1f} ms", lambda keep: clock([self.without(keep)])[0]
            )
        return None

    def keep(self) -> np.ndarray:
        """(groups,) bool: what stays. Says where a share cannot be reached; raises InputError where a target cannot."""
        options, choice, target = self.options, self.choice, self.target()
        rules = f"--strategy {options.strategy}, --min-keep {options.min_keep:g} and --round-to {options.round_to}"
        if target is None:
            keep = choice.of_share(options.share)
            if (share := choice.share(keep)) < options.share:
                say(f"--percent {options.share:g}: stopped at {share:.3f}, all that {rules} allow")
            return keep
        keep = choice.least(lambda keep: target.amount(keep) <= target.goal)
        if (least := target.amount(keep)) > target.goal:
            flag = "--" + target.option.replace("_", "-")
            got, best = (target.words.format(amount) for amount in (target.goal, least))
            raise InputError(f"{flag}: expected what {rules} can reach, at least {best}; got {got}")
        return keep

    def without(self, keep: np.ndarray) -> Darknet:
        """The smaller network, what removed channels contributed folded in."""
        labels = self.choice.groups.labels_kept(keep)
        compact = prune_channels(self.model, self.choice.groups.book, labels, Darknet)
        fold_constants(self.model, compact, self.choice.groups.book, labels, self.images)
        return compact

    def proof(self, keep: np.ndarray) -> tuple[float, float]:
        """The heads' greatest difference from the masked network's, before folding; and after it, from the network's
        in which removed channels are constants, which padding makes inexact.
        """
        book, labels = self.choice.groups.book, self.choice.groups.labels_kept(keep)
        difference = self.difference(labels, self.images)
        if difference > TOLERANCE:  # rounding, perhaps, in a network of great values
            self.model.double()
            difference = self.difference(labels, [image.double() for image in self.images])
            self.model.float()
        expected = all_heads(constant(self.model, book, labels), self.images)
        return difference, head_difference(expected, all_heads(self.without(keep), self.images))

    def difference(self, labels: np.ndarray, images: list[Tensor]) -> float:
        """The greatest between the heads of the masked network and of the smaller one."""
        book = self.choice.groups.book
        compact = prune_channels(self.model, book, labels, Darknet)
        with masked(book, labels):
            expected = all_heads(self.model, images)
        return head_difference(expected, all_heads(compact, images))


def nothing_words(options: PruneOptions) -> str:
    """Why no channel may go."""
    if options.importance == "gamma":
        return "expected layers with batch normalisation before the heads (or --importance l2)"
    return f"expected layers before the heads whose channels may go (--strategy {options.strategy})"


def read_spec(options: PruneOptions, model: Darknet) -> DataSpec:
    """The data set. Raises InputError unless it has the network's number of classes, and validation images."""
    spec = load_data(options.data or "")
    if spec.num_classes != model.num_classes:
        raise InputError(f"the network has {model.num_classes} classes, {options.data} has {spec.num_classes}")
    for images, key in ((spec.valid, "valid"), (spec.train, "train")):
        if not images and (key == "valid" or options.importance == "taylor"):
            raise DataError(f"{spec.path}: expected the key {key}, which prune.py needs")
    return spec


def read_samples(spec: DataSpec, images: tuple[Path, ...]) -> list[Sample]:
    """Labelled images; what is wrong with them is reported."""
    samples, problems = load_samples(images, spec.num_classes, "images")
    report(problems)
    return samples


# ---- What the command does -----------------------------------------------------------------------------------------


def prune(options: PruneOptions) -> PruneResult:
    """Remove channels, and train in between and afterwards where that is asked for.

    Raises InputError for bad input, and for a target that cannot be reached; where that is in the first step, nothing
    has been written.
    """
    check_options(options)
    return prune_in_steps(options) if options.finetune_epochs else prune_once(options)


def prune_once(options: PruneOptions, folder: Path | None = None, keep: np.ndarray | None = None) -> PruneResult:
    """Remove channels, or all groups but `keep`, (groups,) bool; prove it, measure it, write it to `folder`."""
    pruning = Pruning(options)
    keep = pruning.keep() if keep is None else keep
    difference, folded = pruning.proof(keep)
    if difference > TOLERANCE:
        raise RuntimeError(f"the pruned network differs from the masked one by {difference:.1e}: a fault of prune.py")
    compact = pruning.without(keep)
    before, after = standings([pruning.original, compact], pruning.size, pruning.clock, pruning.precision)
    rows = layer_channels(pruning.choice, pruning.model, keep)
    folder = folder or new_run_folder(RUNS, options.name)
    notes = layer_notes(rows)
    title = f"{Path(options.weights).name} pruned: {counted(len(notes), 'layer')} with fewer channels"
    write_network(compact, folder, title, notes)
    draw_layers(folder / "channels.png", rows, f"{Path(options.weights).name}: channels of each layer")
    facts = {
        "options": asdict(options),
        "before": asdict(before),
        "after": asdict(after),
        "share_of_removable_channels": pruning.choice.share(keep),
        "removed_layers": pruning.gone,
        "difference_from_masked": difference,
        "difference_after_folding": folded,
        "layers": [asdict(row) for row in rows],
    }
    write_text(folder / "report.json", json.dumps(facts, indent=2) + "\n")
    for words in pruning.gone:
        say(f"removed: {words}")
    if kept := kept_words(rows):
        say(kept)
    say(before_and_after(before, after, clock_words(pruning)))
    say(
        f"proof: heads on {counted(len(pruning.images), 'image')} equal the masked network's to {difference:.1e} of "
        f"their maximum; with what removed channels contributed folded in, to {folded:.1e} (inexact under padding)"
    )
    say(
        f"{pruning.choice.share(keep):.1%} of the removable channels removed; in {folder}: pruned.cfg, pruned.weights, "
        f"pruned.pt, report.json, channels.png; train on with: python train.py --weights {folder / 'pruned.pt'}"
    )
    return PruneResult(folder, before, after, rows)


def clock_words(pruning: Pruning) -> str:
    """What the milliseconds are of."""
    return f"{pruning.device.type}, float32, {pruning.size[0]}x{pruning.size[1]}"


def write_network(compact: Darknet, folder: Path, comment: str, notes: dict[int, str] | None = None) -> None:
    """pruned.cfg, with notes on its layers, pruned.weights, pruned.pt and the class names."""
    write_text(folder / "pruned.cfg", compact.graph.to_cfg(comment, notes))
    write_text(folder / "pruned.names", "\n".join(compact.names) + "\n")
    save_weights(compact, folder / "pruned.weights")
    save_weights(compact, folder / "pruned.pt")


def prune_in_steps(options: PruneOptions) -> PruneResult:
    """Prune a part of the way, train with the network as it was before as teacher, go on from there, to the end."""
    plan = stages(options)
    folder = new_run_folder(RUNS, options.name)
    results = in_steps(plan, folder, prune_once, train)
    (first, _), (last, trained) = results[0], results[-1]
    after = replace(last.after, ap50=trained.metrics.ap50, ap=trained.metrics.ap)
    write_network(
        load_model(weights=trained.folder / "best.pt"), folder, f"{Path(options.weights).name} pruned and trained"
    )
    facts = {"options": asdict(options), "before": asdict(first.before), "after": asdict(after)}
    write_text(folder / "report.json", json.dumps(facts, indent=2) + "\n")
    say(before_and_after(first.before, after, "as in each step"))
    say(
        f"pruned and trained in {counted(len(plan), 'step')}; in {folder}: "
        "pruned.cfg, pruned.weights, pruned.pt, report.json"
    )
    return PruneResult(folder, first.before, after, last.layers)


def stages(options: PruneOptions) -> list[PruneOptions]:
    """The options of each step: every one leaves the same share of what the one before has left."""
    count = options.iterations
    each = replace(options, min_keep=options.min_keep ** (1 / count) if options.min_keep else 0, iterations=1)
    pruning = Pruning(replace(options, layers=0))
    target = pruning.target()
    if target is None:
        steps: list[dict[str, Any]] = [{"percent": 1 - (1 - options.share) ** (1 / count)}] * count
    else:
        present = target.amount(pruning.choice.keep(0))
        amounts = [present * (target.goal / present) ** (number / count) for number in range(1, count + 1)]
        steps = [{target.option: amount if target.option == "target_latency_ms" else str(amount)} for amount in amounts]
    return [replace(each, layers=options.layers if number == 0 else 0, **step) for number, step in enumerate(steps)]


def sweep(options: PruneOptions) -> list[SweepPoint]:
    """What many shares would leave of the network."""
    pruning = Pruning(options)
    choice = pruning.choice
    keeps = [choice.keep(0), *map(choice.of_share, SHARES)]
    models = [pruning.original, *(pruning.without(keep) for keep in keeps[1:])]
    found = standings(models, pruning.size, pruning.clock, pruning.precision)
    return [SweepPoint(*each) for each in zip((0.0, *SHARES), map(choice.share, keeps), found, strict=True)]


def dry_run(options: PruneOptions) -> list[SweepPoint]:
    """The sweep told: a table, sweep.json and sweep.png."""
    points = sweep(options)
    knee = find_knee(points)
    folder = new_run_folder(RUNS, options.name)
    write_text(folder / "sweep.json", json.dumps([asdict(point) for point in points], indent=2) + "\n")
    title = f"{Path(options.weights).name}, --strategy {options.strategy} --importance {options.importance}"
    draw_sweep(folder / "sweep.png", points, knee, title)
    say(sweep_table(points, knee))
    say(
        (f"* the knee: beyond {knee.share:.0%} AP falls faster; " if knee else "")
        + "AP without any training afterwards; ms: one image in float32; "
        f"no network was written; in {folder}: sweep.json, sweep.png"
    )
    return points


def measure(options: PruneOptions) -> Standing:
    """A network as it is."""
    pruning = Pruning(options)
    return standings([pruning.original], pruning.size, pruning.clock, pruning.precision)[0]


def auto(options: PruneOptions) -> list[Candidate]:
    """Sparsity training, then pruning and recovery in turns while AP holds; or go on with a stopped search."""
    if options.resume is not None:
        folder, options = reopen(options.resume)
    else:
        check_options(options)
        options = found_anywhere(options, Pruning(options))  # bad input is an error before the folder is made
        folder = new_run_folder(RUNS, options.name)
        write_text(folder / SEARCH, json.dumps(asdict(options), indent=2) + "\n")
    try:
        found = search(options, folder.resolve(), Tools(train, prune_once, sweep, measure))
    except Stopped as stopped:
        stopped.advise(f"; go on with: python prune.py --resume {folder}")
        raise
    best, least = recommended(found), (found[0].standing.ap or 0.0) - options.max_map_drop
    cfg = options.cfg if best.name == "whole" else None
    write_network(
        load_model(cfg, best.weights), folder, f"{Path(options.weights).name} pruned and trained: {best.name}"
    )
    draw_pareto(folder / "pareto.png", found, least, f"{Path(options.weights).name}: at least {least:.3f} wanted")
    say(candidate_table(found))
    say(f"* recommended: {best.name}; in {folder}: pruned.cfg, pruned.weights, pruned.pt, auto.json, pareto.png")
    return found


def found_anywhere(options: PruneOptions, pruning: Pruning) -> PruneOptions:
    """The options with files by their whole paths, so that they are found again when resumed from another folder."""
    assert pruning.spec is not None
    cfg = None if options.cfg is None else str(find_file(options.cfg, "cfg").resolve())
    weights = str(find_file(options.weights, "weights").resolve())
    epochs = options.finetune_epochs or options.sparsity_epochs
    return replace(options, weights=weights, cfg=cfg, data=str(pruning.spec.path), finetune_epochs=epochs)


def reopen(run: str) -> tuple[Path, PruneOptions]:
    """The folder of a search and its options. Raises InputError for another folder."""
    folder = Path(run)
    if not (folder / SEARCH).is_file():
        raise InputError(f"--resume {run}: expected a folder by prune.py --auto, with {SEARCH}")
    return folder, PruneOptions(**json.loads((folder / SEARCH).read_text()))


def main(options: PruneOptions) -> None:
    """Prune, or look at what pruning would leave."""
    if options.auto or options.resume is not None:
        auto(options)
    elif options.dry_run:
        dry_run(options)
    else:
        prune(options)


if __name__ == "__main__":
    run_command(main, PruneOptions, "Prune a detector: fewer channels, the same cfg and weights formats.")
