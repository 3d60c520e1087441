"""--evolve N: a search for better options in N trainings, by Optuna. Bad ones end early; a stopped search goes on."""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from utils.errors import InputError, Stopped
from utils.files import whole_file, write_text
from utils.log import say
from utils.old_options import current_options
from utils.training.options import TrainOptions, check_options
from utils.training.run import EpochEnd, TrainResult

SEARCHED: dict[str, tuple[float, float, bool]] = {  # lowest, highest, logarithmic
    "lr": (0.0005, 0.02, True),
    "weight_decay": (0.0001, 0.1, True),
    "box_gain": (0.02, 0.2, True),
    "obj_gain": (0.3, 3.0, True),
    "cls_gain": (0.01, 0.1, True),
    "mosaic": (0.0, 1.0, False),
    "mixup": (0.0, 0.3, False),
    "scale": (0.0, 0.9, False),
    "translate": (0.0, 0.3, False),
    "degrees": (0.0, 20.0, False),
    "hue": (0.0, 0.1, False),
    "saturation": (0.0, 0.9, False),
    "value": (0.0, 0.9, False),
    "flip_ud": (0.0, 0.5, False),
}
FREE = ("evolve", "device", "workers", "cache")  # options that may change when a search goes on
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def evolve(options: TrainOptions, train: Callable[..., TrainResult]) -> dict[str, float]:
    """Search until N trainings are done, those of an earlier call included, and return the best options found.

    The first training has the options as they are. Everything is in runs/evolve/NAME: `study.db`, a folder for each
    training, `trials.csv` and `hyp.yaml`. Raises InputError when that folder's search was about other options.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--evolve: expected a start without torchrun; its trainings run one after another")
    check_options(options)
    folder = Path(options.project or "runs/evolve") / options.name
    ranges = _ranges(options)
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(options, folder)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # stopped or killed in the middle: anew
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)
    while len(study.get_trials(states=DONE)) < options.evolve:
        _one(study, options, ranges, folder, train)
        _write(study, folder)
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise InputError(f"{folder}: no training of the search came to its end")
    best = study.best_trial
    say(f"best of {len(study.get_trials(states=DONE))}: AP@.5:.95 {best.value:.3f} in training {best.number}")
    say(f"its options: {folder / 'hyp.yaml'} (train.py --hyp), all trainings: {folder / 'trials.csv'}")
    return dict(best.params)


def _ranges(options: TrainOptions) -> dict[str, tuple[float, float, bool]]:
    """SEARCHED, each range widened so that it holds where the search starts. Raises InputError where that cannot be."""
    start, ranges = _start(options), {}
    for key, (low, high, log) in SEARCHED.items():
        if log and start[key] <= 0:
            flag = key.replace("_", "-")
            raise InputError(f"--{flag} {start[key]} with --evolve: expected above 0; the search multiplies it")
        ranges[key] = min(low, start[key]), max(high, start[key]), log
    return ranges


def _start(options: TrainOptions) -> dict[str, float]:
    own = {"lr": options.highest_lr, "weight_decay": options.decay}
    return {key: own.get(key, getattr(options, key)) for key in SEARCHED}


def _study(options: TrainOptions, folder: Path) -> optuna.Study:
    """The search that `folder` holds, or a new one; one without a finished training is begun anew."""
    new = {key: value for key, value in asdict(options).items() if key not in FREE}
    place: dict[str, Any] = {"storage": f"sqlite:///{folder / 'study.db'}", "study_name": "search"}
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, options.epochs // 4))
    how: dict[str, Any] = {"direction": "maximize", "load_if_exists": True, "pruner": pruner}
    study = optuna.create_study(**place, **how)
    if not study.get_trials(states=DONE):
        optuna.delete_study(**place)
        study = optuna.create_study(**place, **how)
        study.set_user_attr("options", json.dumps(new, sort_keys=True))
        study.enqueue_trial(_start(options))
    old = current_options(json.loads(study.user_attrs["options"]), folder)
    name = next((key for key in {**new, **old} if key not in old or key not in new or old[key] != new[key]), None)
    if name is not None:
        raise InputError(
            f"{folder}: this search has {name}={old.get(name)}, got {new.get(name)}; expected the same options, or "
            "another --name"
        )
    return study


def _one(
    study: optuna.Study,
    options: TrainOptions,
    ranges: dict[str, tuple[float, float, bool]],
    folder: Path,
    train: Callable[..., TrainResult],
) -> None:
    """One training of the search."""
    # Each has random numbers of its own, so that a search in two parts is the same as one in a single go.
    done = len(study.get_trials(states=DONE))
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + done)
    trial = study.ask()
    chosen: dict[str, Any] = {
        key: trial.suggest_float(key, low, high, log=log) for key, (low, high, log) in ranges.items()
    }
    pruned = False

    def watch(end: EpochEnd) -> bool:
        nonlocal pruned
        if end.metrics is not None:
            trial.report(end.metrics.ap, end.record.epoch)
            pruned = end.record.epoch < options.epochs and trial.should_prune()
        return pruned

    say(f"training {trial.number}: " + ", ".join(f"{key} {value:.3g}" for key, value in chosen.items()))
    own: dict[str, Any] = {"evolve": 0, "project": str(folder), "name": f"training{trial.number}"}
    try:
        result = train(replace(options, **chosen, **own), watch)
    except Stopped as stopped:
        stopped.advise(f"in training {trial.number}, which will be begun anew; go on with the same command")
        raise
    except InputError as error:
        if not done:
            raise  # the options as they are cannot be trained with
        say(f"training {trial.number} failed: {error}")
        study.tell(trial, state=TrialState.PRUNED)
        return
    study.tell(trial, None if pruned else result.metrics.ap, state=TrialState.PRUNED if pruned else None)


def _write(study: optuna.Study, folder: Path) -> None:
    """trials.csv, and hyp.yaml of the best."""

    def row(trial: FrozenTrial) -> dict[str, Any]:
        value = trial.value if trial.state is TrialState.COMPLETE else None
        return {"training": trial.number, "state": trial.state.name.lower(), "ap": value, **trial.params}

    with whole_file(folder / "trials.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["training", "state", "ap", *SEARCHED])
        writer.writeheader()
        writer.writerows(row(trial) for trial in study.trials)
    if study.get_trials(states=(TrialState.COMPLETE,)):
        best = {key: float(f"{value:.5g}") for key, value in study.best_params.items()}
        head = f"# AP@.5:.95 {study.best_value:.4f}: the best of {len(study.trials)} trainings\n"
        write_text(folder / "hyp.yaml", head + yaml.safe_dump(best, sort_keys=False))
