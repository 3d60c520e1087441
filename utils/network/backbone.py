"""A classifier's weights for a detector's backbone: GhostNets by classify.py, by their authors, or timm's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import WeightsError
from utils.letterbox import IMAGENET_MEAN, IMAGENET_STD
from utils.network.graph import IMAGE, Graph
from utils.network.released import from_released
from utils.network.weights import is_own, read_content

CLASSIFIER = "a .pt by classify.py, or the state dict of a published GhostNet (.pth, .safetensors)"


def read_state(path: Path) -> dict[str, Tensor]:
    """A GhostNet's tensors by ghost.py's names: from a classify.py checkpoint, or a published .pth or .safetensors.

    Raises WeightsError.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content: Any = load_file(path)
        except SafetensorError:
            raise WeightsError(f"{path}: damaged, or no safetensors file") from None
    else:
        content = read_content(path, CLASSIFIER)
    if is_own(content):
        tensors = content["model"]
        if "features.0.0.weight" not in tensors:
            raise WeightsError(f"{path}: expected a classifier; this is a detector, which --weights takes")
        return tensors
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(each, Tensor) for name, each in content.items()
    ):
        raise WeightsError(f"{path}: expected a checkpoint by classify.py, or a published GhostNet's state dict")
    state = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    if "features.0.0.weight" in state:  # ghost.py's own
        return state
    try:
        return from_released(state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def without_normalization(kernels: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The stem's kernels (C, 3, k, k) and running mean (C,) for images in 0..1 instead of normalised ones.

    The same network, but where the stem's kernels reach over the border, which is black instead of grey then.
    """
    grey, spread = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    scaled = kernels / spread[:, None, None]
    return scaled, mean + torch.einsum("ochw,c->o", scaled, grey)


def load_backbone(graph: Graph, blocks: Sequence[nn.Module], path: Path) -> str:
    """Fill the stem and every [ghost_bottleneck], in order, from a classifier's file; returns a line that says so.

    Raises WeightsError when a tensor is missing, is one too many or has another shape; nothing is changed then.
    """
    sections = [node.index for node in graph.nodes if node.kind == "ghost_bottleneck"]
    stem = graph.nodes[0]
    if not sections or stem.kind != "convolutional" or stem.sources != (IMAGE,) or not stem.options.batch_normalize:
        raise WeightsError(f"{graph.path}: expected a [convolutional] and then [ghost_bottleneck] for --backbone")
    tensors = read_state(path)
    places = [(blocks[0], "unit", 0), *((blocks[i], "bottleneck", k) for k, i in enumerate(sections, start=1))]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for block, part, number in places:
        own = {f"features.{number}.{name}": each for name, each in block.get_submodule(part).state_dict().items()}
        for name in sorted({*own, *(name for name in tensors if name.startswith(f"features.{number}."))}):
            _check_fit(own.get(name), tensors.get(name), f"{path}: {name}", graph.path)
            found[name] = own[name], tensors[name]
    kernels, mean = without_normalization(tensors["features.0.0.weight"], tensors["features.0.1.running_mean"])
    given = {"features.0.0.weight": kernels, "features.0.1.running_mean": mean}
    with torch.no_grad():
        for name, (own_tensor, tensor) in found.items():
            own_tensor.copy_(given.get(name, tensor))
    there = len({name.split(".")[1] for name in tensors if name.startswith("features.")}) - 1
    taken = f"{len(sections)} of its {there} bottlenecks"
    return f"{path}: {len(found)} tensors, the backbone (layers 0 to {sections[-1]}), {taken}"


def _check_fit(own: Tensor | None, given: Tensor | None, where: str, cfg: str) -> None:
    """Raise WeightsError unless both are there, of one shape, and the given one is finite."""
    if own is None or given is None or own.shape != given.shape:
        expected, got = ("none" if each is None else f"the shape {tuple(each.shape)}" for each in (own, given))
        raise WeightsError(
            f"{where}: expected {expected}, as {cfg} has it, got {got}; is it a GhostNet of another width or variant?"
        )
    if not given.isfinite().all():
        raise WeightsError(f"{where}: damaged: some values are not finite numbers")
