"""Every option of train.py, with its default and its help; and --hyp files, which set some of them."""

import difflib
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from utils.data.augment import Augmentation
from utils.data.cache import CacheMode
from utils.errors import InputError
from utils.files import find_file
from utils.options import check_loading
from utils.precision import AmpMode
from utils.training.loss import AssignMode, LossOptions
from utils.training.optimizers import OptimizerName
from utils.training.schedule import ScheduleName, ScheduleOptions
from utils.yamlfile import read_yaml


@dataclass(frozen=True)
class TrainOptions:
    """Options of train.py."""

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
    epochs: int = 100
    """Times through the training images."""
    batch_size: int = 16
    """Images per step, over all processes."""
    accumulate: int = 1
    """Steps whose gradients are averaged into one change of the weights."""
    autobatch: bool = False
    """GPU only: take the batch size that fills two thirds of its memory."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    multi_scale: bool = False
    """Train each batch at 0.5 to 1.5 times the input size."""
    rect: bool = False
    """Train in batches of images of one shape, with as little grey as possible; mosaic is off."""
    single_cls: bool = False
    """Take all classes as one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    amp: AmpMode = "auto"
    """Numbers of the network in training: bf16, fp16 (GPU, scaled), off (float32); auto: the fastest that is native."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    cache: CacheMode = "auto"
    """Keep decoded pictures: ram, disk (a file beside the data) or off; auto: ram where they are small beside it."""
    seed: int = 0
    """Seed of everything random; on a CPU the same seed gives the same weights, bit for bit."""
    name: str = "exp"
    """Results go to PROJECT/NAME (NAME-2 ... where it exists)."""
    project: str | None = None
    """Folder of the results' folder (default: runs/train, or runs/evolve with --evolve)."""
    resume: str | None = None
    """Go on with a stopped training: `last` (the newest run), its folder or its last.pt; all else is as it was."""

    optimizer: OptimizerName = "muon"
    """muon (with adamw for what is no full convolution), adamw, or sgd with momentum."""
    lr: float | None = None
    """Highest learning rate (default: 0.004 for muon and adamw, 0.02 for sgd)."""
    momentum: float = 0.9
    """Of Muon and SGD, and AdamW's first beta."""
    weight_decay: float | None = None
    """On convolution weights only (default: 0.01 for muon and adamw, 0.0005 for sgd)."""
    schedule: ScheduleName = "cosine"
    """How the learning rate falls: cosine, linear or one-cycle."""
    final_lr: float = 0.05
    """The share of the learning rate that is left at the end."""
    warmup_epochs: float = 3.0
    """Epochs in which the learning rate rises (at least 100 steps, at most a fifth of the training)."""
    clip: float = 10.0
    """Largest norm of the gradient, which is scaled down to it (0: no limit)."""
    average: float = 0.998
    """Decay of the moving average of the weights, which is what is measured and saved (0: no average)."""

    assign: AssignMode = "quality"
    """Which predictions answer for an object: `quality`, those that predict it best, or `shape`, by anchors alone."""
    box_gain: float = 0.05
    """Weight of the box loss."""
    obj_gain: float = 1.0
    """Weight of the objectness loss."""
    cls_gain: float = 0.03
    """Weight of the class loss."""
    label_smoothing: float = 0.0
    """Class targets are 1-s/2 and s/2."""
    focal_gamma: float = 0.0
    """Focal loss: weighs down what is predicted well already (0: plain cross-entropy)."""
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
    shear: float = 0.0
    """Shear, +- degrees."""
    perspective: float = 0.0
    """Change of depth across the picture, +- this share."""
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
    patience: int = 0
    """Stop after N epochs without a better AP (0: never)."""
    noval: bool = False
    """Measure AP after the last epoch only."""
    save_period: int = 0
    """Keep the weights of every N-th epoch as epochN.pt, too (0: none)."""
    tensorboard: bool = False
    """Write the curves for TensorBoard into the run's folder, too."""
    sync_bn: bool = False
    """Several GPUs: normalise over all of their images together."""
    evolve: int = 0
    """Search for better options in N trainings (Optuna) and write the best as runs/evolve/NAME/hyp.yaml; goes on."""

    @property
    def highest_lr(self) -> float:
        """`lr`, or the optimizer's own default."""
        return self.lr if self.lr is not None else 0.02 if self.optimizer == "sgd" else 0.004

    @property
    def decay(self) -> float:
        """`weight_decay`, or the optimizer's own default."""
        return self.weight_decay if self.weight_decay is not None else 0.0005 if self.optimizer == "sgd" else 0.01

    def augmentation(self) -> Augmentation:
        """The options of that name; rectangular batches have no mosaic."""
        chosen = {field.name: getattr(self, field.name) for field in fields(Augmentation)}
        return Augmentation(**{**chosen, "mosaic": 0.0 if self.rect else self.mosaic})

    def loss(self, class_weights: tuple[float, ...] | None = None) -> LossOptions:
        """Gains and variants of the loss."""
        return LossOptions(
            self.box_gain,
            self.obj_gain,
            self.cls_gain,
            self.assign,
            self.label_smoothing,
            self.focal_gamma,
            class_weights,
        )

    def schedule_options(self) -> ScheduleOptions:
        """Shape of the learning rate."""
        return ScheduleOptions(self.highest_lr, self.final_lr, self.warmup_epochs, self.schedule)

    @property
    def mosaic_epochs(self) -> int:
        """Epochs with mosaic and mixing; the rest see single pictures."""
        return self.epochs - min(self.close_mosaic, self.epochs // 3)


FLAGS = {"highest_lr": "lr", "decay": "weight_decay"}
SHARES = "mixup cutmix mosaic flip_lr flip_ud translate hue saturation value label_smoothing perspective final_lr"
COUNTS = "epochs batch_size accumulate"
NOT_NEGATIVE = """workers close_mosaic patience save_period evolve warmup_epochs clip decay box_gain obj_gain
cls_gain focal_gamma degrees shear"""


def check_options(options: TrainOptions) -> None:
    """Raise InputError for values that cannot be trained with."""
    check_values(options)
    if options.cutoff is not None and options.weights is None:
        raise InputError("--cutoff: expected --weights with it")
    if options.backbone is not None and options.weights is not None:
        raise InputError("--backbone with --weights: expected one of them")
    if options.rect and options.multi_scale:
        raise InputError("--rect with --multi-scale: expected one of them")


def check_values(options: TrainOptions) -> None:
    """Raise InputError for an option whose value is of another type or out of its range."""
    for field in fields(options):
        _check_type("--" + field.name.replace("_", "-"), getattr(options, field.name), field.type)

    def expect(names: str, good: Any, words: str) -> None:
        for name in names.split():
            value, flag = getattr(options, name), FLAGS.get(name, name).replace("_", "-")
            if not good(value):
                raise InputError(f"--{flag} {value}: expected {words}")

    expect(COUNTS, lambda value: value >= 1, "at least 1")
    expect(NOT_NEGATIVE, lambda value: value >= 0, "0 or more")
    expect(SHARES, lambda value: 0 <= value <= 1, "0 to 1")
    expect("momentum average scale", lambda value: 0 <= value < 1, "0 to below 1")
    expect("highest_lr", lambda value: 0 < value < 10, "above 0 and below 10, such as 0.004")
    expect("scale_x_y", lambda value: 1 <= value <= 3, "1 to 3")
    expect("seed", lambda value: 0 <= value < 2**32, f"0 to {2**32 - 1}")
    check_loading(options.batch_size, options.workers)
    if options.freeze is not None and options.freeze != "backbone" and not options.freeze.isdecimal():
        raise InputError(f"--freeze {options.freeze}: expected a number of layers, or backbone")


NOT_IN_FILES = {"hyp", "resume", "evolve"}


def read_hyp(name: str) -> dict[str, Any]:
    """A --hyp file, `option: value` lines, as given or in data/: option names to values of the right types.

    Raises InputError for an unknown option or a value of another type or range. `hyp`, `resume` and `evolve` cannot be
    in it.
    """
    path = find_file(name, "data")
    content = read_yaml(path, "lines `option: value`")
    known = {field.name: field for field in fields(TrainOptions)}
    for key, value in content.items():
        if key in NOT_IN_FILES:
            raise InputError(f"{path}: {key} can be given on the command line alone")
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise InputError(f"{path}: unknown option {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        content[key] = _as_command_line(value, known[key].type)
        _check_type(f"{path}: {key}", content[key], known[key].type)
    try:
        check_values(TrainOptions(**content))
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('--')}") from None
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


def _check_type(name: str, value: Any, wanted: Any) -> None:
    choices: tuple[Any, ...] = getattr(wanted, "__args__", ())
    if getattr(wanted, "__origin__", None) is Literal:
        good, words = value in choices, " or ".join(choices)
    else:
        kinds = choices or (wanted,)
        good = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        good = good or (type(value) is int and float in kinds)
        words = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
    if not good:
        raise InputError(f"{name}: expected {words}, got {value!r}")


def with_hyp(options: TrainOptions) -> TrainOptions:
    """The --hyp file's values in place of the options that have their defaults; its name is dropped."""
    if options.hyp is None:
        return options
    defaults = TrainOptions()
    chosen = {k: v for k, v in read_hyp(options.hyp).items() if getattr(options, k) == getattr(defaults, k)}
    return replace(options, **chosen, hyp=None)
