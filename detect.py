"""Find objects in images, videos and streams: `python detect.py --weights runs/train/exp/best.pt --source photo.jpg`.

In Python, `detect(DetectOptions(weights=..., source=...))` gives a Result for each picture, one after the other, and
writes nothing.
"""

import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.data.datafile import load_data
from utils.data.frames import Frame
from utils.data.images import from_pillow
from utils.data.sources import Files, Source, open_source
from utils.errors import InputError, Stopped
from utils.files import new_run_folder
from utils.inference.pipeline import Behind, ahead
from utils.inference.predictor import Predictor
from utils.inference.result import Result
from utils.inference.tracking import FAINT, Line, Tracker
from utils.inference.window import Window
from utils.inference.writer import Outputs, Writer
from utils.log import counted, progress, say
from utils.names import class_names, pick_classes, read_names
from utils.options import (
    OnOff,
    check_at_least,
    check_thresholds,
    check_types,
    choose_device,
    parse_size,
    run_command,
    set_threads,
)
from utils.precision import ComputePrecision, inference_precision
from utils.runtimes.opening import KINDS, find_exported, open_for_command, warn_of_nms
from utils.runtimes.runtime import Runtime

AHEAD = 4  # batches that are read before they are needed, and pictures that wait to be written
TOLD = 20  # with up to so many files, each picture has a line


@dataclass(frozen=True)
class DetectOptions:
    """Where to look, with which network, and what counts."""

    weights: str
    """Weights, .weights or .pt, or a network that export.py wrote; a bare name is found in weights/."""
    source: str
    """Image, folder, glob pattern (in quotes), video, .txt list of paths or of streams, URL, camera number, `screen`,
    `screen:x,y,w,h`, or - for paths on stdin."""
    cfg: str | None = None
    """Network, a Darknet .cfg (default: the one inside the .pt)."""
    names: str | None = None
    """File with class names, one a line."""
    data: str | None = None
    """Data set to take the class names from, a Darknet .data or a .yaml."""
    recursive: bool = False
    """Look into the folder's subfolders, too."""
    vid_stride: int = 1
    """Take every Nth frame of videos and streams."""
    conf: float = 0.25
    """Least score of a box that is kept."""
    iou: float = 0.45
    """IoU over which NMS takes two boxes for the same object."""
    stretch: bool = False
    """Stretch images to the network's size, as Darknet does by default, instead of letterboxing."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    tile: str | int | None = None
    """Also look at overlapping parts of this size, N or W,H in pixels of the picture: for small objects."""
    overlap: float = 0.2
    """By how much of their size neighbouring tiles overlap."""
    augment: bool = False
    """Also look at each picture mirrored and a fifth larger: finds more, takes 2.5 times as long."""
    vote: OnOff = True
    """Box voting: each box that NMS keeps becomes the score-weighted mean of those that overlap it (off: NMS alone)."""
    max_det: int = 300
    """Boxes a picture that are kept, the best."""
    classes: str | None = None
    """Find only these classes, by name or number: `0,2` or `cat,dog`."""
    agnostic_nms: bool = False
    """NMS over all classes together, so that an object has one label; always so with --track."""
    precision: ComputePrecision = "auto"
    """Compute in f32 or bf16; auto: float32, or with OpenVINO bfloat16 where export.py found it near enough."""
    half: bool = False
    """Compute in bfloat16 or float16, where the device has it natively."""
    compile: bool = False
    """Compile the network first, which takes up to a minute for each size and number of pictures at once, and is kept
    for the next time; needs a C++ compiler."""
    batch_size: int = 1
    """Pictures, or tiles of one, that go through the network at once; live sources go one by one."""
    track: bool = False
    """Number the objects, the same number through all frames; images of a folder are taken as frames of one video."""
    count_line: str | None = None
    """Count the tracked objects whose centre crosses the line x1,y1,x2,y2, in pixels."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """Threads that compute the network on a CPU (default: one for each core)."""


@dataclass(frozen=True)
class CommandOptions(DetectOptions):
    """Options of detect.py: what to find, and what to write of it."""

    save_json: bool = False
    """Also write detections.json (detections.jsonl, a picture a line, while it runs)."""
    save_csv: bool = False
    """Also write detections.csv, a box a line."""
    save_txt: bool = False
    """Also write labels/NAME.txt, a box a line: class, centre x, y, width, height (0 to 1), score."""
    save_crop: bool = False
    """Also write what is inside each box, crops/CLASS/NAME_N.jpg."""
    nosave: bool = False
    """Write no annotated pictures."""
    view_img: bool = False
    """Show the pictures in a window; any key goes on from an image, q or Esc ends it all."""
    hide_labels: bool = False
    """Draw the boxes alone."""
    hide_conf: bool = False
    """Leave the scores out of the labels."""
    line_thickness: int | None = None
    """Pixels (default: what suits the picture's size)."""
    name: str = "exp"
    """Results go to runs/detect/NAME (NAME-2 ... where it exists)."""


def detect(options: DetectOptions) -> Generator[Result, None, None]:
    """The results of each picture of the source, in order, made while they are asked for; nothing is written.

    A few pictures are read ahead, no more are kept. Raises InputError for bad input, at once where it can be told.
    """
    return Job(options).results()


class Job:
    """A source with what is needed to look at it."""

    def __init__(self, options: DetectOptions) -> None:
        self.options = options
        check(options)
        if options.count_line is not None and not options.track:
            raise InputError("--count-line: expected --track with it; only numbered objects can be counted")
        line = None if options.count_line is None else Line.parse(options.count_line)
        self.tracker = Tracker(options.conf, line) if options.track else None
        self.source: Source = open_source(options.source, options.recursive, options.vid_stride)
        self.predictor = make_predictor(options, options.weights)
        if isinstance(self.source, Files):
            self.source.check = self.predictor.check

    def results(self) -> Generator[Result, None, None]:
        """One for each picture, in order."""
        width, height = self.predictor.size
        blank = Frame(np.zeros((height, width, 3), np.uint8), "")
        size = 1 if self.source.live else self.options.batch_size
        self.predictor([blank] * size)  # the first run is slow; not timed
        frames: Iterable[Frame] = self.source.frames()
        if not self.source.live:  # live sources have threads of their own, and nothing may wait
            frames = ahead(frames, AHEAD * size)
        for batch in batches(frames, size):
            results = self.predictor(batch)
            yield from results if self.tracker is None else map(self.tracker, results)


def check(options: DetectOptions) -> None:
    """Raise InputError for a value that cannot be."""
    check_types(options)
    check_thresholds(options.conf, options.iou)
    check_at_least(1, vid_stride=options.vid_stride, max_det=options.max_det, batch_size=options.batch_size)
    if not 0 <= options.overlap <= 0.9:
        raise InputError(f"--overlap {options.overlap}: expected 0 to 0.9")


def make_predictor(options: DetectOptions, weights: str | None) -> Predictor:
    """The network with its thresholds. Raises InputError for bad input."""
    exported = find_exported(weights)
    if exported is None:
        runtime = pytorch_runtime(options, weights)
    else:
        only = {"cfg": options.cfg, "half": options.half, "compile": options.compile, "augment": options.augment}
        runtime = open_for_command(exported, options.device, options.threads, only, precision=options.precision)
        warn_of_nms(exported, runtime.info, options.conf, options.iou, options.vote)
    names = class_names(len(runtime.info.names), given_names(options), runtime.info.names)
    size = parse_size(options.img_size) or runtime.info.size
    runtime.info.check_size(*size)
    tile = parse_size(options.tile, "--tile")
    if tile is not None and min(tile) < runtime.info.stride:
        raise InputError(
            f"--tile {options.tile}: expected at least {runtime.info.stride}, the network's largest stride"
        )
    chosen = None if options.classes is None else pick_classes(options.classes, names)
    return Predictor(
        runtime,
        names,
        size,
        min(options.conf, FAINT) if options.track else options.conf,
        options.iou,
        options.stretch,
        options.max_det,
        options.agnostic_nms or options.track,
        chosen,
        tile,
        options.overlap,
        options.vote,
        options.batch_size,
    )


def pytorch_runtime(options: DetectOptions, weights: str | None) -> Runtime:
    """A .pt or .weights in PyTorch. Raises InputError where PyTorch or models.py is not installed."""
    try:  # here: exported networks run without torch, whose import takes seconds
        from models import load_model
        from utils.inference.augmented import Augmented
        from utils.runtimes.pytorch import PyTorch
    except ModuleNotFoundError as error:
        raise InputError(
            f"{weights or options.cfg}: needs PyTorch and this project's models.py ({error}); "
            f"what export.py writes does not: {KINDS}"
        ) from None

    device = choose_device(options.device)
    set_threads(options.threads)
    dtype = inference_precision(options.precision, options.half, device)
    model = load_model(options.cfg, weights, device=device)
    wrap = partial(Augmented, stride=model.largest_stride) if options.augment else None
    return PyTorch(model, dtype, wrap, options.compile)


Picture = str | Path | Image.Image | np.ndarray
"""What a Detector takes: a path or URL, a PIL image, (H, W, 3) or (B, H, W, 3) uint8 in BGR."""


class Detector:
    """A network that takes pictures as a program has them; `options` are DetectOptions' fields, without `source`.

    Without weights it is freshly initialised. Raises InputError for bad input.
    """

    def __init__(self, cfg: str | Path | None = None, weights: str | Path | None = None, **options: Any) -> None:
        cfg, weights = (None if path is None else str(path) for path in (cfg, weights))
        self.options = DetectOptions(weights=weights or "", source="", cfg=cfg, **options)
        if self.options.track or self.options.count_line is not None:
            raise InputError("a Detector looks at pictures one by one: expected detect() for track and count_line")
        check(self.options)
        self.predictor = make_predictor(self.options, weights)

    def __call__(self, pictures: Picture | Sequence[Picture]) -> list[Result]:
        """A Result for each picture. Raises InputError for videos and folders, which need not fit into memory."""
        several = pictures if isinstance(pictures, Sequence) and not isinstance(pictures, str) else [pictures]
        frames = (frame for picture in several for frame in self._frames(picture))
        return [result for batch in batches(frames, self.options.batch_size) for result in self.predictor(batch)]

    def _frames(self, picture: Picture) -> Iterator[Frame]:
        if isinstance(picture, str | Path):
            source = open_source(str(picture), self.options.recursive, self.options.vid_stride)
            if source.live or source.length != 1:
                raise InputError(
                    f"{picture}: expected one image; detect() takes videos, folders and streams, a picture at a time"
                )
            yield from source.frames()
        elif isinstance(picture, Image.Image):
            yield Frame(from_pillow(picture), getattr(picture, "filename", ""))
        else:
            array = np.asarray(picture)
            if array.dtype != np.uint8 or array.ndim not in {3, 4} or array.shape[-1] != 3 or not array.size:
                got = f"{array.shape} {array.dtype}" if array.ndim else type(picture).__name__
                raise InputError(f"expected a path, a PIL image or (H, W, 3) uint8 in BGR, got {got}")
            yield from (Frame(image, "") for image in (array if array.ndim == 4 else array[None]))


def batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Up to `size` of them at a time."""
    batch = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def given_names(options: DetectOptions) -> tuple[str, ...] | None:
    """The class names of --names or --data, None where neither is given."""
    if options.names is not None:
        return read_names(options.names)
    return load_data(options.data).names if options.data is not None else None


@dataclass
class Tally:
    """What went through."""

    pictures: int = 0
    boxes: int = 0
    first: float = 0.0
    stop: BaseException | None = None


def main(options: CommandOptions) -> Path | None:
    """Detect, write and show; returns the folder, None if nothing was to be written. Raises InputError."""
    if options.line_thickness is not None:
        check_at_least(1, line_thickness=options.line_thickness)
    window = Window() if options.view_img else None
    job = Job(options)
    draw = partial(
        Result.plot, labels=not options.hide_labels, scores=not options.hide_conf, thickness=options.line_thickness
    )
    flags = options.save_json, options.save_csv, options.save_txt, options.save_crop, options.count_line is not None
    results = job.results()
    first = next(results)  # nothing readable is an error before anything is written
    outputs = Outputs(not options.nosave, *flags)
    folder = new_run_folder("runs/detect", options.name) if any(vars(outputs).values()) else None
    tally, length = Tally(first=time.perf_counter()), job.source.length
    told = not job.source.live and first.frame.video is None and length is not None and length <= TOLD
    with Writer(folder or Path(), outputs, draw) as writer, Behind(writer.write, AHEAD) as behind:
        try:
            for result in progress(itertools.chain([first], results), "detecting", unit="frame", total=length):
                tally.pictures += 1
                tally.boxes += len(result)
                if told:
                    tell(result)
                behind.put(result)
                if window is not None and not window.show(draw(result), wait=result.frame.video is None):
                    break
        except (KeyboardInterrupt, Stopped) as stop:  # the usual end of a stream; what was found is kept
            tally.stop = stop
        finally:
            results.close()
            if window is not None:
                window.close()
    summarise(job, tally, folder)
    if tally.stop is not None:
        raise tally.stop
    return folder


def tell(result: Result) -> None:
    """A line for a picture."""
    spent = sum(value for key, value in result.milliseconds.items() if key != "read")
    say(f"{result.path}: {result.width}x{result.height}, {result.counts()}, {spent:.1f} ms")


def summarise(job: Job, tally: Tally, folder: Path | None) -> None:
    """What was found, skipped and dropped, and where it is."""
    options, source = job.options, job.source
    seconds = time.perf_counter() - tally.first
    words = [f"{counted(tally.boxes, 'box', 'boxes')} in {counted(tally.pictures, 'picture')}"]
    if tally.pictures > 1:
        words.append(f"{(tally.pictures - 1) / max(seconds, 1e-9):.1f} a second")
    if source.problems:
        words.append(f"{counted(source.problems, 'stream' if source.live else 'file')} could not be read")
    if source.live:
        words.append(f"{counted(source.dropped, 'frame')} dropped to keep up")
    if job.tracker is not None and options.count_line is not None:
        words += [
            f"{path}: {right} crossed to the right, {left} to the left" for path, right, left in job.tracker.counts()
        ]
    width, height = job.predictor.size
    resized = f"{'stretch' if options.stretch else 'letterbox'} to {width}x{height}"
    if options.tile is not None:
        resized += f", and tiles of {options.tile}"
    runtime = job.predictor.runtime
    computed = f"{resized}, {runtime.kind} in {runtime.precision}"
    say(f"{', '.join(words)} ({computed}); " + ("nothing was written" if folder is None else f"results in {folder}"))


if __name__ == "__main__":
    run_command(main, CommandOptions, "Find objects in images, videos and streams.")
