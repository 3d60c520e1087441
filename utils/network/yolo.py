"""The [yolo] head: a view of the convolution before it as anchors x (box, objectness, classes), and its decoding."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from utils.errors import CfgError
from utils.network.cfg import DARKNET_ONLY, Options, inert, option
from utils.network.channels import ChannelBook, Labels
from utils.network.decode import cell_grid, decode_boxes, decode_scores
from utils.network.registry import Block, Stride, block, expect_channels

MOST_ANCHORS = 1000  # more than any head has: a number that got out of hand
MISSING = 0.5  # pixels: what Darknet takes for a side of an anchor that the cfg does not give


@dataclass(frozen=True)
class YoloOptions(Options):
    """[yolo] (darknet src/parser.c: parse_yolo). Of `num` anchors (pixels of the network input) `mask` picks those of
    this head; default: all.
    """

    INERT: ClassVar[dict[str, str]] = {
        **Options.INERT,
        **inert(
            """jitter resize ignore_thresh truth_thresh iou_thresh random max cls_normalizer iou_normalizer
            obj_normalizer delta_normalizer iou_loss iou_thresh_kind label_smooth_eps objectness_smooth max_delta
            focal_loss counters_per_class map show_details track_history_size sim_thresh
            dets_for_track dets_for_show track_ciou_norm""",
            DARKNET_ONLY,
        ),
        **inert("nms_kind beta_nms", "Darknet's own NMS; here --iou rules"),
    }
    mask: tuple[int, ...] = option(())
    anchors: tuple[float, ...] = option(())
    classes: int = option(20, minimum=1)
    num: int = option(1, minimum=1)
    embedding_layer: int | None = option(None, reference="inert", rare=True, used_by=f"inert: {DARKNET_ONLY}")
    scale_x_y: float = option(1.0, rare=True)
    new_coords: bool = option(False, rare=True)

    @property
    def head_anchors(self) -> list[tuple[float, float]]:
        """(width, height) in pixels of the anchors that this head uses."""
        pairs = self._pairs()
        return [pairs[index] for index in self.mask]

    def _pairs(self) -> list[tuple[float, float]]:
        return list(zip(self.anchors[::2], self.anchors[1::2], strict=True))

    @property
    def in_channels(self) -> int:
        """(5 + classes) for each anchor used: what `filters` of the convolution before the head must be."""
        return (5 + self.classes) * len(self.mask)

    def resolved(self, warnings: list[str]) -> Self:
        """With `mask`, and with as many anchors as `num` says: the first ones, or .5 for those that are not given.

        Darknet holds `num` anchors, 1 by default, each .5 until it is read.
        """
        if self.num > MOST_ANCHORS:
            raise CfgError(f"num={self.num}: expected at most {MOST_ANCHORS} anchors")
        anchors, default = list(self.anchors), " (its default)" if self.num == 1 else ""
        if not anchors:
            return self
        if 0 in anchors:
            warnings.append("anchors: a side of 0, so that its boxes have no area, as in Darknet")
        if len(anchors) % 2:
            warnings.append(
                f"anchors: {len(anchors)} numbers are no pairs; the last height is {MISSING}, as in Darknet"
            )
            anchors.append(MISSING)
        pairs, mask = len(anchors) // 2, self.mask or tuple(range(self.num))
        count = min(pairs, self.num)
        if self.num < pairs and max(mask) >= self.num:
            warnings.append(
                f"mask={max(mask)}: expected less than num={self.num}{default}, beyond which Darknet reads what is "
                f"there by chance; all {pairs} anchors are taken"
            )
            count = pairs
        elif self.num < pairs:
            warnings.append(f"num={self.num}{default}: the first of {pairs} anchors are taken, as in Darknet")
        elif self.num > pairs:
            warnings.append(
                f"num={self.num}: expected as many anchors, got {pairs}; others are {MISSING}, as in Darknet"
            )
            count = max(pairs, min(self.num, max(mask) + 1))
        anchors = (anchors + [MISSING] * 2 * count)[: 2 * count]
        return replace(self, mask=mask, anchors=tuple(anchors), num=count)

    def validate(self) -> None:
        """Anchors come in pairs, and `mask` names existing ones."""
        if not self.anchors:
            raise CfgError("expected the key anchors")
        if min(self.anchors) < 0:
            raise CfgError(f"anchors: expected positive sizes, got {min(self.anchors):g}")
        for index in self.mask:
            if not 0 <= index < self.num:
                raise CfgError(f"mask={index}: expected an anchor from 0 to {self.num - 1}")


class YOLOLayer(Block):
    """(B, A*(5+C), H, W) -> raw (B, A, H, W, 5+C); `decode` turns that into boxes and probabilities."""

    anchors: Tensor

    def __init__(self, options: YoloOptions, in_channels: int) -> None:
        super().__init__()
        self.num_anchors = len(options.head_anchors)
        self.num_classes = options.classes
        expect_channels(
            f"filters=(5 + {options.classes} classes) * {self.num_anchors} anchors in the layer before",
            in_channels,
            options.in_channels,
        )
        self.out_channels = in_channels
        self.scale_x_y, self.new_coords = options.scale_x_y, options.new_coords
        self.register_buffer("anchors", torch.tensor(options.head_anchors, dtype=torch.float32), persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The raw map with the values of one prediction last."""
        batch, _, height, width = inputs[0].shape
        raw = inputs[0].view(batch, self.num_anchors, 5 + self.num_classes, height, width)
        return raw.permute(0, 1, 3, 4, 2)  # (B, A, H, W, 5+C)

    def label(self, book: ChannelBook, *inputs: Labels) -> Labels:
        """Those of the input, which stay."""
        book.keep([inputs[0]], "the outputs of a head")
        return inputs[0]

    def out_stride(self, strides: tuple[Stride, ...]) -> Stride:
        """That of the layer before, which must be a map."""
        if strides[0] is None:
            raise CfgError("expected a map before the head, got a single cell (after [avgpool])")
        return strides[0]

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Raw (B, A, H, W, 5+C) -> (B, A*H*W, 5+C): cx, cy, w, h in pixels of the input, objectness, classes.

        `image_size` is (height, width) of the network's input.
        """
        height, width = raw.shape[2:4]
        stride = (image_size[1] / width, image_size[0] / height)
        return self._decode(raw.flatten(2, 3), cell_grid(height, width, raw), stride)

    def decode_map(self, head: Tensor, stride: tuple[float, float]) -> Tensor:
        """The map before the layer, (B, A*(5+C), H, W) -> what `decode` gives; `stride` in pixels, x before y.

        For exporters: the map has four axes throughout, more than which some runtimes do not have.
        """
        batch, _, height, width = head.shape
        raw = head.reshape(batch, self.num_anchors, 5 + self.num_classes, -1).permute(0, 1, 3, 2)  # (B, A, H*W, 5+C)
        return self._decode(raw, cell_grid(height, width, head), stride)

    def _decode(self, raw: Tensor, cells: Tensor, stride: tuple[float, float]) -> Tensor:
        """Raw (B, A, H*W, 5+C) with the cells (H, W, 2) -> (B, A*H*W, 5+C)."""
        steps = torch.tensor(stride, device=raw.device, dtype=raw.dtype)
        anchors = self.anchors.to(raw.dtype).view(-1, 1, 2)  # (A, 1, 2)
        boxes = decode_boxes(raw[..., :4], cells.flatten(0, 1), anchors, steps, self.scale_x_y, self.new_coords)
        return torch.cat((boxes, decode_scores(raw[..., 4:], self.new_coords)), dim=-1).flatten(1, 2)


@block("yolo", options=YoloOptions)
def build_yolo(options: YoloOptions, in_channels: tuple[int, ...]) -> Block:
    """A detection head."""
    return YOLOLayer(options, in_channels[0])
