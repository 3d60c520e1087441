"""Where two networks, or one in two runtimes, first disagree: names, anchors, layers, decoding or NMS, with numbers."""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from utils.deploy.compare import LIMITS, UNFOLDED, compare_maps, compare_runtimes, has_like
from utils.deploy.maps import Maps
from utils.figure import new_figure, save_figure
from utils.files import write_text
from utils.inference.postprocess import detections
from utils.log import say
from utils.precision import ComputePrecision
from utils.runtimes.opencv import OpenCv
from utils.runtimes.runtime import Runtime

PICTURES = 8  # of the source that are compared, the first
LOOSE = {"bfloat16": (16.0, 0.1, 0.4), "int8": (32.0, 0.1, 0.4)}
"""Pixels, score, and share of a map's maximum that computing in fewer bits may cost: a little more than it cost on 8
images each with yolov3-tiny and ghost-yolov3-tiny-lite, at most 5.4, 0.039 and 0.075 in bfloat16 and 22, 0.063 and 0.29
in int8, and with yolo-fastest-1.1 in bfloat16: 10, 0.064 and 0.25. Its int8 files differ by more: 52, 0.37 and 0.90.
"""


@dataclass(frozen=True)
class ParityBenchmark:
    """Say where two networks, or one in two runtimes, first disagree."""

    a: str
    """Weights, .pt or .weights, or an exported network; a bare name is found in weights/."""
    b: str
    """The other one."""
    source: str
    """Images to compare on, a folder, file, glob pattern (in quotes) or video: the first eight pictures."""
    a_cfg: str | None = None
    """Network of --a (default: the one inside the .pt)."""
    b_cfg: str | None = None
    """Network of --b (default: the one inside the .pt)."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: that of --a)."""
    precision: ComputePrecision = "auto"
    """What both compute in, f32 or bf16; auto: float32, or with OpenVINO bfloat16 where it was checked."""
    conf: float = 0.25
    """Least score of a box that NMS keeps."""
    iou: float = 0.45
    """IoU over which NMS takes two boxes for the same object."""
    name: str = "exp"
    """Results go to runs/benchmark/NAME (NAME-2 ... where it exists)."""


@dataclass(frozen=True)
class Stage:
    """One comparison."""

    name: str
    words: str
    """What was found."""
    agrees: bool
    share: float | None = None
    """Of a layer or head: its difference as a share of its maximum; None where that is no number."""
    is_layer: bool = False
    """Or a head."""


@dataclass(frozen=True)
class Side:
    """One of the two."""

    runtime: Runtime
    maps: Callable[[np.ndarray], Maps]
    name: str
    """As it was given."""


def limits(a: Runtime, b: Runtime) -> tuple[float, float, float]:
    """Pixels, score and share of a map's maximum that rounding explains, by what the two compute in."""
    known = {**LIMITS, **LOOSE}
    kinds = [each.precision.split(" and ") for each in (a, b)]
    kinds += [[UNFOLDED] for each in (a, b) if isinstance(each, OpenCv) and each.normalises]
    return max(known.get(kind, LIMITS["float32"]) for pair in kinds for kind in pair)


def compare_stages(a: Side, b: Side, images: Sequence[np.ndarray], conf: float, iou: float) -> list[Stage]:
    """In the order in which a picture passes them; `images` (H, W, C) uint8 of the input's size."""
    pixels, score, share = limits(a.runtime, b.runtime)
    one, two = a.runtime.info, b.runtime.info
    stages = []
    for what in ("names", "anchors"):
        alike = getattr(one, what) == getattr(two, what)
        stages.append(Stage(what, "the same" if alike else f"not the same {what}", alike))
    found = compare_maps(a.maps, b.maps, images)
    for name in sorted(found, key=lambda name: (name.startswith("head"), int(name.rpartition("_")[2]))):
        known = found[name] if np.isfinite(found[name]) else None
        wrong = "not finite numbers" if np.isnan(found[name]) else "other shapes"
        words = wrong if known is None else f"{known:.3g} of its maximum"
        stages.append(Stage(name.replace("_", " "), words, found[name] <= share, known, is_layer=True))
    if len(one.names) != len(two.names):
        return stages
    if one.nms is None and two.nms is None:
        counts = [each.runtime.infer(images[0][None]).shape[1] for each in (a, b)]
        if counts[0] == counts[1]:
            apart = compare_runtimes(a.runtime, b.runtime, images)
            stages.append(Stage("decoding", apart.words(), apart.pixels <= pixels and apart.score <= score))
        else:
            stages.append(Stage("decoding", f"{counts[0]} and {counts[1]} predictions", False))
    stages.append(compare_boxes(a.runtime, b.runtime, images, (conf, iou), score))
    return stages


def compare_boxes(
    a: Runtime, b: Runtime, images: Sequence[np.ndarray], thresholds: tuple[float, float], score: float
) -> Stage:
    """What NMS leaves: how many of one have their like in the other, of the same class with IoU 0.5 or more.

    Where one has NMS inside, the other gets the same behind it. Boxes whose score is within `score` of the threshold
    may be missing.
    """
    inside = [(*each.info.nms, each.info.vote) for each in (a, b) if each.info.nms is not None]
    least, iou, vote = inside[0] if inside else (*thresholds, False)
    conf = max(thresholds[0], *(known[0] for known in inside), 0)
    totals, missing = [0, 0], 0
    for image in images:
        found = [(each.infer(image[None]), *each.info.nms_after(iou, vote)) for each in (a, b)]
        rows = [detections(given, least, overlap, vote=votes)[0] for given, overlap, votes in found]
        rows = [each[each[:, 4] > conf] for each in rows]
        for place, (own, its) in enumerate((rows, rows[::-1])):
            totals[place] += len(own)
            sure = own[own[:, 4] > conf + score]
            missing += int((~has_like(sure, its)).sum())
    words = (
        f"{totals[0]} boxes and {totals[1]} (score at least {conf:g}); of those above "
        f"{conf + score:.3g} {missing or 'none'} without their like"
    )
    return Stage("NMS", words, missing == 0)


def table(stages: Sequence[Stage]) -> str:
    """A line a stage; of layers the first five that differ, and of those that agree the one that differs most."""
    layers = [stage for stage in stages if stage.is_layer]
    shown = [stage for stage in layers if not stage.agrees][:5]
    agreeing = [stage for stage in layers if stage.agrees]
    if agreeing:
        shown.append(max(agreeing, key=lambda stage: stage.share or 0))
    lines = [f"{stage.name:10} {'agrees ' if stage.agrees else 'DIFFERS'} {stage.words}" for stage in stages
             if not stage.is_layer or stage in shown]  # fmt: skip
    hidden = len(layers) - len([stage for stage in layers if stage in shown])
    return "\n".join(lines) + (f"\n({hidden} more layers are in parity.json)" if hidden else "")


def verdict(stages: Sequence[Stage]) -> str:
    """The first stage that differs, or that none does."""
    first = next((stage for stage in stages if not stage.agrees), None)
    return "they agree" if first is None else f"they first differ at {first.name}: {first.words}"


def finish(folder: Path, a: Side, b: Side, stages: Sequence[Stage], on: str) -> None:
    """Print the table and the verdict; write parity.json, and parity.png with the difference of each layer."""
    written = {"a": a.name, "b": b.name, "verdict": verdict(stages), "stages": [asdict(stage) for stage in stages]}
    write_text(folder / "parity.json", json.dumps(written, indent=2) + "\n")
    layers = [stage for stage in stages if stage.is_layer]
    figure, axes = new_figure((max(6.0, 0.1 * len(layers) + 3), 4.5), 1, 1)
    heights = [10.0 if stage.share is None else min(max(stage.share, 1e-8), 10.0) for stage in layers]
    axes.bar(range(len(layers)), heights, color=["tab:blue" if stage.agrees else "tab:red" for stage in layers])
    pixels, score, share = limits(a.runtime, b.runtime)
    axes.axhline(share, color="black", linestyle="--", linewidth=1, label="limit")
    unlike = [place for place, stage in enumerate(layers) if stage.share is None]
    if unlike:
        axes.bar(unlike, [heights[place] for place in unlike], color="lightgrey", hatch="//", label="other shapes, NaN")
    axes.legend(fontsize=8)
    title = textwrap.fill(f"{Path(a.name).name} and {Path(b.name).name}: {verdict(stages)}", 70)
    axes.set(yscale="log", ylabel="greatest difference / greatest value", title=title)
    step = max(1, len(layers) // 24)
    axes.set_xticks(range(0, len(layers), step), [stage.name for stage in layers[::step]], rotation=90)
    save_figure(figure, folder / "parity.png")
    say(table(stages))
    kinds = " and ".join(dict.fromkeys(kind for each in (a, b) for kind in each.runtime.precision.split(" and ")))
    say(f"limits, of {kinds}: {share:g} of a map's maximum, {pixels:g} pixels, score {score:g}")
    say(f"{verdict(stages)}; on {on}; in {folder}: parity.json, parity.png")
