"""The network: a cfg's graph as modules, and the commands about it (table, check, conversion, expansion).

python models.py --cfg yolov3-tiny.cfg
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ghost  # noqa: F401  (registers [ghost])
from utils.errors import CfgError, InputError, WeightsError
from utils.files import find_file, write_text
from utils.names import class_names
from utils.network import blocks, joins, pools, yolo  # noqa: F401  (register Darknet's sections)
from utils.network.check import check_cfg, verdict
from utils.network.expand import expanded
from utils.network.graph import IMAGE, Graph, fit_heads, load_graph, num_classes_of, parse_graph
from utils.network.registry import KINDS, Stride
from utils.network.summary import format_table, trace
from utils.network.weights import (
    Checkpoint,
    load_darknet,
    load_tensors,
    read_checkpoint,
    save_checkpoint,
    save_darknet,
)
from utils.options import parse_size, run_command
from utils.runtimes.opening import KINDS as EXPORTED


class Darknet(nn.Module):
    """A detector built from a Graph.

    In eval mode `model(images)` gives (B, N, 5+C): centre x, y, width, height in input pixels, objectness and class
    probabilities; N runs over heads in cfg order, then anchor, row, column. In training mode it gives the raw heads,
    a list of (B, A, H, W, 5+C). Images are (B, C, H, W), RGB or grey, 0..1; H and W multiples of `largest_stride`.
    """

    def __init__(self, graph: Graph, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.graph = graph
        self.blocks = nn.ModuleList()
        channels = {IMAGE: graph.net.channels}
        strides: dict[int, Stride] = {IMAGE: (Fraction(1), Fraction(1))}
        for node in graph.nodes:
            try:
                if any(source >= 0 and graph.nodes[source].kind == "yolo" for source in node.sources):
                    raise CfgError("reads a [yolo] head, which has no feature map; expected a [route] before it")
                block = KINDS[node.kind].build(node.options, tuple(channels[source] for source in node.sources))
                strides[node.index] = block.out_stride(tuple(strides[source] for source in node.sources))
                if isinstance(block, blocks.Convolutional) and node.options.share_index is not None:
                    block.share(self.blocks[node.options.share_index])
                if isinstance(block, yolo.YOLOLayer) and block.new_coords and node.sources[0] >= 0:
                    source = self.blocks[node.sources[0]]
                    if isinstance(source, blocks.Convolutional):
                        source.keep_probabilities()
            except CfgError as error:
                raise CfgError(f"{graph.where(node)} {error}") from None
            self.blocks.append(block)
            channels[node.index] = block.out_channels
        self.largest_stride = math.lcm(
            *(int(side) for stride in strides.values() if stride for side in stride if side >= 1)
        )
        self.strides = [_head_stride(strides[head.index]) for head in graph.heads()]
        self.num_classes = num_classes_of(graph)
        self.names = list(names) if names is not None else [f"class_{index}" for index in range(self.num_classes)]
        self.seen = 0  # images seen in training, as Darknet counts them
        self._release: dict[int, list[int]] = {}  # node -> the maps that nobody reads after it
        for index in range(IMAGE, len(graph.nodes)):
            self._release.setdefault(graph.last_use(index), []).append(index)
        init_head_priors(self)

    @property
    def yolo_layers(self) -> list[yolo.YOLOLayer]:
        """The heads in cfg order."""
        return [block for block in self.blocks if isinstance(block, yolo.YOLOLayer)]

    def check_size(self, width: int, height: int) -> None:
        """Raise InputError unless the network takes inputs of this size in pixels."""
        if height % self.largest_stride or width % self.largest_stride:
            raise InputError(
                f"input {width}x{height}: expected a width and height divisible by {self.largest_stride}, "
                f"the network's largest stride"
            )

    def raw(self, images: Tensor) -> list[Tensor]:
        """The heads' raw predictions, (B, A, H, W, 5+C) each, in cfg order."""
        return [layer(head) for layer, head in self._heads(images)]

    def heads(self, images: Tensor) -> list[Tensor]:
        """The raw maps that enter the [yolo] heads, (B, A*(5+C), H, W) each, in cfg order: Darknet's layout."""
        return [head for _, head in self._heads(images)]

    def _heads(self, images: Tensor) -> Iterator[tuple[yolo.YOLOLayer, Tensor]]:
        """Each [yolo] layer with the map that enters it, as soon as it is there."""
        self.check_size(images.shape[-1], images.shape[-2])
        maps = {IMAGE: images}
        for node, block in zip(self.graph.nodes, self.blocks, strict=True):
            if isinstance(block, yolo.YOLOLayer):
                yield block, maps[node.sources[0]]
            else:
                maps[node.index] = block(*(maps[source] for source in node.sources))
            for index in self._release.get(node.index, ()):
                maps.pop(index, None)  # nothing reads a head

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Decoded predictions (B, N, 5+C) in eval mode, raw heads in training mode."""
        raw = self.raw(images)
        if self.training:
            return raw
        size = (images.shape[-2], images.shape[-1])
        # in float32, whatever the network was computed in: bfloat16 cannot tell a pixel at 416
        decoded = [layer.decode(head.float(), size) for layer, head in zip(self.yolo_layers, raw, strict=True)]
        return torch.cat(decoded, dim=1)


def _head_stride(stride: Stride) -> float | tuple[float, ...]:
    """A head's stride in pixels: one number (whole unless below 1), or (y, x) where the axes differ."""
    assert stride is not None
    sides = tuple(int(side) if side.denominator == 1 else float(side) for side in stride)
    return sides[0] if sides[0] == sides[1] else sides


def init_head_priors(model: Darknet) -> None:
    """Start the heads at plausible rates: for each anchor about 8 objects in a 640x640 image, all classes alike.

    Without it the first steps only push thousands of empty cells down. Biases are the logarithms of the rates, as in
    the cfg-based PyTorch lineage: sigmoid(log p) = p / (1 + p), about p where that is small (.375 for one class).
    A head behind a block without a bias, such as a route, starts as it is.
    """
    heads = zip(model.graph.heads(), model.yolo_layers, model.strides, strict=True)
    for head, layer, stride in heads:
        source = head.sources[0]
        parts = model.blocks[source].output_bias() if source >= 0 else []  # type: ignore[operator]
        if not parts:
            continue
        cells = (640 / (max(stride) if isinstance(stride, tuple) else stride)) ** 2
        with torch.no_grad():
            rates = torch.cat(parts).view(layer.num_anchors, -1)  # (A, 5+C)
            rates[:, 4] = math.log(8 / cells)
            rates[:, 5:] = math.log(0.6 / layer.num_classes)
            for part, values in zip(parts, rates.flatten().split([len(part) for part in parts]), strict=True):
                part.copy_(values)


def load_model(
    cfg: str | Path | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    device: str | torch.device = "cpu",
    names: Sequence[str] | None = None,
    cutoff: int | None = None,
) -> Darknet:
    """A network in eval mode on `device`.

    `cfg` may be bare (`yolov3-tiny.cfg` is found in cfg/), so may `weights` (found in weights/; .weights or .pt).
    Without `cfg` a .pt brings its own. `num_classes` refits the heads. `names` overrides the class names;
    `cutoff` N loads only the first N layers of a .weights file. Raises CfgError or WeightsError.
    """
    file = None if weights is None else find_file(weights, "weights", WeightsError)
    checkpoint = read_checkpoint(file) if file is not None and is_checkpoint(file) else None
    if cfg is not None:
        graph = load_graph(cfg)
    elif checkpoint is not None:
        graph = parse_graph(checkpoint.cfg, f"the cfg inside {file}")
    elif file is not None and file.suffix != ".weights":
        kinds = f"a .pt, a .weights with --cfg or, to run it, what export.py writes: {EXPORTED}"
        raise InputError(f"{weights}: expected {kinds}")
    else:
        raise InputError(f"{weights or 'no weights'}: expected --cfg with it (only a .pt brings its own)")
    if num_classes is not None and num_classes != num_classes_of(graph):
        graph = fit_heads(graph, num_classes)
    model = Darknet(graph)
    if file is not None:
        load_weights(model, file, cutoff)
    beside = [Path(path) for path in (graph.path if cfg is not None else None, file) if path is not None]
    known = checkpoint.names if checkpoint is not None else ()
    model.names = list(class_names(model.num_classes, names, known, beside))
    return model.to(device).eval()


def is_checkpoint(path: str | Path) -> bool:
    """Whether a weights file is a PyTorch one (.pt, .pth); all else is read as Darknet's."""
    return Path(path).suffix in {".pt", ".pth"}


def load_weights(
    model: Darknet,
    path: Path,
    cutoff: int | None = None,
    other_classes: int | None = None,
    new_anchors: bool = False,
) -> str:
    """Fill the network from a file and return a line that says what was taken.

    Everything must fit, unless `cutoff` N asks for the first N layers of a .weights file, or `other_classes` allows a
    file made for that class count, of which everything but the heads is taken. A .pt's heads must decode as here,
    but for their anchors with `new_anchors`. Raises WeightsError.
    """
    heads = [f"blocks.{head.sources[0]}." for head in model.graph.heads()]
    if is_checkpoint(path):
        if cutoff is not None:
            raise WeightsError(f"{path}: --cutoff is for Darknet .weights files")
        checkpoint = read_checkpoint(path)
        graph = parse_graph(checkpoint.cfg, f"the cfg inside {path}")
        made_for = num_classes_of(graph)
        refit = other_classes is not None and made_for != model.num_classes
        if made_for == model.num_classes:
            check_decoding(model.graph, graph, path, new_anchors)
        count = load_tensors(model, checkpoint.tensors, path, heads if refit else ())
        model.seen = checkpoint.seen
        return f"{path}: {count} tensors" + (f", all but the heads ({made_for} classes there)" if refit else "")
    try:
        model.seen, layers = load_darknet(model.blocks, path, cutoff)  # type: ignore[arg-type]
        return f"{path}: layers 0 to {layers - 1}" + (" (all)" if layers == len(model.blocks) else "")
    except WeightsError:
        if other_classes is None or other_classes == model.num_classes or cutoff is not None:
            raise
    donor = Darknet(fit_heads(model.graph, other_classes))
    donor.seen, _ = load_darknet(donor.blocks, path)  # type: ignore[arg-type]
    count = load_tensors(model, donor.state_dict(), path, heads)
    return f"{path}: {count} tensors, all but the heads ({other_classes} classes there)"


def check_decoding(graph: Graph, own: Graph, path: Path, new_anchors: bool = False) -> None:
    """Raise WeightsError where a graph's heads decode predictions in another way than those of a .pt's own cfg."""
    for number, (head, other) in enumerate(zip(graph.heads(), own.heads(), strict=False)):
        for key in ("scale_x_y", "new_coords", *(() if new_anchors else ("head_anchors",))):
            got, expected = getattr(head.options, key), getattr(other.options, key)
            if got != expected:
                raise WeightsError(
                    f"{path}: its [yolo] head {number} was trained with {key.removeprefix('head_')} {expected}, "
                    f"the cfg has {got}: leave out --cfg, or take the model.cfg beside the weights"
                )


def save_weights(model: Darknet, path: str | Path, training: dict[str, Any] | None = None) -> None:
    """Write a .pt checkpoint or a Darknet .weights file, by the suffix; a .pt may carry a training's state."""
    suffix = Path(path).suffix
    if suffix == ".weights":
        save_darknet(model.blocks, path, model.seen)
    elif suffix in {".pt", ".pth"}:
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        save_checkpoint(path, Checkpoint(model.graph.to_cfg(), tuple(model.names), tensors, model.seen, training))
    else:
        raise WeightsError(f"{path}: expected a name that ends in .weights or .pt")


# ---- The command ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelOptions:
    """Options of models.py."""

    cfg: str
    """Network, a Darknet .cfg; a bare name is found in cfg/."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    check: bool = False
    """Lint the cfg: every key as honoured, inert or unknown; exit code 2 when there are problems."""
    strict: bool = False
    """With --check: warnings, such as of a key that Darknet does not know, are problems."""
    weights: str | None = None
    """Weights to load, .weights or .pt; a bare name is found in weights/."""
    cutoff: int | None = None
    """Load only the first N layers of a .weights file (backbone files)."""
    save: str | None = None
    """Write the weights to this .weights or .pt file (without --weights: freshly initialised ones)."""
    expand_ghost: str | None = None
    """Write the same network in Darknet's own sections to this .cfg; --save then writes weights for it."""
    redundancy: int | None = None
    """Measure which feature maps of layer N (the first is 0) a cheap operation makes from another one, and draw it."""
    source: str | None = None
    """With --redundancy: the image to look at (default: the first validation image of shapes.data)."""
    output: str | None = None
    """With --redundancy: the .png to write (default: runs/models/CFG-layerN.png)."""


def main(options: ModelOptions) -> None:
    """Check, measure, expand, convert, or print the table."""
    if options.check:
        report = check_cfg(options.cfg, Darknet, options.strict)
        print(report)
        if report.problems:
            raise InputError(verdict(report, options.cfg))
        return
    if options.strict:
        raise InputError("--strict: expected --check with it")
    if options.cutoff is not None and options.weights is None:
        raise InputError("--cutoff: expected --weights with it")
    for flag in ("source", "output"):
        if getattr(options, flag) is not None and options.redundancy is None:
            raise InputError(f"--{flag}: expected --redundancy with it")
    model = load_model(options.cfg, options.weights, cutoff=options.cutoff)
    if options.weights is not None:
        print(f"{options.weights}: loaded, {'all' if options.cutoff is None else f'the first {options.cutoff}'} layers")
    if options.redundancy is not None:
        measure_redundancy(model, options, options.redundancy)
    if options.expand_ghost is not None:
        model = expanded(model)
        comment = f"{Path(options.cfg).name} with its ghost blocks written out in Darknet's sections"
        write_text(options.expand_ghost, model.graph.to_cfg(comment))
        print(f"{options.expand_ghost}: written, {len(model.graph.nodes)} layers")
    if options.save is not None:
        save_weights(model, options.save)
        print(f"{options.save}: written")
    if options.save is None and options.expand_ghost is None and options.redundancy is None:
        width, height = input_size(model, options)
        shape = (model.graph.net.channels, height, width)
        print(format_table(trace(model, torch.zeros(1, *shape)), shape))


def input_size(model: Darknet, options: ModelOptions) -> tuple[int, int]:
    """(width, height) in pixels: what was asked for, else the cfg's."""
    return parse_size(options.img_size) or (model.graph.net.width, model.graph.net.height)


def measure_redundancy(model: Darknet, options: ModelOptions, index: int) -> None:
    """How many of a layer's maps a cheap operation makes from another: printed and drawn."""
    from utils.data.datafile import load_data  # here: this alone needs images and drawing
    from utils.data.images import read_image
    from utils.letterbox import letterbox, to_input, to_rgb
    from utils.network.redundancy import draw_redundancy, feature_maps, format_report, measure, pick_layer

    node = pick_layer(model.graph, index)
    path = Path(options.output or f"runs/models/{Path(options.cfg).stem}-layer{index}.png")
    if path.suffix != ".png":
        raise InputError(f"--output {path}: expected a name that ends in .png")
    width, height = input_size(model, options)
    model.check_size(width, height)
    source = options.source or load_data("shapes.data").valid[0]
    image = read_image(source)
    picture, _ = letterbox(image, width, height)
    maps = feature_maps(model, model.blocks[index], torch.from_numpy(to_input(picture, model.graph.net.channels)))
    layer = f"layer {index} [{node.kind}]: {maps.shape[0]} maps of {maps.shape[2]}x{maps.shape[1]}"
    trained = options.weights or "freshly initialised weights, nothing learnt (no --weights)"
    print(f"image: {source}, {image.shape[1]}x{image.shape[0]} letterboxed to {width}x{height}")
    print(f"{layer}; {trained}")
    try:
        found = measure(maps)
    except InputError as error:
        raise InputError(f"{layer}: {error}") from None
    print(format_report(found))
    draw_redundancy(path, found, to_rgb(picture), f"{options.cfg}, {layer}\n{trained}")
    print(f"{path}: written")


if __name__ == "__main__":
    run_command(main, ModelOptions, "Build a network from a cfg: print its table, check it, convert its weights.")
