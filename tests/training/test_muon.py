"""Muon's step on convolutions against its definition, with the singular value decomposition in place of iterations."""

import copy
import itertools

import pytest
import torch
from torch import nn

from utils.training.optimizers import make_optimizer

LR, MOMENTUM, DECAY = 0.01, 0.9, 0.1
SHAPES = [(32, 8, 3), (64, 16, 1), (16, 4, 3), (16, 32, 1)]  # out, in, k: as matrices (32, 72), (64, 16), (16, 36) ...


def steps(shape: tuple[int, int, int], gradients: list[torch.Tensor], decay: float = 0.0) -> list[torch.Tensor]:
    """The weight of a hidden convolution before and after steps with these gradients (out, in, k, k)."""
    out_channels, in_channels, kernel = shape
    torch.manual_seed(0)
    hidden = nn.Conv2d(in_channels, out_channels, kernel, bias=False)
    norms = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(out_channels)
    network = nn.Sequential(nn.Conv2d(3, in_channels, 1), norms[0], hidden, norms[1], nn.Conv2d(out_channels, 18, 1))
    optimizer = make_optimizer(network, "muon", LR, MOMENTUM, decay)
    weights = [hidden.weight.detach().clone()]
    for gradient in gradients:
        hidden.weight.grad = gradient.clone()
        optimizer.step()
        weights.append(hidden.weight.detach().clone())
    return weights


def noise(shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape[0], shape[1], shape[2], shape[2], generator=generator)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_has_one_size_and_no_preferred_direction(shape: tuple[int, int, int], size: float) -> None:
    """A fifth of the learning rate as root mean square, whatever the shape and the gradient's size."""
    gradient = noise(shape, 1) * size
    gradient[0] *= 20  # one direction far stronger than the others
    before, after = steps(shape, [gradient])
    change = (before - after).flatten(1)
    assert change.square().mean().sqrt().item() == pytest.approx(LR * 0.2, rel=0.05)
    values = torch.linalg.svdvals(change)
    wanted = LR * 0.2 * max(change.shape) ** 0.5
    assert values.min() > 0.6 * wanted and values.max() < 1.4 * wanted
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    assert cosine(change, u @ v) > 0.97


def test_weight_decay_is_a_factor_of_its_own() -> None:
    gradient = noise(SHAPES[0], 2)
    plain, decayed = steps(SHAPES[0], [gradient]), steps(SHAPES[0], [gradient], DECAY)
    torch.testing.assert_close(decayed[1], plain[1] - plain[0] * (LR * DECAY), rtol=0, atol=1e-7)


def test_the_second_step_remembers_the_first() -> None:
    """Nesterov momentum: the step's matrix is the gradient moved by the momentum towards the mean of all so far."""
    shape = SHAPES[0]
    gradients = [noise(shape, 3) * 5, noise(shape, 4)]
    weights = steps(shape, gradients)
    mean = torch.zeros_like(gradients[0])
    for before, after, gradient in zip(weights[:-1], weights[1:], gradients, strict=True):
        mean = MOMENTUM * mean + (1 - MOMENTUM) * gradient
        u, _, v = torch.linalg.svd(((1 - MOMENTUM) * gradient + MOMENTUM * mean).flatten(1), full_matrices=False)
        assert cosine(before - after, u @ v) > 0.98
    first, second = (before - after for before, after in itertools.pairwise(weights))
    assert cosine(first, second) > 0.8  # without memory they would have nothing in common


def test_a_state_that_is_saved_goes_on() -> None:
    """Steps of a copy of the optimizer are those of the original."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 18, 1))
    other = copy.deepcopy(network)
    optimizers = [make_optimizer(one, "muon", LR, MOMENTUM, DECAY) for one in (network, other)]
    for step in range(4):
        if step == 2:
            other.load_state_dict(network.state_dict())
            optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
        for parameter, twin in zip(network.parameters(), other.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            twin.grad = parameter.grad.clone() if step >= 2 else torch.zeros_like(twin)
        for optimizer in optimizers:
            optimizer.step()
    for parameter, twin in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, twin)
