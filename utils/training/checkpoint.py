"""The whole state of a training, in its last.pt: with it a stopped run goes on as if it had never stopped."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from utils.data.classes import ClassSample
from utils.data.labels import Sample
from utils.errors import InputError, WeightsError
from utils.files import PROJECT
from utils.network.weights import Checkpoint, read_checkpoint
from utils.old_options import current_options
from utils.training.engine import Totals, Trainee
from utils.training.engine_options import EngineOptions
from utils.training.history import EpochRecord

O = TypeVar("O", bound=EngineOptions)


@dataclass
class Progress:
    """Where a training stands: the epoch (from 0) and how far it has come in it, all records, the best so far."""

    epoch: int = 0
    totals: Totals = field(default_factory=Totals)
    records: list[Any] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Any] | None = None
    """The best epoch's metrics, as plain values."""


def capture(trainee: Trainee, progress: Progress, options: EngineOptions, fingerprint: str) -> dict[str, Any]:
    """All that `restore` needs, as plain values and tensors (loads with `weights_only=True`)."""
    return {
        "options": asdict(options),
        "loss": options.LOSS_VERSION,
        "data": fingerprint,
        "epoch": progress.epoch,
        "totals": progress.totals.state_dict(),
        "records": [asdict(record) for record in progress.records],
        "best_epoch": progress.best_epoch,
        "best": progress.best,
        "model": trainee.ranks.unwrap(trainee.model).state_dict(),
        "average": trainee.average.state_dict(),
        "optimizer": trainee.schedule.optimizer.state_dict(),
        "scaler": trainee.scaler.state_dict(),
        "regulariser": trainee.regulariser.state_dict() if trainee.regulariser is not None else None,
        "skipped": [trainee.guard.skipped, trainee.guard.in_a_row],
        "random": torch.get_rng_state(),
        "random_gpu": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(state: dict[str, Any], trainee: Trainee, record: type[EpochRecord]) -> Progress:
    """Put a captured state back into freshly built objects. `record` is what an epoch's record is."""
    trainee.ranks.unwrap(trainee.model).load_state_dict(state["model"])
    trainee.average.load_state_dict(state["average"])
    trainee.schedule.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # empty where it was not in use: float16 may come with another device
        trainee.scaler.load_state_dict(state["scaler"])
    if trainee.regulariser is not None:
        trainee.regulariser.load_state_dict(state["regulariser"])
    trainee.guard.skipped, trainee.guard.in_a_row = state["skipped"]
    torch.set_rng_state(state["random"])
    if len(state["random_gpu"]) == torch.cuda.device_count() and state["random_gpu"]:
        torch.cuda.set_rng_state_all(state["random_gpu"])
    records = [record(**values) for values in state["records"]]
    return Progress(state["epoch"], Totals(**state["totals"]), records, state["best_epoch"], state["best"])


def find_run(where: str, parent: str = "runs/train") -> Path:
    """The last.pt that --resume means: `last` is the newest under `parent`, else a run's folder or the file itself.

    Raises InputError when there is none.
    """
    if where == "last":
        found = sorted(Path(parent).glob("*/last.pt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise InputError(f"--resume last: expected a training under {parent}, found none")
        return found[-1]
    for path in (Path(where), PROJECT / where):
        file = path / "last.pt" if path.is_dir() else path
        if file.is_file():
            return file
        if path.is_dir():
            raise InputError(f"--resume {where}: expected a training that was started; the folder holds no last.pt")
    raise InputError(f"--resume {where!r}: expected `last`, a run's folder or its last.pt; there is no such file")


MACHINE = ("device", "workers", "cache")  # options that may be given anew with --resume


def reopen(path: Path, given: O, explicit: bool = False) -> tuple[Checkpoint, O]:
    """A stopped training's checkpoint and the options it was started with, those of the machine as given now.

    Raises WeightsError or InputError, also for other options than these: a resumed training is the one it was. Options
    that have their default count as not given, unless all were given on purpose (`explicit`: see `resumed_options`).
    """
    checkpoint = read_stopped(path, type(given))
    options = stored_options(path, checkpoint, type(given))
    flags = [f"--{name}" for name in MACHINE if hasattr(given, name)]
    machine = f"{', '.join(flags[:-1])} and {flags[-1]}"
    for each in fields(given):
        name, value, old = each.name, getattr(given, each.name), getattr(options, each.name)
        if name in (*MACHINE, "resume") or value == old or (value == each.default and not explicit):
            continue
        flag = name.replace("_", "-")
        raise InputError(
            f"--resume with --{flag} {value}: this training was started with {'none' if old is None else old} "
            f"and keeps it; only {machine} can be changed"
        )
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--resume: expected to write into {path.parent}, which is not allowed")
    return checkpoint, replace(options, **{name: getattr(given, name) for name in MACHINE if hasattr(given, name)})


def read_stopped(path: Path, kind: type[EngineOptions]) -> Checkpoint:
    """A training's checkpoint, its state as if the loss had always had its present size. Raises like `reopen`."""
    checkpoint = read_checkpoint(path)
    state = checkpoint.training
    if state is None or state.get("loss", 1) == kind.LOSS_VERSION:
        return checkpoint
    options = stored_options(path, checkpoint, kind)
    if options.optimizer == "sgd":
        raise InputError(
            f"{path}: this training is an older version's, whose SGD had a loss --batch-size times as large; "
            f"start anew with --weights {path}"
        )
    return replace(checkpoint, training=current_loss(state, options) | {"loss": kind.LOSS_VERSION})


POWERS = {"mean": 1, "exp_avg": 1, "square": 2, "exp_avg_sq": 2}  # of the gradient, in the state of Muon and AdamW


def current_loss(state: dict[str, Any], options: EngineOptions) -> dict[str, Any]:
    """The state of a training whose loss was the mean times the batch size, as if it had been the mean."""
    moments = {
        key: {
            name: value / options.batch_size ** POWERS[name] if name in POWERS else value
            for name, value in each.items()
        }
        for key, each in state["optimizer"]["state"].items()
    }
    return state | {
        "options": state["options"] | {"clip": options.clip / options.batch_size},
        "optimizer": state["optimizer"] | {"state": moments},
    }


def stored_options(path: Path, checkpoint: Checkpoint, kind: type[O]) -> O:
    """The options of a stopped training, without what was removed since.

    Raises InputError or WeightsError when it cannot be resumed.
    """
    if checkpoint.training is None:
        raise InputError(f"{path}: this training is finished; to train on, start a new one with --weights {path}")
    try:
        return kind(**current_options(checkpoint.training["options"], path))
    except (KeyError, TypeError):
        raise WeightsError(
            f"{path}: its training state is another command's or version's; start anew with --weights {path}"
        ) from None


def resumed_options(arguments: list[str], kind: type[O], parent: str) -> O | None:
    """The stopped training's options where a command line has --resume, so that what else stands on it comes first."""
    where = value_of("--resume", arguments)
    if where is None:
        return None
    path = find_run(where, parent)
    return stored_options(path, read_stopped(path, kind), kind)


def value_of(flag: str, arguments: list[str]) -> str | None:
    """What a command line gives a flag: `FLAG VALUE` or `FLAG=VALUE`."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else following
    return None


def data_fingerprint(samples: Sequence[Sample | ClassSample]) -> str:
    """A digest of the images' names and sizes in bytes and of all labels."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.image.name}\0{sample.image.stat().st_size}\0".encode())
        digest.update(sample.labels.tobytes())
    return digest.hexdigest()
