"""A classifier's weights for a detector's backbone: GhostNets by classify.py, by their authors, or timm's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import WeightsError
from utils.network.graph import IMAGE, Graph
from utils.network.released import from_released
from utils.network.weights import is_own, read_content

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of R, G, B in 0..1: classifiers see (image - mean) / std, detectors the image."""


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
        content = read_content(path)
    if is_own(content):
        tensors = content["model"]
        if "features.0.0.weight" not in tensors:
            raise WeightsError(f"{path}: expected a classifier; this is a detector, which --weights takes")
        return tensors
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    if not isinstance(content, Mapping) or not all(isinstance(each, Tensor) for each in content.values()):
        raise WeightsError(f"{path}: expected a checkpoint by classify.py, or a published GhostNet's state dict")
    try:
        return from_released({name.removeprefix("module."): tensor for name, tensor in content.items()})
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def without_normalization(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same network for images in 0..1 that are not normalised: the stem's kernels and statistics do it.

    Equal but where the stem's kernels reach over the border, which is black instead of grey then.
    """
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    kernels = tensors["features.0.0.weight"] / std[:, None, None]  # (C, 3, 3, 3)
    shift = torch.einsum("ochw,c->o", kernels, mean)
    statistics = tensors["features.0.1.running_mean"] + shift
    return {**tensors, "features.0.0.weight": kernels, "features.0.1.running_mean": statistics}


def load_backbone(graph: Graph, blocks: Sequence[nn.Module], path: Path) -> str:
    """Fill the stem and every [ghost_bottleneck], in order, from a classifier's file; returns a line that says so.

    Raises WeightsError when one of their tensors is missing or has another shape; nothing is changed then.
    """
    sections = [node.index for node in graph.nodes if node.kind == "ghost_bottleneck"]
    stem = graph.nodes[0]
    if not sections or stem.kind != "convolutional" or stem.sources != (IMAGE,):
        raise WeightsError(f"{graph.path}: expected a [convolutional] and then [ghost_bottleneck] for --backbone")
    tensors = without_normalization(read_state(path))
    places = [(blocks[0], "unit", 0), *((blocks[i], "bottleneck", k) for k, i in enumerate(sections, start=1))]
    found: list[tuple[Tensor, Tensor]] = []
    for block, part, number in places:
        for name, own in block.get_submodule(part).state_dict().items():
            given = tensors.get(f"features.{number}.{name}")
            if given is None or given.shape != own.shape:
                got = "none" if given is None else f"the shape {tuple(given.shape)}"
                raise WeightsError(
                    f"{path}: features.{number}.{name}: expected the shape {tuple(own.shape)} of {graph.path}, "
                    f"got {got}; is it a GhostNet of another width or variant?"
                )
            found.append((own, given))
    with torch.no_grad():
        for own, given in found:
            own.copy_(given)
    return f"{path}: {len(found)} tensors, the backbone (layers 0 to {sections[-1]})"
