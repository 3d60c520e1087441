"""Prune a detector: `python prune.py --weights runs/train/exp/best.pt --data my.data --percent 0.5`."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import Darknet, load_model, save_weights
from train import head_specs
from utils.data.augment import Augmentation
from utils.data.cache import Pictures
from utils.data.datafile import DataSpec, load_data
from utils.data.dataset import EvaluationSet, TrainingSet, make_training_loader
from utils.data.labels import Sample, load_samples, report
from utils.data.sampler import StepSampler
from utils.errors import DataError, InputError
from utils.evaluation.evaluate import EvaluationSettings
from utils.files import new_run_folder, write_text
from utils.log import counted, say
from utils.options import check_loading, choose_device, parse_size, run_command
from utils.pruning.apply import all_heads, constant, fold_constants, head_difference, masked, prune_channels
from utils.pruning.cost import Costs, Standing, parse_target
from utils.pruning.groups import ChannelGroups
from utils.pruning.importance import Changes, Criterion, group_scores, loss_changes
from utils.pruning.layers import remove_layers
from utils.pruning.plan import Choice, Limits, Strategy
from utils.pruning.report import (
    LayerChannels,
    SweepPoint,
    before_and_after,
    draw_layers,
    draw_sweep,
    find_knee,
    kept_words,
    layer_channels,
    sweep_table,
)
from utils.pruning.sweep import precision_of, standings, torch_clock
from utils.training.loss import DetectionLoss

PROOF_IMAGES = 4
TOLERANCE = 1e-4  # of the greatest value of a head: more than rounding
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of a dry run
QUICK_ROUNDS = 5  # of timing, on the way to a target
TAYLOR_IMAGES = 256


@dataclass(frozen=True)
class PruneOptions:
    """Options of prune.py."""

    weights: str
    """The trained network's weights, .weights or .pt; a bare name is found in weights/."""
    cfg: str | None = None
    """Network, a Darknet .cfg (default: the one inside the .pt)."""
    data: str | None = None
    """Data set, a Darknet .data or a .yaml, to measure AP on before and after (default: AP is not measured)."""
    percent: float | None = None
    """Remove this share of the removable channels, over the whole network (default: 0.5, unless there is a target)."""
    target_flops: str | None = None
    """Remove channels until so many FLOPs are left: a share such as 0.3, or an amount such as 1.5G."""
    target_params: str | None = None
    """Remove channels until so many parameters are left: a share such as 0.3, or an amount such as 1.0M."""
    target_latency_ms: float | None = None
    """Remove channels until an image takes so many milliseconds on this machine."""
    strategy: Strategy = "slim"
    """Channels that shortcuts tie: normal (they stay), shortcut (their mean counts), slim (the greatest counts)."""
    importance: Criterion = "gamma"
    """What a channel is judged by; taylor needs --data; random is what the others have to beat."""
    min_keep: float = 0.1
    """Least share of its channels that each layer keeps (always one)."""
    round_to: int = 8
    """Each layer keeps a multiple of this, or all (1: any number)."""
    layers: int = 0
    """First remove so many whole residual blocks, those of the least mean gamma."""
    dry_run: bool = False
    """Measure what shares of 0.1 to 0.9 would leave: a table and sweep.png; no network is written."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H, at which FLOPs, milliseconds and AP are measured (default: the cfg's)."""
    batch_size: int = 16
    """Images per step when AP is measured."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of --importance random."""
    name: str = "exp"
    """Results go to runs/prune/NAME (NAME-2 ... where it exists)."""


@dataclass(frozen=True)
class PruneResult:
    """Where the pruned network was written, what it was and is, and each layer's channels."""

    folder: Path
    before: Standing
    after: Standing
    layers: list[LayerChannels]


class Pruning:
    """A network with all that is needed to choose among its channels. Raises InputError for bad input."""

    def __init__(self, options: PruneOptions) -> None:
        check(options)
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
        self.images = proof_images(samples or some_shapes(), self.settings, self.device)
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

    def keep(self) -> np.ndarray:
        """(groups,) bool: what stays for the target that was asked for; says so where it cannot be reached."""
        options, choice, costs = self.options, self.choice, self.costs
        now, whole = costs.parameters(choice.keep(0)), costs.gflops(choice.keep(0)) * 1e9
        flops = parse_target(options.target_flops, whole, "--target-flops")
        parameters = parse_target(options.target_params, now, "--target-params")
        if flops is not None:
            return self.reach(lambda keep: costs.gflops(keep) * 1e9, flops, "--target-flops", "{:,.0f} FLOPs")
        if parameters is not None:
            return self.reach(costs.parameters, parameters, "--target-params", "{:,} parameters")
        if options.target_latency_ms is not None:
            clock = torch_clock(self.size, self.device, QUICK_ROUNDS)
            return self.reach(
                lambda keep: clock([self.without(keep)])[0],
                options.target_latency_ms,
                "--target-latency-ms",
                "{:.1f} ms",
            )
        asked = 0.5 if options.percent is None else options.percent
        keep = choice.of_share(asked)
        share = choice.share(keep)
        if share < asked:
            say(f"--percent {asked:g}: stopped at {share:.3f}, all that --strategy, --min-keep and --round-to allow")
        return keep

    def reach(self, amount: Callable[[np.ndarray], float], target: float, flag: str, words: str) -> np.ndarray:
        """What stays when `amount` has come down to the target. Raises InputError with the least that it can be."""
        keep = self.choice.least(lambda keep: amount(keep) <= target)
        if (least := amount(keep)) > target:
            raise InputError(
                f"{flag}: expected what --strategy {self.options.strategy} and --min-keep {self.options.min_keep:g} "
                f"can reach, at least {words.format(least)}; got {words.format(target)}"
            )
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
        compact = prune_channels(self.model, book, labels, Darknet)
        with masked(book, labels):
            expected = all_heads(self.model, self.images)
        difference = head_difference(expected, all_heads(compact, self.images))
        expected = all_heads(constant(self.model, book, labels), self.images)
        return difference, head_difference(expected, all_heads(self.without(keep), self.images))


def check(options: PruneOptions) -> None:
    """Raise InputError for a number that cannot be, or options that contradict each other."""
    check_loading(options.batch_size, options.workers)
    targets = [
        flag
        for flag in ("percent", "target_flops", "target_params", "target_latency_ms")
        if getattr(options, flag) is not None
    ]
    if len(targets) > 1:
        flags = " and ".join("--" + flag.replace("_", "-") for flag in targets)
        raise InputError(f"{flags}: expected one of them")
    if options.dry_run and targets:
        raise InputError(f"--dry-run with --{targets[0].replace('_', '-')}: expected none; it tries many shares")
    for flag in ("percent", "min_keep"):
        value = getattr(options, flag)
        if value is not None and not 0 <= value < 1:
            raise InputError(f"--{flag.replace('_', '-')} {value:g}: expected 0 to below 1")
    if options.target_latency_ms is not None and options.target_latency_ms <= 0:
        raise InputError(f"--target-latency-ms {options.target_latency_ms:g}: expected more than 0")
    if options.round_to < 1 or options.layers < 0:
        raise InputError(f"--round-to {options.round_to}, --layers {options.layers}: expected at least 1, and 0")
    if options.importance == "taylor" and options.data is None:
        raise InputError("--importance taylor: expected --data with it, whose training images it looks at")


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


def some_shapes() -> list[Sample]:
    """Pictures for the proof where there is no data set: of the embedded shapes."""
    spec = load_data("shapes.data")
    return load_samples(spec.valid[:PROOF_IMAGES], spec.num_classes, "images")[0]


def proof_images(samples: list[Sample], settings: EvaluationSettings, device: torch.device) -> list[Tensor]:
    """The first images that can be read, (1, 3, H, W), letterboxed."""
    dataset = EvaluationSet(samples[:PROOF_IMAGES], settings.size)
    items = [dataset[index] for index in range(len(dataset))]
    pictures = [item.image.permute(2, 0, 1)[None].float().to(device) / 255 for item in items if item is not None]
    if not pictures:
        raise DataError(f"{samples[0].image}: expected images that can be read")
    return pictures


# ---- What the command does -----------------------------------------------------------------------------------------


def prune(options: PruneOptions) -> PruneResult:
    """Remove channels, prove that the smaller network is the masked one, measure it and write it.

    Raises InputError for bad input, and for a target that cannot be reached; nothing is written then.
    """
    pruning = Pruning(options)
    keep = pruning.keep()
    difference, folded = pruning.proof(keep)
    if difference > TOLERANCE:
        raise RuntimeError(f"the pruned network differs from the masked one by {difference:.1e}: a fault of prune.py")
    compact = pruning.without(keep)
    before, after = standings([pruning.original, compact], pruning.size, pruning.clock, pruning.precision)
    rows = layer_channels(pruning.choice, pruning.model, keep)
    folder = new_run_folder("runs/prune", options.name)
    write_network(pruning, compact, rows, folder)
    title = f"{Path(options.weights).name}: channels of each layer"
    draw_layers(folder / "channels.png", rows, title)
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


def write_network(pruning: Pruning, compact: Darknet, rows: list[LayerChannels], folder: Path) -> None:
    """pruned.cfg, which says what each layer had, pruned.weights, pruned.pt and the class names."""
    changed = [row for row in rows if row.before != row.after]
    notes: dict[int, str] = {}
    for row in changed:
        words = notes.get(row.index, f"layer {row.index}:") + f" {row.option} {row.after} of {row.before}"
        notes[row.index] = words
    comment = f"{Path(pruning.options.weights).name} pruned: {counted(len(notes), 'layer')} with fewer channels"
    write_text(folder / "pruned.cfg", compact.graph.to_cfg(comment, notes))
    write_text(folder / "pruned.names", "\n".join(compact.names) + "\n")
    save_weights(compact, folder / "pruned.weights")
    save_weights(compact, folder / "pruned.pt")


def sweep(options: PruneOptions) -> list[SweepPoint]:
    """What many shares would leave of the network: a table, sweep.json and sweep.png."""
    pruning = Pruning(options)
    choice = pruning.choice
    keeps = [choice.keep(0), *map(choice.of_share, SHARES)]
    models = [pruning.original, *(pruning.without(keep) for keep in keeps[1:])]
    found = standings(models, pruning.size, pruning.clock, pruning.precision)
    shares = [choice.share(keep) for keep in keeps]
    points = [SweepPoint(*each) for each in zip((0.0, *SHARES), shares, found, strict=True)]
    knee = find_knee(points)
    folder = new_run_folder("runs/prune", options.name)
    write_text(folder / "sweep.json", json.dumps([asdict(point) for point in points], indent=2) + "\n")
    title = f"{Path(options.weights).name}, --strategy {options.strategy} --importance {options.importance}"
    draw_sweep(folder / "sweep.png", points, knee, title)
    say(sweep_table(points, knee))
    say(
        (f"* the knee: beyond {knee.share:.0%} AP falls faster; " if knee else "")
        + f"AP without any training afterwards; ms: {clock_words(pruning)}; "
        f"no network was written; in {folder}: sweep.json, sweep.png"
    )
    return points


def main(options: PruneOptions) -> None:
    """Prune, or look at what pruning would leave."""
    if options.dry_run:
        sweep(options)
    else:
        prune(options)


if __name__ == "__main__":
    run_command(main, PruneOptions, "Prune a detector: fewer channels, the same cfg and weights formats.")
