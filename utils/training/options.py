"""Every option of train.py, with its default and its help; and --hyp files, which set some of them."""

import difflib
import typing
from dataclasses import dataclass, fields
from typing import Any

from utils.data.augment import Augmentation
from utils.data.cache import CacheMode
from utils.errors import InputError
from utils.files import find_file
from utils.log import warn_once
from utils.old_options import MAX_PERSPECTIVE, current_options
from utils.options import OnOff, check_type
from utils.pruning.sparsity import SparsityOptions, SparsitySchedule
from utils.training.checkpoint import resumed_options, value_of
from utils.training.distill import DistillOptions
from utils.training.engine_options import EngineOptions, Rule, check_values
from utils.training.loss import LossOptions
from utils.yamlfile import read_yaml


@dataclass(frozen=True)
class StartOptions:
    """What is trained, on what, from where."""

    cfg: str | None = None
    """Network, a Darknet .cfg, also by its bare name in cfg/ (default: the one in a .pt, or ghost-yolov3-tiny.cfg)."""
    data: str = "shapes.data"
    """Data set, a Darknet .data or a .yaml; the default is the embedded one, drawn on first use."""
    weights: str | None = None
    """Start from these weights (.weights or .pt); the heads are left out where the class counts differ."""
    cutoff: int | None = None
    """Take only the first N layers from a .weights file (backbone files)."""
    backbone: str | None = None
    """Start the [ghost_bottleneck] backbone from a classifier: classify.py's .pt, or a published GhostNet."""
    freeze: str | None = None
    """Keep the first N layers as they are (`--freeze 10`), or all before the first head's branch (`backbone`)."""
    hyp: str | None = None
    """A .yaml file of options by name, such as data/hyp.scratch.yaml; options on the command line come first."""


@dataclass(frozen=True)
class TeacherOptions:
    """Whom the network learns from beside the labels, and how much."""

    t_cfg: str | None = None
    """The teacher's network, a Darknet .cfg (default: the one in its .pt)."""
    t_weights: str | None = None
    """Learn from this trained network, too (.weights or .pt), which has the same heads and classes: distillation."""
    distill_logits: float = 0.3
    """With a teacher: weight of its objectness and classes, times --obj-gain and --cls-gain (0: off)."""
    distill_box: float = 1.0
    """With a teacher: weight of boxes that are not better than its own, times --box-gain (0: off)."""
    distill_features: float = 0.03
    """With a teacher: weight of the maps before the heads, through adapters that are not kept (0: off)."""
    distill_temperature: float = 1.0
    """With a teacher: its objectness and classes are softened by this (1: as they are)."""

    def distillation(self) -> DistillOptions:
        """Gains and temperature."""
        return DistillOptions(self.distill_logits, self.distill_box, self.distill_features, self.distill_temperature)


@dataclass(frozen=True)
class TrainOptions(EngineOptions, TeacherOptions, StartOptions):
    """Options of train.py."""

    LOSS_VERSION = 2
    """2: the loss is a plain mean; 1: it was that times the batch size."""
    clip: float = 0.625
    """Largest norm of the gradient of the mean loss, which is scaled down to it (0: no limit)."""
    autobatch: bool = False
    """GPU only: take the batch size that fills two thirds of its memory."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    multi_scale: bool = False
    """Train each batch at 0.5 to 1.5 times the input size."""
    rect: bool = False
    """Train in batches of images of one shape, with as little grey as possible; mosaic is off."""
    lenient: bool = False
    """Ignore keys of --cfg that Darknet does not know, as Darknet does; they are an error otherwise."""
    single_cls: bool = False
    """Take all classes as one."""
    vote: OnOff = True
    """Validate with box voting: each box that NMS keeps becomes the mean of those that overlap it (off: NMS alone)."""
    cache: CacheMode = "auto"
    """Keep decoded pictures: ram, disk (a file beside the data) or off; auto: ram where they are small beside it."""
    box_gain: float = 0.05
    """Weight of the box loss."""
    obj_gain: float = 1.0
    """Weight of the objectness loss."""
    cls_gain: float = 0.03
    """Weight of the class loss."""
    label_smoothing: float = 0.0
    """Class targets are 1-s/2 and s/2."""
    class_weights: bool = False
    """Weigh rare classes up in the class loss, by the inverse of their labels' count (mean 1)."""
    mosaic: float = 1.0
    """Chance of four pictures in one."""
    close_mosaic: int = 10
    """The last N epochs (at most a third of them) see single pictures, neither joined nor mixed."""
    mixup: float = 0.0
    """Chance of blending two pictures."""
    cutmix: float = 0.0
    """Chance of pasting a rectangle of another picture."""
    scale: float = 0.5
    """Size times 1-this .. 1+this."""
    translate: float = 0.1
    """Shift, +- this share of the size."""
    degrees: float = 0.0
    """Rotation, +- degrees."""
    perspective: float = 0.0
    """Change of depth across the picture, +- this share, at most 0.001."""
    hue: float = 0.015
    """Hue, +- this share of the circle."""
    saturation: float = 0.7
    """Saturation, +- this share."""
    value: float = 0.4
    """Brightness, +- this share."""
    flip_lr: float = 0.5
    """Chance of left-right mirroring; 0 where left and right differ (text, traffic signs)."""
    flip_ud: float = 0.0
    """Chance of upside down; 0.5 for pictures from above or through a microscope."""
    scale_x_y: float = 2.0
    """New heads predict centres in neighbouring cells, too, by this Darknet key in model.cfg (1: as in the cfg)."""
    autoanchor: bool = False
    """Fit the anchors to the data and write them into the run's model.cfg."""
    sparsity: float | None = None
    """Sparsity training for pruning: pull batch normalisation's gammas to 0 with this strength S, such as 0.001."""
    sparsity_schedule: SparsitySchedule = "constant"
    """How the strength S changes: constant, or global-decay (S/100 after half of the training)."""
    sparsity_groups: bool = False
    """Pull the gammas of channels that go together as one, by their Euclidean norm."""
    evolve: int = 0
    """Search for better options in N trainings (Optuna) and write the best as runs/evolve/NAME/hyp.yaml; goes on."""

    @property
    def sgd(self) -> tuple[float, float]:
        """Those of SGD: the detection loss is a mean with gains far below 1."""
        return 0.32, 0.00003

    def __new__(cls, *values: Any, **given: Any) -> "TrainOptions":
        """Note which options are given: the --hyp file sets the others only."""
        options = super().__new__(cls)
        names = [field.name for field in fields(cls)][: len(values)]
        vars(options)["given"] = {*names, *given}
        return options

    def __post_init__(self) -> None:
        """Take the --hyp file's values and drop its name. Raises InputError.

        Where all options are given, as by `dataclasses.replace`, those that have their defaults count as not given.
        """
        given = vars(self).pop("given")
        if self.hyp is None:
            return
        if len(given) == len(fields(self)):
            given = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        chosen = {name: value for name, value in read_hyp(self.hyp).items() if name not in given}
        vars(self).update(chosen, hyp=None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Hold, as a copy or from a pickle, the fields alone, not what `__new__` noted."""
        vars(self).clear()
        vars(self).update(state)

    def augmentation(self) -> Augmentation:
        """The options of that name; rectangular batches have no mosaic."""
        chosen = {field.name: getattr(self, field.name) for field in fields(Augmentation)}
        return Augmentation(**{**chosen, "mosaic": 0.0 if self.rect else self.mosaic})

    def loss(self, class_weights: tuple[float, ...] | None = None) -> LossOptions:
        """Gains and targets of the loss."""
        return LossOptions(self.box_gain, self.obj_gain, self.cls_gain, self.label_smoothing, class_weights)

    def sparsity_options(self) -> SparsityOptions | None:
        """Options of sparsity training, None where it is off."""
        if not self.sparsity:
            return None
        return SparsityOptions(self.sparsity, self.sparsity_schedule, self.sparsity_groups)

    @property
    def mosaic_epochs(self) -> int:
        """Epochs with mosaic and mixing; the rest see single pictures."""
        return self.epochs - min(self.close_mosaic, self.epochs // 3)


DETECTION_RULES: tuple[Rule, ...] = (
    (
        "mixup cutmix mosaic flip_lr flip_ud translate hue saturation value label_smoothing",
        lambda value: 0 <= value <= 1,
        "0 to 1",
    ),
    (
        "close_mosaic evolve box_gain obj_gain cls_gain degrees distill_logits distill_box distill_features",
        lambda value: value >= 0,
        "0 or more",
    ),
    ("scale", lambda value: 0 <= value < 1, "0 to below 1"),
    ("perspective", lambda value: 0 <= value <= MAX_PERSPECTIVE, f"0 to {MAX_PERSPECTIVE}"),
    ("sparsity", lambda value: value is None or 0 <= value <= 1, "0 to 1, such as 0.001"),
    ("scale_x_y", lambda value: 1 <= value <= 3, "1 to 3"),
    ("distill_temperature", lambda value: 0 < value <= 100, "above 0, at most 100"),
    (
        "freeze",
        lambda value: value is None or value == "backbone" or value.isdecimal(),
        "a number of layers, or backbone",
    ),
)


def check_options(options: TrainOptions) -> None:
    """Raise InputError for values that cannot be trained with."""
    check_values(options, DETECTION_RULES)
    if options.cutoff is not None and options.weights is None:
        raise InputError("--cutoff: expected --weights with it")
    if options.backbone is not None and options.weights is not None:
        raise InputError("--backbone with --weights: expected one of them")
    if options.rect and options.multi_scale:
        raise InputError("--rect with --multi-scale: expected one of them")
    check_distillation(options)
    for name in ("sparsity_schedule", "sparsity_groups"):
        if not options.sparsity and getattr(options, name) != getattr(TrainOptions, name):
            raise InputError(f"--{name.replace('_', '-')}: expected --sparsity with it")


def check_distillation(options: TeacherOptions) -> None:
    """Raise InputError for options that need a teacher where there is none, and for one who teaches nothing."""
    for field in fields(TeacherOptions):
        given = getattr(options, field.name) != field.default
        if given and options.t_weights is None:
            raise InputError(f"--{field.name.replace('_', '-')}: expected --t-weights with it")
    parts = ("distill_logits", "distill_box", "distill_features")
    if not any(getattr(options, name) for name in parts):
        flags = ", ".join("--" + name.replace("_", "-") for name in parts)
        raise InputError(f"--t-weights with {flags} 0: expected one of them above 0")


OLD_CLIP = 10.0  # the default while the loss was the mean times the batch size
OLD_SGD_LR = 0.1  # below it is what suited SGD then
NOT_IN_FILES = {"hyp", "resume", "evolve"}


def read_hyp(name: str) -> dict[str, Any]:
    """A --hyp file, `option: value` lines, as given or in data/: option names to values of the right types.

    Raises InputError for an unknown option or a value of another type or range. `hyp`, `resume` and `evolve` cannot be
    in it. Options that were removed are ignored with a warning.
    """
    path = find_file(name, "data")
    content = current_options(read_yaml(path, "lines `option: value`"), path)
    known = typing.get_type_hints(TrainOptions)
    for key, value in content.items():
        if key in NOT_IN_FILES:
            raise InputError(f"{path}: {key} can be given on the command line alone")
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise InputError(f"{path}: unknown option {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        content[key] = _as_command_line(value, known[key])
        check_type(f"{path}: {key}", content[key], known[key])
    try:
        check_values(TrainOptions(**content), DETECTION_RULES)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('--')}") from None
    old_sgd = content.get("optimizer") == "sgd" and (content.get("lr") or OLD_SGD_LR) < OLD_SGD_LR
    if content.get("clip") == OLD_CLIP or old_sgd:
        warn_once(
            f"{path}: its clip, or its lr of SGD, seems to be for an older version's loss, batch_size times as large: "
            "divide clip by the batch size, multiply lr of SGD by it"
        )
    return content


def _as_command_line(value: Any, wanted: Any) -> Any:
    """`lr: 1e-3`, text in YAML, as the number that it is on a command line; `freeze: 10` as the text."""
    kinds = getattr(wanted, "__args__", (wanted,))
    if float in kinds and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return str(value) if type(value) is int and str in kinds and int not in kinds else value


def command_defaults(arguments: list[str]) -> TrainOptions:
    """The defaults of a command line, so that what stands on it comes first.

    With --resume they are the stopped training's options, with --hyp that file's: its name is taken off the line.
    """
    resumed, hyp = resumed_options(arguments, TrainOptions, "runs/train"), value_of("--hyp", arguments)
    if resumed is not None or hyp is None:
        return resumed or TrainOptions()
    place = next(place for place, argument in enumerate(arguments) if argument.partition("=")[0] == "--hyp")
    del arguments[place : place + (1 if "=" in arguments[place] else 2)]
    return TrainOptions(hyp=hyp)
