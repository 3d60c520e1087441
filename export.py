"""A trained network as files for other runtimes: `python export.py --weights best.pt --format onnx,openvino`.

Each file is loaded in its runtime and compared with PyTorch on real images before it is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from classify import load_classifier
from models import is_checkpoint, load_model
from utils.data.datafile import DataSpec, load_data
from utils.data.dataset import letterboxed
from utils.data.labels import Sample, check_boxes, load_samples, spread
from utils.deploy.classifier import ExportedClassifier, export_classifier
from utils.deploy.compare import Difference, changed_boxes, compare_maps, compare_runtimes
from utils.deploy.formats import (
    KINDS,
    Format,
    check_formats,
    check_precision,
    kept_if_good,
    megabytes,
    parse_formats,
    remove,
    settle,
    with_bfloat16,
)
from utils.deploy.maps import head_names, maps_inside
from utils.deploy.network import Calibration, Job
from utils.deploy.quantize import CALIBRATED, layer_errors, loosen
from utils.errors import DataError, InputError
from utils.evaluation.evaluate import EvaluationSettings, collect, evaluation_loader
from utils.evaluation.metrics import Metrics, measure
from utils.files import check_writable, find_file
from utils.log import counted, say, warn
from utils.names import warn_of_other_names
from utils.network.weights import is_own, read_content
from utils.options import OnOff, check_drop, check_thresholds, check_types, parse_size, run_command
from utils.precision import ComputePrecision
from utils.runtimes.opening import find_exported, open_exported
from utils.runtimes.pytorch import PyTorch, describe
from utils.runtimes.runtime import Check, NetworkInfo, Precision, Runtime

COMPARED = 4  # images
STRIDE = 32  # of a GhostNet
FEW = 0.05  # score over which few boxes are candidates
OTHER_SIZE = 2  # strides by which a dynamic network's second size differs


@dataclass(frozen=True)
class ExportOptions:
    """Options of export.py."""

    weights: str
    """Weights to export, .pt or .weights, or a classifier's; a bare name is found in weights/."""
    cfg: str | None = None
    """Network, a Darknet .cfg (default: the one inside the .pt)."""
    format: str = "onnx"
    """Some of onnx, openvino, torchscript, ncnn and darknet, with commas between."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    dynamic: bool = False
    """Take any number of images of any size that the network's strides divide."""
    half: bool = False
    """Store weights in float16."""
    int8: bool = False
    """Compute in eight bits, calibrated on the training images of --data."""
    precision: ComputePrecision = "auto"
    """Precision of OpenVINO: f32; bf16 (an error where it fails its check); auto: bf16 where it passes, else f32."""
    max_map_drop: float = 0.005
    """With --int8, and in bfloat16 with --data: AP@.5:.95 that may be lost; layers that cost more in int8 stay in
    float32, the most sensitive ones first."""
    nms: bool = False
    """Put NMS into the file, with --conf and --iou."""
    conf: float = 0.25
    """With --nms: least score of a box that is kept."""
    iou: float = 0.45
    """With --nms: IoU over which two boxes are taken for the same object."""
    vote: OnOff = True
    """With --nms: box voting in the file, too, as in detect.py (off: NMS alone)."""
    simplify: bool = False
    """Let onnxslim simplify ONNX graphs."""
    fold_bn: bool = False
    """With --format darknet: fold batch normalisation into the convolutions."""
    data: str | None = None
    """Data set, a Darknet .data or a .yaml, on whose validation images PyTorch and the files are measured."""
    output: str | None = None
    """Folder for the files (default: beside the weights)."""


@dataclass(frozen=True)
class Exported:
    """A file or folder that was written, and how far it is from PyTorch."""

    format: Format
    path: Path
    difference: Difference
    metrics: Metrics | None = None
    """On the data set's validation images."""


@dataclass(frozen=True)
class Subject:
    """The network with what it is compared on."""

    job: Job
    reference: PyTorch
    images: list[np.ndarray]
    samples: list[Sample] | None
    """Validation images of --data."""
    before: Metrics | None = None
    """What PyTorch reaches on them."""

    def average_precision(self, runtime: Runtime) -> Metrics | None:
        """What the runtime's predictions reach on the data set."""
        if self.samples is None:
            return None
        settings = EvaluationSettings(self.job.info.size, channels=self.job.info.channels)
        loader = evaluation_loader(self.samples, settings)
        return measure(collect(runtime, self.samples, settings, runtime.kind, loader), self.job.info.names)


def export(options: ExportOptions) -> Sequence[Exported | ExportedClassifier]:
    """Write, check and keep each format; what fails the check is not kept. Raises InputError."""
    check_types(options)
    formats = parse_formats(options.format)
    check_formats(formats, dynamic=options.dynamic, half=options.half, nms=options.nms, int8=options.int8)
    check_precision(formats, options.precision)
    if options.int8 and (options.half or options.data is None):
        raise InputError("--int8: expected --data with it, whose training images it is calibrated on, and no --half")
    check_thresholds(options.conf, options.iou)
    if options.nms and options.vote and (options.conf < FEW or options.dynamic):
        warn(
            "warning: --nms with --vote on: voting in the file takes memory and time by kept boxes times candidates of "
            "the whole batch; a higher --conf, smaller batches or --vote off keep them small"
        )
    if options.fold_bn and "darknet" not in formats:
        raise InputError("--fold-bn: expected --format darknet; the other formats always fold")
    weights = find_file(options.weights, "weights")
    folder = weights.parent if options.output is None else Path(options.output)
    check_writable(folder)
    if find_exported(options.weights) is not None:
        raise InputError(f"{weights}: export.py wrote it; expected the .pt or .weights that it was made of")
    if is_classifier(weights, options.cfg):
        return classifier(options, formats, weights, folder)
    subject = prepare(options)
    subject = replace(subject, before=subject.average_precision(subject.reference))
    if subject.before is not None:
        say(f"PyTorch: {precision_words(subject.before)}")
        if options.int8:
            check_drop(options.max_map_drop, subject.before.ap, options.weights)
    folder.mkdir(parents=True, exist_ok=True)
    return [write(options, subject, name, folder, weights.stem) for name in formats]


def is_classifier(weights: Path, cfg: str | None) -> bool:
    """Whether a file holds a network of classify.py or, without a cfg to build another by, a published GhostNet."""
    if weights.suffix == ".safetensors":
        return True
    if not is_checkpoint(weights):
        return False
    content = read_content(weights)
    return "[ghostnet]" in content["cfg"] if is_own(content) else cfg is None


def classifier(
    options: ExportOptions, formats: Sequence[Format], weights: Path, folder: Path
) -> Sequence[ExportedClassifier]:
    """`export`, of a classifier. Raises InputError."""
    for flag in ("cfg", "int8", "nms", "fold_bn"):
        if getattr(options, flag):
            raise InputError(f"--{flag.replace('_', '-')}: expected a detector; {weights} is a classifier")
    model = load_classifier(weights)
    size = parse_size(options.img_size) or (model.img_size, model.img_size)
    if size[0] != size[1]:
        raise InputError(f"--img-size {options.img_size}: expected one number; a classifier sees a square")
    precision: Precision = "float16" if options.half else "float32"
    info = NetworkInfo(tuple(model.names), size, STRIDE, (), precision, options.dynamic, "classify")
    job = Job(model, info, options.simplify)
    data, measured = options.data or "shapes", options.data is not None
    return export_classifier(job, formats, folder, weights.stem, data, measured, options.precision)


def prepare(options: ExportOptions) -> Subject:
    """Network and images. Raises InputError for bad input."""
    spec = load_data(options.data or "shapes.data")
    model = load_model(options.cfg, options.weights)
    if options.data is not None and model.num_classes != spec.num_classes:
        raise InputError(
            f"the network has {model.num_classes} classes, {options.data} has {spec.num_classes}: expected the same"
        )
    if options.data is not None:
        warn_of_other_names(model.names, spec.names, options.data)
    size = parse_size(options.img_size) or (model.graph.net.width, model.graph.net.height)
    model.check_size(*size)
    samples = validation_samples(spec)
    if options.data is not None:
        check_boxes(samples, spec.path, "which layers --int8 may quantise" if options.int8 else None)
    info = replace(
        describe(model, size),
        dynamic=options.dynamic,
        precision="int8" if options.int8 else "float16" if options.half else "float32",
        nms=(options.conf, options.iou) if options.nms else None,
        vote=options.nms and options.vote,
    )
    images = letterboxed(spread(samples, COMPARED), size, info.channels)
    if options.dynamic:
        other = size[0] + OTHER_SIZE * info.stride, size[1] + info.stride
        images += letterboxed(samples[:1], other, info.channels)
    calibration = Calibration(calibration_pictures(spec, size, info.channels)) if options.int8 else None
    job = Job(model, info, options.simplify, calibration, options.fold_bn)
    return Subject(job, PyTorch(model), images, samples if options.data else None)


def calibration_pictures(spec: DataSpec, size: tuple[int, int], channels: int) -> list[np.ndarray]:
    """Training images, spread over all of them. Raises DataError where there are none."""
    samples = load_samples(spec.train, spec.num_classes, "images")[0]
    if not samples:
        raise DataError(f"{spec.path}: expected training images, which --int8 is calibrated on")
    return letterboxed(spread(samples, CALIBRATED), size, channels)


def validation_samples(spec: DataSpec) -> list[Sample]:
    """The images that a file is compared on. Raises DataError where there is none."""
    samples, _ = load_samples(spec.valid, spec.num_classes, "images")
    if not samples:
        raise DataError(f"{spec.path}: expected validation images, which exported files are compared on")
    return samples


def write(options: ExportOptions, subject: Subject, name: Format, folder: Path, stem: str) -> Exported:
    """One format, into `folder`. Raises InputError where it is too far from PyTorch; nothing is left of it then."""
    with kept_if_good(folder) as partial:
        path = partial / f"{stem}{KINDS[name].suffix}"
        done = write_int8(options, subject, name, path) if options.int8 else write_once(subject, name, path)
        ap = None if done.metrics is None else done.metrics.ap
        checks = {"float32": done.difference.check(True, ap)}
        if with_bfloat16(name, options.precision):
            checks["bfloat16"] = check_bfloat16(options, subject, name, path)
        lower = settle(subject.job, path, name, checks, options.precision)
        size = megabytes(partial)
    done = replace(done, path=folder / path.name)
    measured = "" if done.metrics is None else f"; {precision_words(done.metrics)}"
    compared = f"against PyTorch on {counted(len(subject.images), 'image')}: {done.difference.words()}"
    say(f"{done.path}: written, {size:.1f} MB; {compared}{measured}{lower}")
    return done


def write_once(subject: Subject, name: Format, path: Path) -> Exported:
    """Write, load, compare. Raises InputError where it differs by more than rounding."""
    kind, job = KINDS[name], subject.job
    kind.write(job, path)
    runtime = open_exported(path)  # in float32: nothing has been checked
    difference = differs(subject, name, runtime, path)
    if not difference.within(kind.limits(job)):
        raise InputError(
            f"--format {name}: {runtime.kind} differs from PyTorch by more than rounding ({difference.words()}); "
            "nothing was written"
        )
    return Exported(name, path, difference, subject.average_precision(runtime))


def differs(subject: Subject, name: Format, runtime: Runtime, path: Path) -> Difference:
    """How far a file's runtime is from PyTorch. Raises InputError where it does not show each head's map."""
    difference = compare_runtimes(subject.reference, runtime, subject.images)
    if subject.job.calibration is not None:  # AP says more of int8 than its maps do
        return difference
    model = KINDS[name].form(subject.job.model)
    reference = subject.reference if model is subject.job.model else PyTorch(model)
    maps = compare_maps(maps_inside(reference), maps_inside(runtime, path), subject.images)
    found = [[maps[key] for key in names if key in maps] for names in head_names(reference)]
    if not all(found):
        raise InputError(f"--format {name}: expected the maps of {counted(len(found), 'head')} to compare, got fewer")
    return replace(difference, heads=float(np.max([value for each in found for value in each])))


def check_bfloat16(options: ExportOptions, subject: Subject, name: Format, path: Path) -> Check:
    """Compare a file with PyTorch when it computes in bfloat16. AP decides, where there is one that could fall."""
    runtime = open_exported(path, precision="bf16")
    difference = differs(subject, name, runtime, path)
    difference = replace(difference, changed=changed_boxes(subject.reference, runtime, subject.images))
    before, after = subject.before, subject.average_precision(runtime)
    if before is None or after is None or not before.ap > options.max_map_drop:
        return difference.check(difference.within("bfloat16"), None if after is None else after.ap)
    return difference.check(before.ap - after.ap <= options.max_map_drop, after.ap)


def write_int8(options: ExportOptions, subject: Subject, name: Format, path: Path) -> Exported:
    """Quantise as many layers as AP allows. Raises InputError where it allows none."""
    job, before, tried = subject.job, subject.before, []
    assert job.calibration is not None and before is not None

    def good_enough(floats: frozenset[int]) -> bool:
        assert job.calibration is not None and before is not None
        remove(path)
        calibration = replace(job.calibration, floats=floats)
        tried.append(write_once(replace(subject, job=replace(job, calibration=calibration)), name, path))
        metrics = tried[-1].metrics
        assert metrics is not None
        say(f"{name}, {layers_words(floats)} in float32: {precision_words(metrics)}")
        return before.ap - metrics.ap <= options.max_map_drop

    def sensitive() -> list[int]:
        assert job.calibration is not None
        errors = layer_errors(job, job.calibration.pictures)
        return sorted(errors, key=lambda index: -errors[index])

    heads = [head.sources[0] for head in job.model.graph.heads()]
    if loosen(heads, sensitive, good_enough) is None:
        raise InputError(
            f"--max-map-drop {options.max_map_drop}: expected that --int8 with --format {name} loses no more, at least "
            "with all convolutions in float32; nothing was written"
        )
    return tried[-1]


def layers_words(layers: frozenset[int]) -> str:
    """`no layer`, or `layers 3, 7`."""
    return (
        f"{'layer' if len(layers) == 1 else 'layers'} {', '.join(map(str, sorted(layers)))}" if layers else "no layer"
    )


def precision_words(metrics: Metrics) -> str:
    """`AP@.5 0.881, AP@.5:.95 0.566`."""
    return f"AP@.5 {metrics.ap50:.3f}, AP@.5:.95 {metrics.ap:.3f}"


def main(options: ExportOptions) -> None:
    """Export, and say how to go on."""
    done = export(options)
    command = "detect.py" if isinstance(done[0], Exported) else "classify.py predict"
    say(f"{counted(len(done), 'format')} written; next: python {command} --weights {done[0].path} --source IMAGE")


if __name__ == "__main__":
    run_command(main, ExportOptions, "Write a trained network as files for other runtimes, each one checked.")
