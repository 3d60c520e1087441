"""Every option of `classify.py train`, with its default and its help."""

from dataclasses import dataclass, fields

from utils.data.classification import ClassAugmentation
from utils.errors import InputError
from utils.network.ghosts import Variant
from utils.training.engine_options import EngineOptions, Rule, check_values


@dataclass(frozen=True)
class ClassStart:
    """What is trained, on what, from where."""

    data: str = "shapes"
    """A folder with train/CLASS/ and valid/CLASS/, or CLASS/ alone, or a CSV file; shapes: the embedded shapes."""
    variant: Variant | None = None
    """GhostNet: release (fits the cfgs), paper, or v2 with attention (default: the weights', or release)."""
    width: float | None = None
    """Times the channels of the paper (default: the weights', or 0.5)."""
    weights: str | None = None
    """Start from these weights: a .pt by classify.py or a published GhostNet; other classes get a new last layer."""
    img_size: int | None = None
    """Input side in pixels (default: the weights', or 64; photographs want 224)."""


@dataclass(frozen=True)
class ClassTrainOptions(EngineOptions, ClassStart):
    """Train a classifier."""

    epochs: int = 17
    """Times through the training images."""
    batch_size: int = 32
    """Images per step, over all processes."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate rises (at least 100 steps, at most a fifth of the training)."""
    label_smoothing: float = 0.1
    """The share of each target that is spread over all classes."""
    dropout: float = 0.2
    """Share of the embedding that is dropped in training."""
    mixup: float = 0.0
    """Alpha of mixup, blending two images and their classes (0: none)."""
    cutmix: float = 0.0
    """Alpha of cutmix, pasting a rectangle of one image into another (0: none); with mixup, one of them a batch."""
    area: float = 0.8
    """Least share of an image that is cut out and scaled to the input."""
    flip_lr: float = 0.5
    """Chance of left-right mirroring; 0 where left and right differ (text, traffic signs)."""
    flip_ud: float = 0.0
    """Chance of upside down."""
    randaugment: int = 1
    """Random changes of colour and shape in a row (0: none)."""
    magnitude: int = 7
    """Strength of these changes, 0 to 30."""
    erasing: float = 0.1
    """Chance of an erased rectangle."""

    def augmentation(self) -> ClassAugmentation:
        """The options of that name."""
        return ClassAugmentation(**{field.name: getattr(self, field.name) for field in fields(ClassAugmentation)})


CLASS_RULES: tuple[Rule, ...] = (
    ("flip_lr flip_ud erasing", lambda value: 0 <= value <= 1, "0 to 1"),
    ("label_smoothing dropout", lambda value: 0 <= value < 1, "0 to below 1"),
    ("mixup cutmix randaugment", lambda value: value >= 0, "0 or more"),
    ("magnitude", lambda value: 0 <= value <= 30, "0 to 30"),
    ("area", lambda value: 0 < value <= 1, "above 0 and up to 1"),
    ("width", lambda value: value is None or 0.1 <= value <= 3, "0.1 to 3"),
    ("img_size", lambda value: value is None or 32 <= value <= 4096, "32 to 4096 pixels"),
)


def check_class_options(options: ClassTrainOptions) -> None:
    """Raise InputError for values that cannot be trained with."""
    check_values(options, CLASS_RULES)
    if options.batch_size < 2:
        raise InputError(f"--batch-size {options.batch_size}: expected at least 2, for batch normalisation")
