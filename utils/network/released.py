"""The state dicts of the published GhostNets (the authors', timm's) under the names of `ghost.py`."""

import re
from collections.abc import Mapping

from torch import Tensor

from utils.errors import WeightsError

STAGES = (1, 1, 1, 1, 1, 1, 5, 1, 4)  # bottlenecks in each of their `blocks`; the convolution after them is blocks.9
NAMES = (  # within the whole network
    (r"conv_stem\.", "features.0.0."),
    (r"bn1\.", "features.0.1."),
    (r"blocks\.9\.0\.conv\.", "squeeze.0."),
    (r"blocks\.9\.0\.bn1\.", "squeeze.1."),
    (r"conv_head\.", "classifier.0."),
    (r"classifier\.", "classifier.3."),
)
BOTTLENECK_NAMES = (
    *((rf"ghost1\.short_conv\.{place}\.", f"conv.0.attention.{place // 2}.{place % 2}.") for place in range(6)),
    (r"ghost1\.", "conv.0."),
    (r"conv_dw\.", "conv.1.0."),
    (r"bn_dw\.", "conv.1.1."),
    (r"se\.conv_reduce\.", "conv.2.fc.0."),
    (r"se\.conv_expand\.", "conv.2.fc.2."),
    (r"ghost2\.", "conv.3."),
    (r"shortcut\.([01])\.", r"shortcut.0.\1."),
    (r"shortcut\.2\.", "shortcut.1."),
    (r"shortcut\.3\.", "shortcut.2."),
)


def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same network's tensors under this project's names and in its shapes (1 x 1 convolutions of a single cell are
    linear layers). Its hard sigmoid of x is the clamp of x / 6 + 1/2. Raises WeightsError for other networks.
    """
    renamed = {}
    for name, tensor in tensors.items():
        own = _own_name(name)
        linear = ".fc." in own or own.startswith("classifier.")
        if linear and tensor.ndim == 4:
            tensor = tensor.flatten(1)
        if ".fc.2." in own:
            tensor = tensor / 6 + (0.5 if own.endswith("bias") else 0)
        renamed[own] = tensor
    return renamed


def _own_name(name: str) -> str:
    for pattern, own in NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, own, name, count=1)
    place = re.match(r"blocks\.(\d)\.(\d)\.", name)
    if place and int(place[1]) < len(STAGES) and int(place[2]) < STAGES[int(place[1])]:
        rest = name[place.end() :]
        for pattern, own in BOTTLENECK_NAMES:
            if re.match(pattern, rest):
                number = 1 + sum(STAGES[: int(place[1])]) + int(place[2])
                return f"features.{number}." + re.sub(pattern, own, rest, count=1)
    raise WeightsError(f"{name}: expected the tensors of a published GhostNet or GhostNetV2")
