"""A training from its options to its end, whatever is trained: new or resumed, in one process or several."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.errors import InputError, Stopped
from utils.log import counted
from utils.network.depthwise import spare_depthwise
from utils.training.checkpoint import O, find_run, reopen
from utils.training.distributed import Ranks, join_ranks
from utils.training.engine import Trainee, network_of
from utils.training.guard import Guard
from utils.training.history import check_board
from utils.training.optimizers import make_optimizer
from utils.training.run import Callback, Run, TrainResult
from utils.training.schedule import Average, Schedule, ScheduleOptions
from utils.training.stop import stop_on_signal
from utils.training.trouble import explained

LARGE = 1_000_003  # between the seeds of ranks


def conduct(
    options: O,
    check: Callable[[O], O],
    prepare: Callable[..., Run],
    callback: Callback | None,
    command: str,
    parent: str,
) -> TrainResult:
    """Train to the end: `check` looks at the options, `prepare(options, ranks, stop, checkpoint, folder)` makes a run.

    `command` (`train.py`) and `parent`, where its runs are, are for --resume.

    Raises InputError for bad input before any training, and Stopped when SIGINT or SIGTERM ended it in good order.
    """
    checkpoint = folder = None
    if options.resume is not None:
        file = find_run(options.resume, parent)
        checkpoint, options = reopen(file, options)
        folder = file.parent
    options = check(options)
    if options.tensorboard:
        check_board()
    with join_ranks(options.device) as (ranks, device), stop_on_signal() as stop:
        if options.sync_bn and ranks.world > 1 and not device.startswith("cuda"):
            raise InputError("--sync-bn: expected GPUs")
        with explained(options.batch_size, stop):
            run = prepare(replace(options, device=device), ranks, stop, checkpoint, folder)
            run.options = replace(run.options, device=options.device)  # as asked for: rank 0's own GPU is no choice
            if checkpoint is None:
                run.start()
            else:
                run.resume(checkpoint)
            if not ranks.first:  # each rank drops and mixes by a chance of its own
                torch.manual_seed(options.seed + ranks.rank * LARGE + run.progress.epoch)
        try:
            with explained(run.options.batch_size, stop):
                return run.all_epochs(callback)
        except Stopped as stopped:
            place = run.place
            if stopped.whole:
                run.save()
            else:
                place += ", in the middle of the next, which is not kept"
            start = "python" if ranks.world == 1 else f"torchrun --nproc-per-node {ranks.local_world} ..."
            stopped.advise(f"in {place}; go on with: {start} {command} --resume {run.folder}")
            raise


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy and torch; on a CPU torch computes the same way each time, on a GPU the fastest."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time


def check_shares(batch_size: int, images: int, ranks: Ranks) -> None:
    """Raise InputError for a batch that cannot be shared out among the processes."""
    if batch_size % ranks.world or images < ranks.world:
        raise InputError(
            f"--batch-size {batch_size}, {counted(images, 'image')}: "
            f"expected a multiple of the {ranks.world} processes, and as many images at least"
        )


def make_trainee(
    model: nn.Module,
    criterion: nn.Module,
    options: Any,
    steps: int,
    folder: Path,
    dtype: torch.dtype | None,
    ranks: Ranks,
    frozen: Sequence[nn.Module] = (),
) -> Trainee:
    """All that a step changes: the model with its optimizer, schedule, average and guard, over `steps` an epoch.

    `options` are EngineOptions; the model is on its device already. What it wraps, see `network_of`, is averaged.
    """
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, options.optimizer, options.highest_lr, options.momentum, options.decay)
    average = Average(network_of(model), options.average)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    shape: ScheduleOptions = options.schedule_options()
    schedule = Schedule(optimizer, shape, options.epochs, steps)
    guard = Guard(model, folder / "last.pt", scaler)
    if dtype == torch.bfloat16 and device.type == "cpu":
        spare_depthwise(model)
    if options.sync_bn and ranks.world > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return Trainee(
        ranks.wrap(model, device),
        criterion,
        schedule,
        average,
        guard,
        scaler,
        dtype,
        options.clip,
        options.accumulate,
        frozen,
        ranks,
    )
