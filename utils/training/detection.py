"""A detector's training: what it writes, and how its epochs are measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from utils.data.coco import CocoTruth
from utils.data.dataset import collate_training, make_training_loader
from utils.data.labels import Sample
from utils.data.stats import draw_labels
from utils.evaluation.evaluate import collect, evaluation_loader
from utils.evaluation.metrics import Metrics, measure
from utils.evaluation.pictures import draw_predictions
from utils.evaluation.results import as_asked, with_objects
from utils.files import write_text
from utils.log import say
from utils.pruning.gammas import NEAR_ZERO, layer_counts
from utils.pruning.plots import draw_gammas, draw_sparsity
from utils.pruning.sparsity import Sparsity
from utils.training.anchors import all_anchors
from utils.training.history import DistilledRecord, Panel, Record
from utils.training.pictures import draw_batch
from utils.training.run import Run

SHOWN_CONFIDENCE = 0.25  # of the predictions that are drawn
NOT_MEASURED = Metrics(0.0, 0.0, 0, 0, {})  # what other ranks hand in: rank 0 measures


@dataclass
class DetectionRun(Run):
    """The training of a Darknet on images with boxes.

    `coco` are the validation images' objects, where the data set names an annotation file.
    """

    SCORE = "ap", "AP"
    PANELS: ClassVar[tuple[Panel, ...]] = (
        Panel("Training loss", {"box": "box", "objectness": "objectness", "classes": "classes"}),
        Panel("Validation", {"ap50": "AP@.5", "ap": "AP@.5:.95"}, 1),
    )
    RECORD: ClassVar[type[Record]] = Record

    coco: CocoTruth | None = None

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
        """AP, of the same objects as test.py's."""
        found = []
        if checks is not None:
            model = self.trainee.average.model
            found = collect(model, mine, self.settings, "validation", checks, self.check_alone)
        every = [result for results in self.ranks.gather(found) for result in results]
        if self.coco is not None:
            every = [with_objects(result, self.coco) for result in every]
            every, _ = as_asked(every, self.model.names, range(len(self.coco.category_ids)), self.options.single_cls)
        return self.ranks.share(measure(every, self.model.names) if self.ranks.first else NOT_MEASURED)

    def scores(self, metrics: Metrics | None) -> dict[str, float | None]:
        """AP@.5 and AP@.5:.95."""
        return {"ap50": metrics.ap50 if metrics else None, "ap": metrics.ap if metrics else None}

    @property
    def sparsity(self) -> Sparsity | None:
        """With --sparsity, what pulls gammas towards 0."""
        return self.trainee.regulariser if isinstance(self.trainee.regulariser, Sparsity) else None

    def close_epoch(self, metrics: Metrics | None) -> dict[str, float | None]:
        """With --sparsity: how far it is, and how strong."""
        if self.sparsity is None:
            return {}
        strength = self.sparsity.strength  # the next epoch's may differ
        return {"near_zero": self.sparsity.after_epoch(self.trainee.average.model), "sparsity": strength}

    def remarks(self, record: Record) -> str:
        """With --sparsity, the share of gammas near zero."""
        if record.near_zero is None:
            return ""
        return f"{record.near_zero:.1%} of gammas below {NEAR_ZERO:g} (S {record.sparsity:.2g}), "

    def restored(self, best: dict[str, Any]) -> Metrics:
        """AP from its plain values."""
        return Metrics.from_dict(best)

    def write_best(self) -> None:
        """In both formats."""
        super().write_best()
        self.save_weights(self.trainee.average.model, self.folder / "best.weights")

    def draw(self) -> None:
        """The curves; with --sparsity, the gammas over the epochs."""
        super().draw()
        if self.sparsity is not None:
            draw_gammas(
                self.folder / "gammas.png", self.sparsity.counts, f"{self.folder.name}: gammas of the averaged weights"
            )

    def write_end(self, checks: DataLoader[Any]) -> None:
        """Labels beside predictions; with --sparsity, the layers' gammas."""
        dataset: Any = checks.dataset
        settings = replace(self.settings, confidence=SHOWN_CONFIDENCE)
        model = self.trainee.average.model
        draw_predictions(self.folder / "predictions.jpg", model, dataset, self.model.names, settings)
        if self.sparsity is not None:
            title = f"{self.folder.name}: gammas of the averaged weights"
            draw_sparsity(self.folder / "sparsity.png", layer_counts(self.sparsity.gammas, model), title)
            shares = [self.progress.records[number].near_zero for number in (-1, self.progress.best_epoch - 1)]
            say(
                f"gammas below {NEAR_ZERO:g}: {shares[0]:.1%} in last.pt (sparsity.png), "
                f"{shares[1]:.1%} in best.pt, epoch {self.progress.best_epoch}"
            )


class DistilledRun(DetectionRun):
    """The training of a Darknet with a teacher."""

    PANELS = (
        *DetectionRun.PANELS,
        Panel("Distillation", {"distill_logits": "logits", "distill_box": "box", "distill_features": "features"}),
    )
    RECORD = DistilledRecord
