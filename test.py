"""Measure a detector: `python test.py --weights runs/train/exp/best.pt --data shapes.data`."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from models import load_model
from utils.data.datafile import load_data
from utils.data.labels import load_samples, report
from utils.errors import DataError, InputError
from utils.evaluation.evaluate import EvaluationSettings, evaluate
from utils.evaluation.metrics import Metrics
from utils.files import new_run_folder
from utils.log import say
from utils.options import check_loading, check_thresholds, choose_device, parse_size, run_command


@dataclass(frozen=True)
class TestOptions:
    """Options of test.py."""

    weights: str
    """Weights to measure, .weights or .pt; a bare name is found in weights/."""
    cfg: str | None = None
    """Network, a Darknet .cfg (default: the one inside the .pt)."""
    data: str = "shapes.data"
    """Data set whose validation images are used, a Darknet .data or a .yaml."""
    conf: float = 0.001
    """Confidence over which every (box, class) pair counts."""
    iou: float = 0.6
    """IoU over which NMS takes two boxes for the same object."""
    stretch: bool = False
    """Stretch images to the network's size, as Darknet does by default, instead of letterboxing."""
    batch_size: int = 16
    """Images per step."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 2
    """Processes that load images (0: none but the main one)."""
    name: str = "exp"
    """metrics.json goes to runs/test/NAME (NAME-2 ... where it exists)."""


@dataclass(frozen=True)
class TestResult:
    """Where the numbers were written, and the numbers."""

    folder: Path
    metrics: Metrics


def test(options: TestOptions) -> TestResult:
    """Measure AP on the validation images and write metrics.json. Raises InputError for bad input."""
    device = choose_device(options.device)
    check_thresholds(options.conf, options.iou)
    check_loading(options.batch_size, options.workers)
    spec = load_data(options.data)
    if not spec.valid:
        raise DataError(f"{spec.path}: expected the key valid, which test.py needs")
    model = load_model(options.cfg, options.weights, device=device)
    if model.num_classes != spec.num_classes:
        raise InputError(
            f"the network has {model.num_classes} classes, {options.data} has {spec.num_classes}: expected the same "
            "(a training on this data leaves a fitted model.cfg beside its weights)"
        )
    size = parse_size(options.img_size) or (model.graph.net.width, model.graph.net.height)
    model.check_size(*size)
    model.to(memory_format=torch.channels_last)
    samples, problems = load_samples(spec.valid, spec.num_classes, "images")
    report(problems)
    settings = EvaluationSettings(size, options.conf, options.iou, options.stretch, options.batch_size, options.workers)
    metrics = evaluate(model, samples, spec.names, settings, "evaluation")
    folder = new_run_folder("runs/test", options.name)
    used = {**asdict(options), "img_size": list(size), "resize": "stretch" if options.stretch else "letterbox"}
    metrics.save(folder / "metrics.json", used)
    say(metrics.table())
    say(f"{metrics.images} images, {used['resize']} to {size[0]}x{size[1]}; numbers in {folder / 'metrics.json'}")
    return TestResult(folder, metrics)


if __name__ == "__main__":
    run_command(test, TestOptions, "Measure a detector: average precision per class.")
