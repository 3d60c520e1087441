"""Which convolutions stay in float32 in the midst of a network in bfloat16."""

import pytest
import torch
from torch import Tensor, nn

from utils.network.depthwise import spare_depthwise


@pytest.mark.parametrize(
    ("conv", "spared"),
    [
        (nn.Conv2d(8, 8, 3, 1, 1, groups=8), False),
        (nn.Conv2d(8, 8, 3, 2, 1, groups=8), True),
        (nn.Conv2d(8, 16, 5, 1, 2, groups=8), True),
        (nn.Conv2d(8, 8, (1, 5), 1, (0, 2), groups=8), True),
        (nn.Conv2d(8, 8, 5, 2, 2, groups=4), False),
        (nn.Conv2d(8, 8, 5, 2, 2), False),
    ],
)
def test_strided_and_large_depthwise_convolutions(conv: nn.Conv2d, spared: bool) -> None:
    """Their result is float32's, rounded once; the next layer still gets bfloat16, and the gradient arrives."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 12, 12).bfloat16().requires_grad_()
    exact: Tensor = conv(x.float())
    spare_depthwise(nn.Sequential(conv))
    with torch.autocast("cpu", torch.bfloat16):
        got = conv(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, exact.bfloat16()) == spared
    torch.testing.assert_close(got.float(), exact, rtol=0.05, atol=0.05)
    got.float().sum().backward()
    assert x.grad is not None and conv.weight.grad is not None and conv.weight.grad.dtype == torch.float32
