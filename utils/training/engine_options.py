"""The options that every training has, whatever it trains, and how they are checked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from utils.errors import InputError
from utils.options import check_loading, check_types
from utils.precision import AmpMode
from utils.training.optimizers import OptimizerName
from utils.training.schedule import ScheduleName, ScheduleOptions


@dataclass(frozen=True)
class EngineOptions:
    """How long, how fast, where, and with what state."""

    LOSS_VERSION = 1
    """Grows where the size of the loss's gradient changes: see `current_loss`."""

    epochs: int = 100
    """Times through the training images."""
    batch_size: int = 16
    """Images per step, over all processes."""
    accumulate: int = 1
    """Steps whose gradients are averaged into one change of the weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    amp: AmpMode = "auto"
    """Numbers of the network in training: bf16, fp16 (GPU, scaled), off (float32); auto: the fastest that is native."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    seed: int = 0
    """Seed of everything random; on a CPU the same seed gives the same weights, bit for bit."""
    name: str = "exp"
    """Results go to PROJECT/NAME (NAME-2 ... where it exists)."""
    project: str | None = None
    """Folder of the results' folder (default: runs/ and what the command does)."""
    resume: str | None = None
    """Go on with a stopped training: `last` (the newest run), its folder or its last.pt; all else is as it was."""
    optimizer: OptimizerName = "muon"
    """muon (with adamw for what is no full convolution), adamw, or sgd with momentum."""
    lr: float | None = None
    """Highest learning rate (default: 0.004 for muon and adamw, for sgd 0.02, detectors 0.32)."""
    momentum: float = 0.9
    """Of Muon and SGD, and AdamW's first beta."""
    weight_decay: float | None = None
    """On the weights of convolutions and linear layers only (default: 0.01, for sgd 0.0005, detectors 0.00003)."""
    schedule: ScheduleName = "cosine"
    """How the learning rate falls: cosine or linear."""
    final_lr: float = 0.05
    """The share of the learning rate that is left at the end."""
    warmup_epochs: float = 3.0
    """Epochs in which the learning rate rises (at least 100 steps, at most a fifth of the training)."""
    clip: float = 10.0
    """Largest norm of the gradient, which is scaled down to it (0: no limit)."""
    average: float = 0.998
    """Decay of the moving average of the weights, which is what is measured and saved (0: no average)."""
    patience: int = 0
    """Stop after N epochs without a better score (0: never)."""
    noval: bool = False
    """Measure after the last epoch only."""
    save_period: int = 0
    """Keep the weights of every N-th epoch as epochN.pt, too (0: none)."""
    tensorboard: bool = False
    """Write the curves for TensorBoard into the run's folder, too."""
    sync_bn: bool = False
    """Several GPUs: normalise over all of their images together."""

    @property
    def sgd(self) -> tuple[float, float]:
        """The learning rate and weight decay that suit SGD, whose steps are as large as the loss's gradient."""
        return 0.02, 0.0005

    @property
    def highest_lr(self) -> float:
        """`lr`, or the optimizer's own default."""
        return self.lr if self.lr is not None else self.sgd[0] if self.optimizer == "sgd" else 0.004

    @property
    def decay(self) -> float:
        """`weight_decay`, or the optimizer's own default."""
        return self.weight_decay if self.weight_decay is not None else self.sgd[1] if self.optimizer == "sgd" else 0.01

    def schedule_options(self) -> ScheduleOptions:
        """Shape of the learning rate."""
        return ScheduleOptions(self.highest_lr, self.final_lr, self.warmup_epochs, self.schedule)


Rule = tuple[str, Callable[[Any], bool], str]
"""Names of options, what each must fulfil, and that in words."""

FLAGS = {"highest_lr": "lr", "decay": "weight_decay"}
ENGINE_RULES: tuple[Rule, ...] = (
    ("epochs batch_size accumulate", lambda value: value >= 1, "at least 1"),
    ("workers patience save_period warmup_epochs clip decay", lambda value: value >= 0, "0 or more"),
    ("final_lr", lambda value: 0 <= value <= 1, "0 to 1"),
    ("momentum average", lambda value: 0 <= value < 1, "0 to below 1"),
    ("highest_lr", lambda value: 0 < value < 10, "above 0 and below 10, such as 0.004"),
    ("seed", lambda value: 0 <= value < 2**32, f"0 to {2**32 - 1}"),
)


def check_values(options: EngineOptions, rules: tuple[Rule, ...]) -> None:
    """Raise InputError for an option whose value is of another type, or breaks a rule of the engine's or of `rules`."""
    check_types(options)
    for names, good, words in (*ENGINE_RULES, *rules):
        for name in names.split():
            value, flag = getattr(options, name), FLAGS.get(name, name).replace("_", "-")
            if not good(value):
                raise InputError(f"--{flag} {value}: expected {words}")
    check_loading(options.batch_size, options.workers)
