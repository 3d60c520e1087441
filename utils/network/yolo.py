"""The [yolo] head: a view of the convolution before it as anchors x (box, objectness, classes), and its decoding."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from utils.errors import CfgError
from utils.network.cfg import DARKNET_ONLY, Options, inert, option
from utils.network.channels import ChannelBook, Labels
from utils.network.decode import cell_grid, decode_boxes, decode_scores
from utils.network.registry import Block, Stride, block, expect_channels


@dataclass(frozen=True)
class YoloOptions(Options):
    """[yolo] (darknet src/parser.c: parse_yolo). `mask` picks anchors (pixels of the network input); default: all."""

    INERT: ClassVar[dict[str, str]] = {
        **Options.INERT,
        **inert(
            """jitter resize ignore_thresh truth_thresh iou_thresh random max cls_normalizer iou_normalizer
            obj_normalizer delta_normalizer iou_loss iou_thresh_kind label_smooth_eps objectness_smooth max_delta
            focal_loss counters_per_class map show_details embedding_layer track_history_size sim_thresh
            dets_for_track dets_for_show track_ciou_norm""",
            DARKNET_ONLY,
        ),
        **inert("nms_kind beta_nms", "Darknet's own NMS; here --iou rules"),
    }
    mask: tuple[int, ...] | None = option(None)
    anchors: tuple[float, ...] = option(())
    classes: int = option(20, minimum=1)
    num: int | None = option(None, minimum=1)
    scale_x_y: float = option(1.0, rare=True)
    new_coords: bool = option(False, rare=True)

    @property
    def head_anchors(self) -> list[tuple[float, float]]:
        """(width, height) in pixels of the anchors that this head uses."""
        pairs = list(zip(self.anchors[::2], self.anchors[1::2], strict=True))
        return pairs if self.mask is None else [pairs[index] for index in self.mask]

    @property
    def in_channels(self) -> int:
        """(5 + classes) for each anchor used: what `filters` of the convolution before the head must be."""
        return (5 + self.classes) * (len(self.mask) if self.mask is not None else len(self.anchors) // 2)

    def validate(self) -> None:
        """Anchors come in pairs, `num` of them, and `mask` names existing ones."""
        if not self.anchors or len(self.anchors) % 2:
            raise CfgError(f"anchors: expected pairs of width,height, got {len(self.anchors)} numbers")
        pairs = len(self.anchors) // 2
        if self.num is not None and self.num != pairs:
            raise CfgError(f"num={self.num}: expected the number of anchors, {pairs}")
        if min(self.anchors) <= 0:
            raise CfgError(f"anchors: expected positive sizes, got {min(self.anchors):g}")
        for index in self.mask or ():
            if not 0 <= index < pairs:
                raise CfgError(f"mask={index}: expected an anchor from 0 to {pairs - 1}")


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
