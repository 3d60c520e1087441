"""What Torch-Pruning, the reference among pruners of any network, would remove: ours is compared with it.

Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023. The package is a development dependency.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import InputError
from utils.pruning.groups import ChannelGroups
from utils.pruning.plan import Limits

Reference = Literal["torch-pruning", "torch-pruning-gamma"]
PROBES = 10  # of the ratio that it is asked for: to a thousandth


class _Heads(nn.Module):
    """A network as a function of tensors alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.model.heads(images)


def reference_network(
    model: Any, groups: ChannelGroups, reference: Reference, ratio: float, limits: Limits, numbered: bool = False
) -> Any:
    """A copy that Torch-Pruning made smaller, `ratio` of the channels gone, judged over the whole network.

    "torch-pruning" judges by the norms of all weights that go together, its own default, "torch-pruning-gamma" by the
    batch normalisation. Fixed channels stay. With `numbered` the running means, which no judge looks at, hold the
    channels' numbers in `model`. Raises InputError without the package.
    """
    try:
        import torch_pruning
    except ImportError:
        raise InputError(f"{reference}: the package torch-pruning is missing; pip install torch-pruning") from None
    smaller = deepcopy(model).eval()
    twins = dict(zip(model.modules(), smaller.modules(), strict=True))
    if numbered:
        for layer in groups.judged:
            if layer.bn is not None:
                twins[layer.bn].running_mean.copy_(torch.arange(len(layer.outputs)))
    convs = [layer for layer in groups.judged if layer.conv is not None]
    judges = torch_pruning.importance
    net, device = model.graph.net, next(model.parameters()).device
    try:
        torch_pruning.BasePruner(
            _Heads(smaller),
            torch.zeros(1, net.channels, net.height, net.width, device=device),
            judges.BNScaleImportance() if reference == "torch-pruning-gamma" else judges.GroupMagnitudeImportance(),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=1 - limits.min_keep,
            round_to=limits.round_to,
            ignored_layers=[twins[layer.conv] for layer in convs if groups.fixed[groups.of_label[layer.outputs]].all()],
        ).step()
    except torch.cuda.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError) as error:  # what its own surgery runs into
        raise InputError(f"{reference} cannot prune this network: {error}") from None
    return smaller


def reference_keep(model: Any, groups: ChannelGroups, reference: Reference, ratio: float, limits: Limits) -> np.ndarray:
    """(groups,) bool: what stays in Torch-Pruning's network.

    Raises InputError where that is no network of a cfg: a route's slices of different widths, say.
    """
    smaller = reference_network(model, groups, reference, ratio, limits, numbered=True)
    names = {module: name for name, module in model.named_modules()}
    gone = np.zeros(groups.count, bool)
    for layer in groups.judged:
        if layer.bn is not None:
            numbers = smaller.get_submodule(names[layer.bn]).running_mean.long().cpu().numpy()
            gone[groups.of_label[np.delete(layer.outputs, numbers)]] = True
    for layer in groups.judged:
        stays = int((~gone)[groups.of_label[layer.outputs]].sum())
        theirs = smaller.get_submodule(names[layer.bn or layer.conv]).weight.shape[0]
        if stays != theirs:
            name = model.graph.nodes[layer.node].kind
            raise InputError(
                f"{reference} cannot prune this network: it leaves {theirs} channels of layer {layer.node}, [{name}], "
                f"and {stays} of what is tied to them"
            )
    for slices in groups.equal:
        if len(counts := set((~gone)[slices].sum(1).tolist())) > 1:
            raise InputError(f"{reference} cannot prune this network: it leaves slices of {counts} channels")
    return ~gone


def reference_choice(
    model: Any, groups: ChannelGroups, reference: Reference, limits: Limits, reached: Callable[[np.ndarray], bool]
) -> np.ndarray:
    """What stays where as little goes as it takes until `reached(keep)`. Raises InputError where it never is."""
    low, high = 0.0, 1.0
    best = None
    for _ in range(PROBES):
        ratio = (low + high) / 2
        keep = reference_keep(model, groups, reference, ratio, limits)
        if reached(keep):
            best, high = keep, ratio
        else:
            low = ratio
    if best is None:
        raise InputError(f"{reference}: expected a target that it can reach with --min-keep {limits.min_keep:g}")
    return best
