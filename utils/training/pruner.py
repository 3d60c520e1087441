"""A network to be pruned, with its data: which channels go, what is left, and the proof that it is the same network."""

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.data.augment import Augmentation
from utils.data.cache import Pictures
from utils.data.datafile import DataSpec, load_data
from utils.data.dataset import TrainingSet, make_training_loader
from utils.data.labels import Sample, check_boxes, load_samples, report
from utils.data.sampler import StepSampler
from utils.errors import DataError, InputError
from utils.evaluation.evaluate import EvaluationSettings
from utils.log import say, warn
from utils.names import class_names
from utils.network.graph import Graph
from utils.options import choose_device, parse_size
from utils.pruning.apply import all_heads, constant, fold_constants, head_difference, masked, prune_channels
from utils.pruning.cost import Costs, Target, parse_target
from utils.pruning.groups import ChannelGroups
from utils.pruning.importance import Changes, Criterion, group_scores, loss_changes
from utils.pruning.layers import remove_layers
from utils.pruning.measuring import clock_of, precision_of, proof_images, some_shapes, steady
from utils.pruning.options import PruneOptions, check_options
from utils.pruning.plan import Choice, Limits
from utils.training.assign import head_specs
from utils.training.loss import DetectionLoss

TOLERANCE = 1e-4  # of the greatest value of a head: more than rounding
QUICK_ROUNDS = 21  # of timing, on the way to a target; writing the network takes longer than they do
TAYLOR_IMAGES = 256


class Pruning:
    """A network with all that is needed to choose among its channels. Raises InputError for bad input.

    `load` and `build` are load_model and Darknet; `floors`: see `Choice`.
    """

    def __init__(
        self,
        options: PruneOptions,
        load: Callable[..., Any],
        build: Callable[[Graph], Any],
        floors: Sequence[int] | None = None,
    ) -> None:
        check_options(options)
        self.options, self.build, self.floors = options, build, floors
        self.device = choose_device(options.device)
        self.original = load(options.cfg, options.weights, device=self.device)
        net = self.original.graph.net
        self.size = parse_size(options.img_size) or (net.width, net.height)
        self.original.check_size(*self.size)
        self.spec = None if options.data is None else read_spec(options, self.original)
        settings = EvaluationSettings(
            self.size, batch_size=options.batch_size, workers=options.workers, channels=net.channels
        )
        samples = [] if self.spec is None else read_samples(self.spec, self.spec.valid)
        if self.spec is not None:
            check_boxes(samples, self.spec.path, "which weights are kept" if options.trains else None)
        self.precision = precision_of(samples, settings) if samples else None
        self.clock = clock_of(options.runtime, self.size, self.device)
        quick = clock_of(options.runtime, self.size, self.device, QUICK_ROUNDS, told=False)
        self.milliseconds = steady(quick, self.original)
        self.timed: dict[bytes, float] = {}
        self.images = proof_images(samples or some_shapes(), self.size, self.device, net.channels)
        self.model, self.gone = remove_layers(self.original, options.layers, build)
        self.groups = ChannelGroups.of(self.model)
        self.costs = Costs(self.model, self.groups, self.size)
        self.choice = self.judged()

    def asked(self, options: PruneOptions) -> "Pruning":
        """The same network and data, other options of what is to go."""
        other = copy(self)
        other.options = options
        other.choice = other.judged()
        return other

    @property
    def criterion(self) -> Criterion:
        """What channels are judged by."""
        known = self.spec is not None and bool(self.spec.train)
        return self.options.importance or ("taylor" if known else "gamma")

    @property
    def rules(self) -> str:
        """What keeps channels from going, in words."""
        options = self.options
        return f"--strategy {options.strategy}, --min-keep {options.min_keep:g} and --round-to {options.round_to}"

    def judged(self) -> Choice:
        """The channels by how much they matter. Raises InputError where none can go."""
        options = self.options
        changes = self.loss_changes() if self.criterion == "taylor" else None
        scores = group_scores(self.groups, self.criterion, options.strategy == "slim", options.seed, changes)
        limits = Limits(options.min_keep, options.round_to)
        choice = Choice(self.groups, scores, options.strategy, limits, self.floors)
        if not len(choice.order):
            raise InputError(f"{options.weights}: nothing can be pruned: {self.nothing_words()}")
        return choice

    def nothing_words(self) -> str:
        """Why no channel may go."""
        if self.criterion == "gamma":
            return "expected layers with batch normalisation before the heads (or --importance l2)"
        return f"expected layers before the heads whose channels may go (--strategy {self.options.strategy})"

    def loss_changes(self) -> Changes:
        """What the Taylor criterion needs, from training images."""
        assert self.spec is not None
        images = sampled(self.spec.train, TAYLOR_IMAGES, self.options.seed)
        samples = read_samples(self.spec, images)
        channels = self.model.graph.net.channels
        dataset = TrainingSet(
            Pictures(samples, self.size), Augmentation(mosaic=0), self.options.seed, channels=channels
        )
        sampler = StepSampler(len(samples), self.options.batch_size, self.size, self.options.seed)
        loader = make_training_loader(dataset, sampler, self.options.workers)
        return loss_changes(self.groups, self.model, DetectionLoss(head_specs(self.model)), loader)

    # ---- Which channels --------------------------------------------------------------------------------------------

    def amount(self) -> Callable[[np.ndarray], float]:
        """What a target is about, for what stays, (groups,) bool: FLOPs, parameters, milliseconds or channels."""
        options, costs = self.options, self.costs
        if options.target_flops is not None:
            return lambda keep: 1e9 * costs.gflops(keep)
        if options.target_params is not None:
            return costs.parameters
        if options.target_latency_ms is not None:
            return self.latency
        sizes, removable = self.groups.sizes, self.choice.removable
        return lambda keep: float(sizes[keep & removable].sum())

    def latency(self, keep: np.ndarray) -> float:
        """Milliseconds of what stays, (groups,) bool, told while they are looked for; each network is timed once."""
        key = keep.tobytes()
        if key not in self.timed:
            labels = self.groups.labels_kept(keep)
            self.timed[key] = self.milliseconds(prune_channels(self.model, self.groups.book, labels, self.build))
            say(f"{self.choice.share(keep):.1%} of the removable channels removed: {self.timed[key]:.1f} ms")
        return self.timed[key]

    def target(self) -> Target:
        """What is to be reached; a share of FLOPs or of parameters is one of the network as it was given."""
        options, whole = self.options, self.costs
        if self.gone:
            whole = Costs(self.original, ChannelGroups.of(self.original), self.size)
        every, present = np.ones(whole.groups.count, bool), self.amount()(np.ones(self.groups.count, bool))
        if options.target_flops is not None:
            goal = parse_target(options.target_flops, 1e9 * whole.gflops(every), "--target-flops")
            return Target("--target-flops", present, goal, "FLOPs")
        if options.target_params is not None:
            goal = parse_target(options.target_params, whole.parameters(every), "--target-params")
            return Target("--target-params", present, goal, "parameters")
        if options.target_latency_ms is not None:
            goal = options.target_latency_ms
            if goal >= present:
                raise InputError(f"--target-latency-ms {goal:g}: expected less than the present {present:.1f} ms")
            return Target("--target-latency-ms", present, goal, "ms")
        goal = round((1 - options.share) * present, 6)  # 0.1 of 10 is 1
        return Target("--percent", present, goal, "channels", strict=False)

    def keep(self, target: Target, step: int = 1, steps: int = 1) -> np.ndarray:
        """(groups,) bool: what stays, so that the target, or a step towards it, is reached.

        Where rules do not allow it, as much as they allow goes; in the last step it says so for a share, and raises
        InputError for the others.
        """
        options, choice, amount, goal = self.options, self.choice, self.amount(), target.after(step, steps)
        keep = choice.keep(len(choice.order))
        if (least := amount(keep)) <= goal:
            return choice.least(lambda keep: amount(keep) <= goal)
        if step < steps:
            return keep
        if target.strict:
            wanted, best = target.words(goal), target.words(least)
            raise InputError(f"{target.flag}: expected what {self.rules} can reach, at least {best}; got {wanted}")
        say(
            f"{target.flag} {options.share:g}: stopped at {1 - least / target.present:.3f}, all that {self.rules} allow"
        )
        return keep

    def without(self, keep: np.ndarray) -> Any:
        """The smaller network, what removed channels contributed folded in."""
        labels = self.groups.labels_kept(keep)
        compact = prune_channels(self.model, self.groups.book, labels, self.build)
        fold_constants(self.model, compact, self.groups.book, labels, self.images)
        return compact

    def proof(self, keep: np.ndarray) -> tuple[Any, float, float]:
        """The smaller network; the heads' greatest difference from the masked network's, before folding; and after it,
        from the network's in which removed channels are constants, which padding makes inexact.
        """
        book, labels = self.groups.book, self.groups.labels_kept(keep)
        difference = self.difference(labels, self.images)
        if not difference <= TOLERANCE:  # rounding, perhaps, in a network of great values
            self.model.double()
            difference = self.difference(labels, [image.double() for image in self.images])
            self.model.float()
        expected, compact = all_heads(constant(self.model, book, labels), self.images), self.without(keep)
        return compact, difference, head_difference(expected, all_heads(compact, self.images))

    def difference(self, labels: np.ndarray, images: list[Tensor]) -> float:
        """The greatest between the heads of the masked network and of the smaller one."""
        compact = prune_channels(self.model, self.groups.book, labels, self.build)
        with masked(self.groups.book, labels):
            expected = all_heads(self.model, images)
        return head_difference(expected, all_heads(compact, images))


def read_spec(options: PruneOptions, model: Any) -> DataSpec:
    """The data set. Raises InputError unless it has the network's classes, and the images that are needed."""
    spec = load_data(options.data or "")
    if spec.num_classes != model.num_classes:
        raise InputError(f"the network has {model.num_classes} classes, {options.data} has {spec.num_classes}")
    if list(spec.names) != model.names != list(class_names(model.num_classes)):
        expected, got = ", ".join(model.names), ", ".join(spec.names)
        words = f"{options.data}: expected the classes of the network, {expected}; got {got}"
        if options.trains:
            raise InputError(words)
        warn(words)
    for key, images in (("valid", spec.valid), ("train", spec.train)):
        if not images and (key == "valid" or options.trains or options.importance == "taylor"):
            raise DataError(f"{spec.path}: expected the key {key}, which prune.py needs")
    return spec


def sampled(images: Sequence[Path], count: int, seed: int) -> tuple[Path, ...]:
    """Up to so many of the images, drawn from the whole list, in its order."""
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    return tuple(images[place] for place in sorted(chosen))


def read_samples(spec: DataSpec, images: tuple[Path, ...]) -> list[Sample]:
    """Labelled images; what is wrong with them is reported."""
    samples, problems = load_samples(images, spec.num_classes, "images")
    report(problems)
    return samples
