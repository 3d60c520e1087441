"""What GhostNet's width multiplier costs and brings: a training for each width, and their costs side by side."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from utils.data.classes import load_classes
from utils.errors import InputError
from utils.evaluation.class_plots import draw_widths
from utils.evaluation.classification import Width, width_table
from utils.files import new_run_folder, write_text
from utils.log import say
from utils.network.ghosts import Variant
from utils.network.speed import inference_pass, time_in_turns
from utils.network.summary import trace
from utils.options import check_at_least, choose_device
from utils.training.classify_options import ClassTrainOptions, check_class_options
from utils.training.run import TrainResult

ROUNDS = 11  # of timing


@dataclass(frozen=True)
class WidthsOptions:
    """Train several widths on the same data, and show what each costs and brings."""

    widths: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Width multipliers."""
    data: str = "shapes"
    """A folder with train/CLASS/ and valid/CLASS/, or a CSV file; shapes: the embedded shapes."""
    variant: Variant = "release"
    """GhostNet: release, paper, or v2."""
    img_size: int = 64
    """Input side in pixels."""
    epochs: int = 17
    """Times through the training images, for each width."""
    batch_size: int = 32
    """Images per step."""
    workers: int = 2
    """Processes that load images."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    seed: int = 0
    """Seed of everything random."""
    name: str = "exp"
    """Results go to runs/classify-widths/NAME (NAME-2 ... where it exists)."""


def study_widths(
    options: WidthsOptions, train: Callable[[ClassTrainOptions], TrainResult], load: Callable[[Path], Any]
) -> list[Width]:
    """Train each width; print a table, and write it as widths.json and widths.png.

    `train` and `load` are classify.py's: a training, and the network of its best.pt. Raises InputError.
    """
    check_at_least(1, epochs=options.epochs)
    shared = {key: getattr(options, key) for key in ("data", "variant", "img_size", "epochs", "batch_size")}
    shared |= {key: getattr(options, key) for key in ("workers", "device", "seed")}
    each = [ClassTrainOptions(width=width, name=f"{width:g}", **shared) for width in dict.fromkeys(options.widths)]
    for one in each:
        check_class_options(one)
    if not each:
        raise InputError("--widths: expected one at least")
    load_classes(options.data, options.seed)  # bad data is an error before the folder is made
    device = choose_device(options.device)
    folder = new_run_folder("runs/classify-widths", options.name)
    results = [train(replace(one, project=str(folder))) for one in each]
    nets = [load(result.folder / "best.pt").to(device) for result in results]
    images = torch.zeros(1, 3, options.img_size, options.img_size, device=device)
    rows = [trace(net, images) for net in nets]
    shape = (1, 3, options.img_size, options.img_size)
    passes = {net: inference_pass(net, shape, device, torch.float32) for net in nets}
    times = time_in_turns(passes, device, ROUNDS)
    widths = [
        Width(
            net.width_mult,
            sum(row.parameters for row in table),
            sum(row.macs for row in table),
            times[net],
            result.metrics.top1,
        )
        for net, table, result in zip(nets, rows, results, strict=True)
    ]
    write_text(folder / "widths.json", json.dumps([asdict(width) for width in widths], indent=2) + "\n")
    draw_widths(folder / "widths.png", widths, f"GhostNet ({options.variant}) at {options.img_size} px")
    say(width_table(widths))
    say(f"milliseconds: one image, float32, batch normalisation folded in, on this {device.type}; results in {folder}")
    return widths
