"""A classifier's training: its loss, what it writes, and how its epochs are measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from utils.data.classes import ClassSample
from utils.data.classification import ClassEvaluationSet, class_evaluation_loader, class_training_loader, normalize
from utils.data.classification import collate as collate_classes
from utils.errors import DataError
from utils.evaluation.class_plots import SHOWN, draw_class_confusion, draw_least_sure, draw_tiles
from utils.evaluation.classification import ClassifierMetrics, Predictions, classify, measure_classes
from utils.training.history import EpochRecord, Panel
from utils.training.run import Run

NOT_MEASURED = ClassifierMetrics(0.0, 0.0, 0.0, 0, {})  # what other ranks hand in: rank 0 measures


@dataclass(frozen=True)
class ClassRecord(EpochRecord):
    """One epoch of a classifier: the training loss; validation loss and accuracy, None where they were not measured."""

    loss: float
    valid_loss: float | None
    top1: float | None
    top5: float | None


@dataclass(frozen=True)
class ClassSettings:
    """How images are classified: input side, images a step, loading processes, the network's numbers."""

    size: int
    batch_size: int
    workers: int
    dtype: torch.dtype | None

    def loader(self, samples: Sequence[ClassSample]) -> DataLoader[Any]:
        """The samples for `classify`."""
        return class_evaluation_loader(ClassEvaluationSet(samples, self.size), self.batch_size, self.workers)


class ClassLoss(nn.Module):
    """(logits (B, C), classes (B,) or their shares (B, C), input size) -> (cross-entropy, the same as a part (1,))."""

    parts = ("loss",)

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Means over the batch."""
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)
        return loss, loss.detach()[None]


def mixing(num_classes: int, mixup: float, cutmix: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """From a batch as loaded to what the classifier takes: normalised, and mixed with alphas above 0."""
    kinds: list[Any] = []
    if mixup:
        kinds.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
    if cutmix:
        kinds.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
    mix = v2.RandomChoice(kinds) if kinds else None

    def prepare(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = normalize(images).contiguous(memory_format=torch.channels_last)
        return (images, targets) if mix is None else mix(images, targets)

    return prepare


class ClassRun(Run):
    """The training of a GhostNet on images with one class each."""

    SCORE = "top1", "top-1 accuracy"
    PANELS = (
        Panel("Loss", {"loss": "training (augmented, smoothed)", "valid_loss": "validation"}),
        Panel("Validation", {"top1": "top-1", "top5": "top-5"}, 1.02),
    )
    RECORD = ClassRecord

    settings: ClassSettings
    found: Predictions | None = None
    """Of the epoch that was measured last, on all validation images; rank 0's alone."""
    best_found: Predictions | None = None

    @property
    def network(self) -> str:
        """`GhostNet 0.5x`."""
        return f"GhostNet {self.model.width_mult:g}x"

    def write_start(self) -> None:
        """Pictures of the first batches, as they are before mixing."""
        for number, items in self.first_items():
            batch = collate_classes(items)
            assert batch is not None
            words = [self.model.names[label] for label in batch[1].tolist()[:SHOWN]]
            draw_tiles(
                self.folder / f"train_batch{number}.jpg",
                list(batch[0][:SHOWN]),
                words,
                "Training images",
            )

    def training_loader(self, pin: bool) -> DataLoader[Any]:
        """Augmented images."""
        return class_training_loader(self.dataset, self.sampler, self.options.workers, pin)

    def checks_loader(self, mine: Sequence[ClassSample]) -> DataLoader[Any]:
        """Images as they are."""
        return self.settings.loader(mine)

    def measure(self, mine: Sequence[ClassSample], checks: DataLoader[Any] | None) -> ClassifierMetrics:
        """Accuracy. Raises DataError when not one image can be read."""
        part = None
        if checks is not None:
            model = self.trainee.average.model
            part = classify(
                model, len(self.model.names), checks, self.settings.dtype, "validation", self.check_alone
            ).placed(self.ranks.rank, self.ranks.world)
        parts = self.ranks.gather(part)
        if self.ranks.first:
            self.found = Predictions.joined([part for part in parts if part is not None])
        metrics = self.ranks.share(measure_classes(self.found, self.model.names) if self.found else NOT_MEASURED)
        if not metrics.images:
            raise DataError(f"{self.options.data}: none of {len(self.valid):,} validation images can be read")
        return metrics

    def scores(self, metrics: ClassifierMetrics | None) -> dict[str, float | None]:
        """Loss and accuracy."""
        if metrics is None:
            return dict.fromkeys(("valid_loss", "top1", "top5"))
        return {"valid_loss": metrics.loss, "top1": metrics.top1, "top5": metrics.top5}

    def restored(self, best: dict[str, Any]) -> ClassifierMetrics:
        """Accuracy from its plain values."""
        return ClassifierMetrics.from_dict(best)

    def write_best(self) -> None:
        """And keep what it found, to be drawn."""
        super().write_best()
        self.best_found = self.found

    def write_end(self, checks: DataLoader[Any]) -> None:
        """The confusion matrix of the best epoch (of those since a stop), and the images that it is least sure of."""
        found = self.best_found or self.found
        if found is not None:
            draw_class_confusion(self.folder / "confusion.png", found, self.model.names)
            dataset = ClassEvaluationSet(self.valid, self.settings.size)
            draw_least_sure(self.folder / "predictions.jpg", found, dataset, self.model.names)
