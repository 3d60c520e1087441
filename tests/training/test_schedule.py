"""Learning rate and averaging by their formulas; optimizers against torch's and the closed form."""

import math

import pytest
import torch
from torch import nn

from utils.training.optimizers import make_optimizer, orthogonalize
from utils.training.schedule import Average, Schedule, ScheduleOptions


def schedule_of(
    shape: str, optimizer: str = "adamw", epochs: int = 50, momentum: float = 0.9
) -> tuple[torch.optim.Optimizer, Schedule]:
    made = make_optimizer(nn.Linear(2, 2), optimizer, 0.01, momentum, 0.01)
    return made, Schedule(made, ScheduleOptions(0.01, shape=shape), epochs=epochs, steps=40)


def test_warmup_then_cosine_to_five_percent() -> None:
    optimizer, schedule = schedule_of("cosine")
    assert schedule.warmup == 120
    rates = [schedule.set(step) for step in range(2000)]
    assert rates[0] == pytest.approx(0.01 / 120, rel=1e-3)
    assert max(rates) == rates[119] == pytest.approx(0.01, rel=0.02)
    assert rates[1000] == pytest.approx(0.01 * (0.05 + 0.95 / 2))
    assert rates[-1] == pytest.approx(0.0005, rel=1e-3)
    assert optimizer.param_groups[0]["lr"] == rates[-1]


def test_line() -> None:
    _, line = schedule_of("linear")
    assert line.set(1000) == pytest.approx(0.01 * (0.05 + 0.95 / 2))
    assert line.set(500) == pytest.approx(0.01 * (0.05 + 0.95 * 0.75))


def test_short_trainings_warm_up_a_fifth_at_most() -> None:
    assert schedule_of("cosine", epochs=2)[1].warmup == 16


def test_sgd_without_momentum() -> None:
    """Each step is the learning rate times the gradient and the decayed weight, whatever came before."""
    network = nn.Linear(2, 2)
    optimizer = make_optimizer(network, "sgd", 0.01, 0.0, 0.1)
    for size in (5.0, -1.0):
        weight, bias = network.weight.detach().clone(), network.bias.detach().clone()
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, size)
        optimizer.step()
        torch.testing.assert_close(network.weight, weight - 0.01 * (size + 0.1 * weight))
        torch.testing.assert_close(network.bias, bias - 0.01 * size)


def test_a_layer_that_stands_twice_is_averaged_once() -> None:
    layer = nn.Linear(2, 2)
    average = Average(nn.Sequential(layer, layer, nn.Linear(2, 2)), decay=0.9, ramp=1e-9)
    model = nn.Sequential(layer, layer, nn.Linear(2, 2))
    before = average.model[0].weight.clone()
    with torch.no_grad():
        layer.weight.add_(1)
    average.update(model)
    torch.testing.assert_close(average.model[1].weight, before + 0.1)


@pytest.mark.parametrize(
    ("momentum", "expected"),
    [
        (0.9, [0.8 + 0.1 / 120, 0.85, 0.9, 0.9]),
        (0.8, [0.8] * 4),
        (0.5, [0.5] * 4),  # it never starts above its end
        (0.0, [0.0] * 4),
    ],
)
def test_momentum_of_sgd_warms_up(momentum: float, expected: list[float]) -> None:
    optimizer, schedule = schedule_of("cosine", "sgd", momentum=momentum)
    momenta = []
    for step in (0, 59, 119, 500):
        schedule.set(step)
        momenta.append(optimizer.param_groups[0]["momentum"])
    assert momenta == pytest.approx(expected)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_weight_decay_spares_biases_and_normalisation(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3))
    network[0].bias.requires_grad = False  # frozen ones are left out
    groups = make_optimizer(network, name, 0.1, 0.9, 0.01).param_groups
    decayed = [parameter for group in groups if group["weight_decay"] for parameter in group["params"]]
    spared = [parameter for group in groups if not group["weight_decay"] for parameter in group["params"]]
    assert {tuple(p.shape) for p in decayed} == {(2, 1, 3, 3), (4, 2, 3, 3)} and len(decayed) == 2
    assert len(spared) == 3 and all(parameter.ndim == 1 for parameter in spared)


def test_muon_moves_vectors_as_adamw_does() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 1), nn.Linear(3, 1)
    theirs.load_state_dict(ours.state_dict())
    optimizers = (
        make_optimizer(ours, "muon", 0.01, 0.9, 0.0),
        torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0),
    )
    x = torch.randn(8, 3)
    for _ in range(5):
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            # the bias alone: a weight of more than one dimension is made orthogonal
            (network(x) - 1).square().mean().backward()
            network.weight.grad.zero_()
            optimizer.step()
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((8, 32), (32, 8), (16, 16)):
        matrix = torch.randn(shape)
        values = torch.linalg.svdvals(orthogonalize(matrix))
        assert values.min() > 0.6 and values.max() < 1.4
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert torch.nn.functional.cosine_similarity(
            orthogonalize(matrix).flatten(), (u @ v).flatten(), dim=0
        ) == pytest.approx(1, abs=0.03)


def test_average_by_formula() -> None:
    network = nn.BatchNorm2d(1)
    average = Average(network)
    expected = 1.0
    for update in range(1, 6):
        with torch.no_grad():
            network.weight.fill_(update * 10.0)
            network.num_batches_tracked.fill_(update)
        average.update(network)
        decay = 0.998 * (1 - math.exp(-update / 200))
        expected = decay * expected + (1 - decay) * update * 10
    assert average.model.weight.item() == pytest.approx(expected, rel=1e-5)
    assert average.model.num_batches_tracked.item() == 5
    assert not average.model.training and not average.model.weight.requires_grad
    other = Average(nn.BatchNorm2d(1))
    other.load_state_dict(average.state_dict())
    assert other.updates == 5 and torch.equal(other.model.weight, average.model.weight)


def test_no_average_is_the_model_itself() -> None:
    network = nn.Linear(2, 2)
    average = Average(network, decay=0)
    with torch.no_grad():
        network.weight.mul_(3)
    average.update(network)
    assert torch.equal(average.model.weight, network.weight)
