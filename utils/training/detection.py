"""A detector's training: what it writes, and how its epochs are measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from utils.data.dataset import collate_training, make_training_loader
from utils.data.labels import Sample
from utils.data.stats import draw_labels
from utils.evaluation.evaluate import EvaluationSettings, collect, evaluation_loader
from utils.evaluation.metrics import Metrics, measure
from utils.evaluation.pictures import draw_predictions
from utils.files import write_text
from utils.training.anchors import all_anchors
from utils.training.history import DistilledRecord, Panel, Record
from utils.training.pictures import draw_batch
from utils.training.run import Run

SHOWN_CONFIDENCE = 0.25  # of the predictions that are drawn
NOT_MEASURED = Metrics(0.0, 0.0, 0, 0, {})  # what other ranks hand in: rank 0 measures


class DetectionRun(Run):
    """The training of a Darknet on images with boxes."""

    SCORE = "ap", "AP"
    PANELS: ClassVar[tuple[Panel, ...]] = (
        Panel("Training loss", {"box": "box", "objectness": "objectness", "classes": "classes"}),
        Panel("Validation", {"ap50": "AP@.5", "ap": "AP@.5:.95"}, 1),
    )
    RECORD: ClassVar[type[Record]] = Record

    @property
    def network(self) -> str:
        """What the network's cfg is called."""
        return Path(self.options.cfg or "").name

    def write_start(self) -> None:
        """model.cfg and its names, and pictures of the labels and of the first batches."""
        comment = f"{self.network} as trained on {Path(self.options.data).name}"
        write_text(self.folder / "model.cfg", self.model.graph.to_cfg(comment))
        write_text(self.folder / "model.names", "\n".join(self.model.names) + "\n")
        anchors = all_anchors(self.model.graph)
        draw_labels(self.folder / "labels.png", self.dataset.samples, self.model.names, self.settings.size, anchors)
        for number, items in self.first_items():
            images, targets, _ = collate_training(items)
            draw_batch(self.folder / f"train_batch{number}.jpg", images, targets, self.model.names)

    def training_loader(self, pin: bool) -> DataLoader[Any]:
        """Augmented images with their boxes."""
        return make_training_loader(self.dataset, self.sampler, self.options.workers, pin)

    def checks_loader(self, mine: Sequence[Sample]) -> DataLoader[Any]:
        """Letterboxed images."""
        return evaluation_loader(mine, self.settings)

    def measure(self, mine: Sequence[Sample], checks: DataLoader[Any] | None) -> Metrics:
        """AP."""
        found = []
        if checks is not None:
            model = self.trainee.average.model
            found = collect(model, mine, self.settings, "validation", checks, self.check_alone)
        every = [result for results in self.ranks.gather(found) for result in results]
        return self.ranks.share(measure(every, self.model.names) if self.ranks.first else NOT_MEASURED)

    def scores(self, metrics: Metrics | None) -> dict[str, float | None]:
        """AP@.5 and AP@.5:.95."""
        return {"ap50": metrics.ap50 if metrics else None, "ap": metrics.ap if metrics else None}

    def restored(self, best: dict[str, Any]) -> Metrics:
        """AP from its plain values."""
        return Metrics.from_dict(best)

    def write_best(self) -> None:
        """In both formats."""
        super().write_best()
        self.save_weights(self.trainee.average.model, self.folder / "best.weights")

    def write_end(self, checks: DataLoader[Any]) -> None:
        """Labels beside predictions."""
        dataset: Any = checks.dataset
        settings = EvaluationSettings(self.settings.size, SHOWN_CONFIDENCE, self.settings.iou)
        model = self.trainee.average.model
        draw_predictions(self.folder / "predictions.jpg", model, dataset, self.model.names, settings)


class DistilledRun(DetectionRun):
    """The training of a Darknet with a teacher."""

    PANELS = (
        *DetectionRun.PANELS,
        Panel("Distillation", {"distill_logits": "logits", "distill_box": "box", "distill_features": "features"}),
    )
    RECORD = DistilledRecord
