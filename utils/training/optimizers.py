"""Optimizers: Muon for the convolutions, AdamW, and SGD with momentum."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from utils.precision import native_bfloat16

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
    """An optimizer of the trainable parameters; weight decay on convolution weights only (the 4-dimensional ones)."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in weights if parameter.ndim == 4]
    others = [parameter for parameter in weights if parameter.ndim != 4]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))
    full = [parameter for parameter in decayed if parameter.shape[1] > 1]  # not depthwise
    groups[0]["params"] = [parameter for parameter in decayed if parameter.shape[1] == 1]
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
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    if not group["orthogonal"]:
                        state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                change = (
                    self._orthogonal(parameter, state, group) if group["orthogonal"] else _adam(parameter, state, group)
                )
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change, alpha=group["lr"])

    @staticmethod
    def _orthogonal(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        mean = state["mean"].lerp_(parameter.grad, 1 - group["momentum"])
        step = parameter.grad.lerp(mean, group["momentum"]).flatten(1)  # Nesterov's look ahead
        return orthogonalize(step).view_as(parameter) * (MUON_SHARE * max(step.shape) ** 0.5)


def _adam(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    assert parameter.grad is not None
    beta = group["momentum"]
    mean = state["mean"].lerp_(parameter.grad, 1 - beta) / (1 - beta ** state["step"])
    square = state["square"].lerp_(parameter.grad.square(), 0.001) / (1 - 0.999 ** state["step"])
    return mean / (square.sqrt() + 1e-8)


def orthogonalize(matrix: Tensor) -> Tensor:
    """(m, n) -> about U V^T of its singular value decomposition, by five Newton-Schulz steps; bfloat16 where native."""
    x = matrix.bfloat16() if native_bfloat16(matrix.device) else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() * 1.02 + 1e-7)
    for a, b, c in NEWTON_SCHULZ:
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
