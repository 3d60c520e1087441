"""Learning rate and averaging by their formulas."""

import math

import pytest
import torch
from torch import nn

from utils.training.schedule import Average, Schedule, make_optimizer


def test_warmup_then_cosine_to_five_percent() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), 0.01)
    schedule = Schedule(optimizer, 0.01, epochs=50, steps_per_epoch=40)
    assert schedule.warmup == 120
    rates = [schedule.set(step) for step in range(2000)]
    assert rates[0] == pytest.approx(0.01 / 120, rel=1e-3)
    assert max(rates) == rates[119] == pytest.approx(0.01, rel=0.02)
    assert rates[1000] == pytest.approx(0.01 * (0.05 + 0.95 / 2))
    assert rates[-1] == pytest.approx(0.0005, rel=1e-3)
    assert optimizer.param_groups[0]["lr"] == rates[-1]


def test_weight_decay_spares_biases_and_normalisation() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decayed, others = make_optimizer(network, 0.1).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 1, 3, 3)] and decayed["weight_decay"] == 0.01
    assert len(others["params"]) == 3 and others["weight_decay"] == 0


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
