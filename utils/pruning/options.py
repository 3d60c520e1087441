"""Every option of prune.py, with its default and its help."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from utils.errors import InputError
from utils.options import check_at_least, check_loading, check_types
from utils.pruning.importance import Criterion
from utils.pruning.plan import Strategy

DEFAULT_SHARE = 0.5
TimedExport = Literal["onnx", "openvino", "torchscript", "ncnn", "opencv"]
Timed = Literal["pytorch", TimedExport]
TARGETS = ("percent", "target_flops", "target_params", "target_latency_ms")


@dataclass(frozen=True)
class PruneOptions:
    """Options of prune.py."""

    weights: str = ""
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
    """Remove channels until an image takes so many milliseconds on this machine, in --runtime."""
    runtime: Timed = "pytorch"
    """What milliseconds are measured in: pytorch, or what export.py writes for onnx, openvino, torchscript, ncnn or
    opencv (--format darknet --fold-bn).
    """
    strategy: Strategy = "slim"
    """Channels that shortcuts tie: normal (they stay), or slim (they go together; the greatest counts)."""
    importance: Criterion | None = None
    """What a channel is judged by (default: taylor where --data has training images, else gamma); random is what the
    others have to beat.
    """
    min_keep: float = 0.1
    """Least share of its channels that each layer keeps (always one)."""
    round_to: int = 8
    """Each layer keeps a multiple of this, or all (1: any number)."""
    layers: int = 0
    """First remove so many whole residual blocks, those of the least mean gamma."""
    iterations: int = 1
    """Prune in so many steps, each a part of the way, with --finetune-epochs after each."""
    finetune_epochs: int | None = None
    """Train so many epochs after each step, on --data, with the network as it was before as teacher (default: 30 with
    --auto, else none).
    """
    auto: bool = False
    """The whole way: pruning and recovery in turns while AP holds; needs --data."""
    max_map_drop: float = 0.01
    """With --auto: by how much AP@.5:.95, 0 to 1, may be lower in the end."""
    rounds: int = 5
    """With --auto: prune and train at most so many times."""
    resume: str | None = None
    """Go on with an --auto or --finetune-epochs that was stopped, in this folder; all else is as it was."""
    dry_run: bool = False
    """Measure what shares of 0.1 to 0.9 would leave: a table and sweep.png; no network is written."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H, of trainings and of what is measured (default: the cfg's)."""
    batch_size: int = 16
    """Images per step, in trainings and when AP is measured."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of --importance random, of the images that taylor looks at, and of trainings."""
    name: str = "exp"
    """Results go to runs/prune/NAME (NAME-2 ... where it exists)."""

    @property
    def share(self) -> float:
        """`percent`, or its default."""
        return DEFAULT_SHARE if self.percent is None else self.percent

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.auto or bool(self.finetune_epochs)

    @property
    def alone(self) -> "PruneOptions":
        """The same without --auto and what belongs to it."""
        return replace(self, auto=False, **AUTO_ONLY)


AUTO_ONLY: dict[str, Any] = {name: getattr(PruneOptions, name) for name in ("max_map_drop", "rounds")}


def check_options(options: PruneOptions) -> None:
    """Raise InputError for a value that cannot be, or options that contradict each other."""
    check_types(options)
    check_loading(options.batch_size, options.workers)
    if not options.weights:
        raise InputError("--weights: expected the trained network's weights")
    if options.auto:
        check_auto(options)
    else:
        for name, default in AUTO_ONLY.items():
            if getattr(options, name) != default:
                raise InputError(f"--{name.replace('_', '-')} without --auto: expected --auto with it")
    targets = ["--" + name.replace("_", "-") for name in TARGETS if getattr(options, name) is not None]
    if len(targets) > 1:
        raise InputError(f"{' and '.join(targets)}: expected one of them")
    if options.dry_run and targets:
        raise InputError(f"--dry-run with {targets[0]}: expected none; it tries many shares")
    if options.auto and targets:
        raise InputError(f"--auto with {targets[0]}: expected none; it goes as far as AP holds")
    for flag in ("percent", "min_keep"):
        value = getattr(options, flag)
        if value is not None and not 0 <= value < 1:
            raise InputError(f"--{flag.replace('_', '-')} {value:g}: expected a share, 0 to below 1, such as 0.5")
    if options.target_latency_ms is not None and not 0 < options.target_latency_ms < math.inf:
        raise InputError(f"--target-latency-ms {options.target_latency_ms:g}: expected more than 0")
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed {options.seed}: expected 0 to {2**32 - 1}")
    check_at_least(1, round_to=options.round_to, iterations=options.iterations, rounds=options.rounds)
    check_at_least(0, layers=options.layers, finetune_epochs=options.finetune_epochs or 0)
    if options.iterations > 1 and not options.finetune_epochs:
        raise InputError(
            f"--iterations {options.iterations}: expected --finetune-epochs with it, to recover in between"
        )
    if options.finetune_epochs and options.data is None:
        raise InputError(f"--finetune-epochs {options.finetune_epochs}: expected --data with it, to train on")
    if options.dry_run and (options.finetune_epochs or options.iterations > 1):
        raise InputError("--dry-run with --finetune-epochs: expected none; nothing is trained")
    if options.importance == "taylor" and options.data is None:
        raise InputError("--importance taylor: expected --data with it, whose training images it looks at")


def check_auto(options: PruneOptions) -> None:
    """Raise InputError for options that --auto cannot work with."""
    if options.data is None:
        raise InputError("--auto: expected --data with it, to train and to measure on")
    if not 0 <= options.max_map_drop < 1:
        raise InputError(f"--max-map-drop {options.max_map_drop:g}: expected 0 to below 1")
    if options.finetune_epochs == 0:
        raise InputError("--auto with --finetune-epochs 0: expected at least 1, to recover after each pruning")
    if options.dry_run or options.iterations > 1 or options.layers:
        raise InputError("--auto with --dry-run, --iterations or --layers: expected none; it chooses the steps itself")
