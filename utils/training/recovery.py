"""Trainings that belong to a pruning: before it, towards few large gammas; after it, with a teacher."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.log import say
from utils.network.weights import read_checkpoint
from utils.pruning.options import PruneOptions
from utils.training.options import TrainOptions
from utils.training.run import TrainResult

Train = Callable[[TrainOptions], TrainResult]
PruneOnce = Callable[[PruneOptions, Path], Any]


def recovery(options: PruneOptions, folder: Path) -> TrainOptions:
    """The training of `folder`/pruned.pt, into `folder`/train, with what `options` were given as teacher."""
    start = str(folder / "pruned.pt")
    return TrainOptions(
        weights=start,
        epochs=options.finetune_epochs,
        t_weights=options.weights,
        t_cfg=options.cfg,
        **_shared(options, folder),
    )


def sparse_training(options: PruneOptions, folder: Path) -> TrainOptions:
    """Sparsity training of the network that `options` name, into `folder`/train."""
    return TrainOptions(
        weights=options.weights,
        cfg=options.cfg,
        epochs=options.sparsity_epochs,
        sr=True,
        sparsity_schedule="auto",
        sparsity_max_drop=options.max_map_drop,
        **_shared(options, folder),
    )


def _shared(options: PruneOptions, folder: Path) -> dict[str, Any]:
    keys = ("batch_size", "workers", "device", "seed", "img_size")
    places = {"data": options.data or "", "project": str(folder), "name": "train"}
    return {**{key: getattr(options, key) for key in keys}, **places}


def train_or_go_on(wanted: TrainOptions, train: Train) -> Path:
    """The folder of the training, once it is finished: begun, gone on with, or found to be so."""
    folder = Path(wanted.project or "") / wanted.name
    last = folder / "last.pt"
    if not last.exists():
        return train(wanted).folder
    if read_checkpoint(last).training is not None:
        train(TrainOptions(resume=str(folder)))
    return folder


def in_steps(plan: list[PruneOptions], folder: Path, prune: PruneOnce, train: Train) -> list[tuple[Any, TrainResult]]:
    """Prune by each of the options, train, go on from there: what each step gave, in `folder`/stepN."""
    results: list[tuple[Any, TrainResult]] = []
    for number, options in enumerate(plan, start=1):
        say(f"step {number} of {len(plan)}")
        step = folder / f"step{number}"
        step.mkdir()
        before = str(results[-1][1].folder / "best.pt") if results else None
        pruned = prune(options if before is None else replace(options, weights=before, cfg=None), step)
        results.append((pruned, train(recovery(options, step))))
    return results
