"""Batch normalisation folded into the convolutions before it: the same eval-mode network with fewer operations."""

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fuse(model: Network) -> Network:
    """A copy of a network in eval mode: each convolution that a batch normalisation follows has taken it over.

    Outputs are the model's to rounding (weights are scaled by gamma / sqrt(variance + eps)). The copy is for inference
    only: it has other tensors than the cfg says, and its weights cannot be written as Darknet's.
    """
    assert not model.training, "only running statistics can be folded"
    fused = copy.deepcopy(model)
    for unit in fused.modules():
        if isinstance(unit, nn.Sequential):
            for place, (conv, norm) in enumerate(pairwise(list(unit.children()))):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    unit[place], unit[place + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return fused
