"""Knowledge distillation: a network, the student, learns from the labels and from a trained one, the teacher.

logits: soft targets (Hinton et al., 2015) for objectness and classes. The heads are sigmoids, so these are binary
cross-entropies, at a temperature T times T ** 2. Classes count as much as the teacher is sure of an object there (Mehta
& Ozturk, "Object detection at 200 frames per second", ECCVW 2018).
box: bounded by the teacher (Chen et al., "Learning efficient object detection models with knowledge distillation",
NeurIPS 2017, equation 4, with 1 - CIoU as the error): pushed on only where the student is not better by a margin.
features: the maps that the heads' last convolutions read, through a 1x1 convolution that learns along (Romero et al.,
"FitNets", ICLR 2015), where the teacher sees objects.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import InputError
from utils.names import class_names
from utils.network.decode import decode_scores
from utils.network.graph import IMAGE, Graph
from utils.training.assign import Assignment, assigned_ciou
from utils.training.loss import HEADS, JOINT_OBJECTNESS, DetectionLoss

MARGIN = 0.05  # of 1 - CIoU, by which the student must be better than the teacher to be left alone


@dataclass(frozen=True)
class DistillOptions:
    """Gains and temperature. Those of logits and box are times the detection loss's own; 0 turns a part off."""

    logits: float = 0.3
    box: float = 1.0
    features: float = 0.03
    temperature: float = 1.0


# ---- Student and teacher -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesson:
    """What student and teacher make of the same images.

    Raw heads (B, A, H, W, 5+C); how sure the teacher is of objects there, (B, A, H, W) probabilities; and maps
    (B, C, H, W) of the teacher, each behind the student's as adapted to it.
    """

    student: list[Tensor]
    teacher: list[Tensor]
    sure: list[Tensor]
    maps: list[tuple[Tensor, Tensor]]


class Distilled(nn.Module):
    """Images (B, C, H, W) -> Lesson. `module` is the student; what it does not need later, the adapters, is beside it.

    `teacher` is a network in eval mode without gradients. It is no child module: nothing that is done to all modules,
    parameters or tensors of this one reaches it. Without `hints` there are no maps and no adapters.
    """

    def __init__(self, student: Any, teacher: Any, hints: bool = True) -> None:
        super().__init__()
        self.module = student
        self.pair = (student, teacher)
        self.layers = [_last_layers(network.graph) if hints else [] for network in self.pair]
        widths = zip(*(_widths(*each) for each in zip(self.pair, self.layers, strict=True)), strict=True)
        self.adapters = nn.ModuleList(nn.Conv2d(mine, theirs, 1) for mine, theirs in widths)

    def forward(self, images: Tensor) -> Lesson:
        """The student's part has gradients."""
        student, teacher = self.pair
        with _inputs(student, self.layers[0]) as own:
            raw = student(images)
        with torch.no_grad(), _inputs(teacher, self.layers[1]) as others:
            taught = teacher.raw(images)
        heads = zip(taught, teacher.yolo_layers, strict=True)
        sure = [decode_scores(head[..., 4].float(), layer.new_coords) for head, layer in heads]
        adapted = [adapter(own[layer]) for adapter, layer in zip(self.adapters, self.layers[0], strict=True)]
        return Lesson(raw, taught, sure, list(zip(adapted, (others[layer] for layer in self.layers[1]), strict=True)))


def _last_layers(graph: Graph) -> list[int]:
    """The layers that the heads read, in cfg order."""
    return [head.sources[0] for head in graph.heads()]


def _widths(network: Any, layers: Sequence[int]) -> list[int]:
    """The channels of the maps that these layers read."""
    sources = [network.graph.nodes[layer].sources[0] for layer in layers]
    return [network.graph.net.channels if s == IMAGE else network.blocks[s].out_channels for s in sources]


@contextmanager
def _inputs(network: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Meanwhile, the maps that these layers read, by layer."""
    maps: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(network.blocks[layer].register_forward_pre_hook(partial(_keep, maps, layer)).remove)
        yield maps


def _keep(maps: dict[int, Tensor], layer: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    maps[layer] = inputs[0]


def check_teacher(student: Any, teacher: Any, options: DistillOptions, where: str) -> None:
    """Raise InputError unless the teacher (which errors call `where`) can teach the student what the options say."""
    if student.graph.net.channels != teacher.graph.net.channels:
        expected, got = (f"images of {network.graph.net.channels} channels" for network in (student, teacher))
        raise InputError(f"{where}: expected {expected}, as the network in training takes them; got {got}")
    if student.strides != teacher.strides:
        expected, got = (", ".join(map(str, network.strides)) for network in (student, teacher))
        raise InputError(f"{where}: expected heads at strides {expected}, as in the network in training; got {got}")
    if student.largest_stride % teacher.largest_stride:
        raise InputError(
            f"{where}: its largest stride is {teacher.largest_stride}: expected one that divides "
            f"{student.largest_stride}, that of the network in training"
        )
    if not (options.logits or options.box):
        return
    if student.num_classes != teacher.num_classes:
        raise InputError(f"{where}: expected {student.num_classes} classes, as in the data; got {teacher.num_classes}")
    unknown = list(class_names(teacher.num_classes))  # what a network is given whose file says no names
    if teacher.names not in (student.names, unknown):
        expected, got = (", ".join(network.names) for network in (student, teacher))
        raise InputError(f"{where}: expected the classes of the data, {expected}; got {got}")
    for number, heads in enumerate(zip(student.graph.heads(), teacher.graph.heads(), strict=True)):
        for key in ("head_anchors", "scale_x_y", "new_coords"):
            expected, got = (getattr(head.options, key) for head in heads)
            if expected != got:
                raise InputError(
                    f"{where}: its [yolo] head {number} has {key.removeprefix('head_')} {got}, that of the network in "
                    f"training {expected}: expected the same (--distill-logits 0 --distill-box 0: only features are "
                    f"compared)"
                )


# ---- The loss ------------------------------------------------------------------------------------------------------


class DistillLoss(nn.Module):
    """(Lesson, targets, input size) -> (total, its parts): a DetectionLoss and the teacher's.

    With several processes, gradients averaged over them are those of one process with all of their images.
    """

    parts = (*DetectionLoss.parts, "distill_logits", "distill_box", "distill_features")

    def __init__(self, detection: DetectionLoss, options: DistillOptions) -> None:
        super().__init__()
        self.detection, self.options, self.ranks = detection, options, detection.ranks

    def forward(self, lesson: Lesson, targets: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`targets`: (M, 6) image, class, cx, cy, w, h in 0..1; size: height, width in pixels."""
        raw, taught = ([head.float() for head in heads] for heads in (lesson.student, lesson.teacher))
        found = self.detection.assign(raw, targets, size)
        total, parts = self.detection.losses(raw, targets, found, size)
        nothing = raw[0].new_zeros(())
        extra = torch.stack(
            (
                self._logits(raw, taught, lesson.sure) if self.options.logits else nothing,
                self._boxes(raw, taught, found, size) if self.options.box else nothing,
                self._features(lesson) if self.options.features else nothing,
            )
        )
        return total + extra.sum(), torch.cat((parts, extra.detach()))

    def _logits(self, raw: Sequence[Tensor], taught: Sequence[Tensor], surely: Sequence[Tensor]) -> Tensor:
        """Of all predictions, for each object that the teacher sees: over the sum of its objectness."""
        objectness = classes = objects = raw[0].new_zeros(())
        for mine, theirs, sure, spec in zip(raw, taught, surely, self.detection.heads, strict=True):
            wanted = spec.logits(theirs[..., 4:])
            apart = soft_entropy(spec.logits(mine[..., 4:]), wanted, self.options.temperature)  # (B, A, H, W, 1+C)
            objectness = objectness + apart[..., 0].sum()
            classes = classes + (apart[..., 1:].sum(-1) * sure).sum()
            objects = objects + sure.sum()
        gains = self.detection.options
        weighted = objectness * gains.objectness * JOINT_OBJECTNESS + classes * gains.classes
        return weighted / self._shared(objects) * HEADS * self.options.logits

    def _boxes(
        self, raw: Sequence[Tensor], taught: Sequence[Tensor], assignments: Sequence[Assignment], size: tuple[int, int]
    ) -> Tensor:
        """1 - CIoU for each assigned prediction, where that is not lower than the teacher's by the margin."""
        total = raw[0].new_zeros(())
        for mine, theirs, spec, found in zip(raw, taught, self.detection.heads, assignments, strict=True):
            if len(found.image):
                cells = (mine.shape[2], mine.shape[3])
                error, bound = (
                    1 - assigned_ciou(found.pick(head), spec, found, cells, size) for head in (mine, theirs)
                )
                total = total + (error * (error + MARGIN > bound)).sum()
        count = raw[0].new_tensor(sum(len(found.image) for found in assignments))
        return total / self._shared(count) * HEADS * self.detection.options.box * self.options.box

    def _features(self, lesson: Lesson) -> Tensor:
        """The squared difference over the teacher's square, weighted by how sure it is of an object in the cell.

        The mean over maps; 1 for a student of zeros.
        """
        apart, scale = [], []
        for (mine, theirs), each in zip(lesson.maps, lesson.sure, strict=True):
            weight = each.amax(dim=1)[:, None]  # (B, 1, H, W)
            apart.append(((mine.float() - theirs.float()).square() * weight).sum())
            scale.append((theirs.float().square() * weight).sum())
        relative = torch.stack(apart) / self.ranks.mean(torch.stack(scale)).clamp(min=1e-12)
        return relative.mean() * self.options.features

    def _shared(self, count: Tensor) -> Tensor:
        """The mean over processes of what a sum is divided by; at least one over all of them."""
        return self.ranks.mean(count).clamp(min=1 / self.ranks.world)


def soft_entropy(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T ** 2 times the binary cross-entropy of sigmoid(logits / T) against sigmoid(wanted / T), less its least value.

    Any shape. What is taken off is the wanted probabilities' own entropy, a constant: equal logits cost 0.
    """
    soft = (wanted / temperature).sigmoid()
    pairs = [F.binary_cross_entropy_with_logits(x / temperature, soft, reduction="none") for x in (logits, wanted)]
    return (pairs[0] - pairs[1]) * temperature**2
