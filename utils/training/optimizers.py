"""Optimizers: Muon for the convolutions, AdamW, and SGD with momentum."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from utils.precision import fast_bfloat16

OptimizerName = Literal["muon", "adamw", "sgd"]
MUON_SHARE = 0.2  # a Muon step is this times the learning rate times the root of the longer side: AdamW's own size
NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def make_optimizer(
    model: nn.Module, name: OptimizerName, lr: float, momentum: float, decay: float
) -> torch.optim.Optimizer:
    """An optimizer of the trainable parameters; weight decay on the weights of convolutions and linear layers only."""
    kernels = {module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in weights if parameter in kernels]
    others = [parameter for parameter in weights if parameter not in kernels]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))
    full = [parameter for parameter in decayed if parameter.ndim == 4 and parameter.shape[1] > 1]  # not depthwise
    groups[0]["params"] = [parameter for parameter in decayed if parameter.ndim == 2 or parameter.shape[1] == 1]
    return Muon([{"params": full, "weight_decay": decay, "orthogonal": True}, *groups], lr=lr, momentum=momentum)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal (Jordan et al., 2024) for groups marked `orthogonal`; AdamW for others.

    A convolution (out, in, k, k) is the matrix (out, in*k*k). Steps are scaled to the size of AdamW's (Liu et al.,
    "Muon is scalable for LLM training", 2025), so that one learning rate serves both.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.9) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            states = [self.state[parameter] for parameter in parameters]
            for parameter, state in zip(parameters, states, strict=True):
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    if not group["orthogonal"]:
                        state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
            gradients = [parameter.grad for parameter in parameters]
            changes = (_orthogonal if group["orthogonal"] else _adam)(gradients, states, group["momentum"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(parameters, changes, alpha=group["lr"])


def _orthogonal(gradients: list[Tensor], states: list[dict[str, Any]], momentum: float) -> list[Tensor]:
    changes = []
    for gradient, state in zip(gradients, states, strict=True):
        mean = state["mean"].lerp_(gradient, 1 - momentum)
        step = gradient.lerp(mean, momentum).flatten(1)  # Nesterov's look ahead
        changes.append(orthogonalize(step).view_as(gradient) * (MUON_SHARE * max(step.shape) ** 0.5))
    return changes


def _adam(gradients: list[Tensor], states: list[dict[str, Any]], momentum: float) -> list[Tensor]:
    means, squares = [state["mean"] for state in states], [state["square"] for state in states]
    torch._foreach_lerp_(means, gradients, 1 - momentum)
    torch._foreach_mul_(squares, 0.999)
    torch._foreach_addcmul_(squares, gradients, gradients, 0.001)
    spreads = torch._foreach_div(squares, [1 - 0.999 ** state["step"] for state in states])
    torch._foreach_sqrt_(spreads)
    torch._foreach_add_(spreads, 1e-8)
    changes = torch._foreach_div(means, [1 - momentum ** state["step"] for state in states])
    torch._foreach_div_(changes, spreads)
    return list(changes)


def orthogonalize(matrix: Tensor) -> Tensor:
    """(m, n) -> about U V^T of its singular value decomposition, by five Newton-Schulz steps; bfloat16 where fast."""
    x = matrix.bfloat16() if fast_bfloat16(matrix.device) else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() * 1.02 + 1e-7)
    for a, b, c in NEWTON_SCHULZ:
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
