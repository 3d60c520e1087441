"""Trainings after a pruning, with the network as it was as teacher; and how pruning and training go on when stopped."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from utils.data.datafile import DataSpec
from utils.errors import InputError, Stopped
from utils.files import find_file, new_run_folder, write_text
from utils.network.weights import read_checkpoint
from utils.old_options import current_options
from utils.pruning.options import PruneOptions
from utils.training.options import TrainOptions
from utils.training.run import TrainResult

Train = Callable[[TrainOptions], TrainResult]
PruneOnce = Callable[[PruneOptions, Path], Any]
SEARCH = "prune.json"  # of trainings in turn with pruning: what was wanted
MACHINE = ("device", "workers")  # options that may be given anew with --resume


def begin(options: PruneOptions, spec: DataSpec, runs: str) -> tuple[PruneOptions, Path]:
    """A new folder in `runs`, with the options in it to go on by: files by their whole paths, to be found anywhere."""
    cfg = None if options.cfg is None else str(find_file(options.cfg, "cfg").resolve())
    weights = str(find_file(options.weights, "weights").resolve())
    options = replace(options, weights=weights, cfg=cfg, data=str(spec.path))
    folder = new_run_folder(runs, options.name)
    write_text(folder / SEARCH, json.dumps(asdict(options), indent=2) + "\n")
    return options, folder


def reopen(given: PruneOptions) -> tuple[PruneOptions, Path]:
    """The options that were begun with in the folder `given.resume`, those of the machine as given now; the folder.

    Raises InputError for a folder of something else, and for other options.
    """
    folder = Path(given.resume or "")
    if (folder / SEARCH).exists() and (folder / "pruned.pt").exists():
        raise InputError(f"--resume {folder}: it is finished already, with pruned.pt as its result")
    try:
        options = PruneOptions(**current_options(json.loads((folder / SEARCH).read_text()), folder / SEARCH))
    except (OSError, ValueError, TypeError):
        raise InputError(
            f"--resume {folder}: expected a folder of prune.py --auto or --finetune-epochs, with its {SEARCH}"
        ) from None
    for field in fields(given):
        if field.name not in ("resume", *MACHINE) and getattr(given, field.name) != field.default:
            flag = field.name.replace("_", "-")
            raise InputError(
                f"--resume with --{flag}: expected only --device and --workers; all else is as in the stopped run"
            )
    return replace(options, **{name: getattr(given, name) for name in MACHINE}), folder


@contextmanager
def resumable(folder: Path, place: Callable[[], str]) -> Iterator[None]:
    """Where work in `folder` is stopped, say at which place, and how to go on."""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)
        stopped.advise(f"in {place()}; go on with: python prune.py --resume {folder}")
        raise stopped from None


def recovery(options: PruneOptions, folder: Path) -> TrainOptions:
    """The training of `folder`/pruned.pt, into `folder`/train, with what `options` were given as teacher."""
    assert options.finetune_epochs
    return TrainOptions(
        weights=str(folder / "pruned.pt"),
        data=options.data or "",
        epochs=options.finetune_epochs,
        t_weights=options.weights,
        t_cfg=options.cfg,
        project=str(folder),
        name="train",
        **{key: getattr(options, key) for key in ("batch_size", "workers", "device", "seed", "img_size")},
    )


def train_or_go_on(wanted: TrainOptions, train: Train) -> Path:
    """The folder of the training, once it is finished: begun, gone on with, or found to be so."""
    folder = Path(wanted.project or "") / wanted.name
    last = folder / "last.pt"
    if not last.exists():
        shutil.rmtree(folder, ignore_errors=True)  # stopped before there was anything to go on from
        return train(wanted).folder
    if read_checkpoint(last).training is not None:
        train(TrainOptions(resume=str(folder), device=wanted.device, workers=wanted.workers))
    return folder
