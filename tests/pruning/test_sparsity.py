"""Sparsity training: the pull against closed forms, whom it reaches and when, and how its strength changes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models import Darknet
from tests.training.small import CFG
from tests.training.test_engine import Broken, batch, state
from tests.training.test_engine import run as run_epoch
from utils.network.graph import parse_graph
from utils.pruning.gammas import Gammas, histogram, layer_counts, near_zero
from utils.pruning.plots import short_name
from utils.pruning.sparsity import Sparsity, SparsityOptions, shrink, shrink_groups
from utils.training.assign import head_specs
from utils.training.engine import Trainee
from utils.training.freeze import freeze
from utils.training.guard import Guard
from utils.training.optimizers import make_optimizer
from utils.training.schedule import Average, Schedule, ScheduleOptions

NORMED_HEAD = CFG.replace("filters=12", "batch_normalize=1\nfilters=12").replace("[ghost]", "[ghost]\nversion=2", 1)
PRUNABLE = (  # of NORMED_HEAD, block 0 frozen: neither the head's gammas, nor those of the attention in block 1
    "blocks.1.ghost.primary_conv.1.weight",
    "blocks.1.ghost.cheap_operation.1.weight",
    "blocks.2.ghost.primary_conv.1.weight",
    "blocks.2.ghost.cheap_operation.1.weight",
    "blocks.3.unit.1.weight",
)
HEAD = "blocks.4.unit.1.weight"


def network(text: str = CFG) -> Darknet:
    torch.manual_seed(0)
    return Darknet(parse_graph(text))


def sparsity(model: Darknet, strength: float, epochs: int = 4, **options: Any) -> Sparsity:
    return Sparsity(model, Gammas.of(model), SparsityOptions(strength, **options), epochs)


def trainee(model: Darknet, bad: set[int] | None = None, **options: Any) -> Trainee:
    criterion = Broken(head_specs(model), bad=bad or set())
    optimizer = make_optimizer(model, "muon", 0.004, 0.9, 0.01)
    schedule = Schedule(optimizer, ScheduleOptions(0.004, warmup_epochs=0), 4, 10)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    guard = Guard(model, Path("last.pt"), scaler)
    return Trainee(model, criterion, schedule, Average(model), guard, scaler, None, **options)


def set_gammas(model: Darknet, values: dict[str, list[float]]) -> None:
    with torch.no_grad():
        for name, each in values.items():
            model.get_parameter(name).copy_(torch.tensor(each))


# ---- One pull ------------------------------------------------------------------------------------------------------


def test_soft_threshold_by_hand() -> None:
    values = torch.tensor([1.0, -1.0, 0.05, -0.05, 0.0, 0.3])
    pull = torch.tensor([0.25, 0.25, 0.1, 0.1, 0.1, 0.0])
    assert shrink(values, pull).tolist() == [0.75, -0.75, 0.0, 0.0, 0.0, values[5].item()]


def test_group_threshold_by_hand() -> None:
    """Norms 5, 0.05 and 0, and a group that is not pulled; places as 0 0 1 2 3."""
    values = torch.tensor([3.0, -4.0, 0.05, 0.0, 7.0])
    groups, members = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([[0, 1], [2, 5], [3, 5], [4, 5]])
    pull = torch.tensor([0.5, 0.5, 0.1, 0.1, 0.0])
    scale = 1 - 0.5 * math.sqrt(2) / 5
    expected = torch.tensor([3 * scale, -4 * scale, 0, 0, 7])
    torch.testing.assert_close(shrink_groups(values, pull, groups, members), expected)


def test_equal_gammas_of_a_group_move_as_each_alone() -> None:
    values, pull = torch.full((6,), -0.5), torch.full((6,), 0.125)
    together = shrink_groups(values, pull, torch.zeros(6, dtype=torch.long), torch.arange(6)[None])
    torch.testing.assert_close(together, shrink(values, pull))


def test_it_pulls_as_far_as_an_l1_gradient_in_sgd() -> None:
    """Learning rate 0.01 and momentum 0.937, as in the projects from which users know their S."""
    model, gamma = network(), nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([gamma], lr=0.01, momentum=0.937)
    ours = sparsity(model, strength=0.001)
    for _ in range(2000):
        gamma.grad = 0.001 * gamma.detach().sign()
        optimizer.step()
        ours.step(1.0)
    fallen = 1 - ours.tensors[0][0].item()
    assert fallen == pytest.approx(1 - gamma.item(), rel=0.03) and 0.3 < fallen < 0.35


# ---- Whom it reaches, and when -------------------------------------------------------------------------------------


def test_the_gammas_that_can_go() -> None:
    model = network(NORMED_HEAD)
    freeze(list(model.blocks), [0])
    gammas = Gammas.of(model)
    assert gammas.names == (*PRUNABLE, HEAD)
    assert gammas.prunable.tolist() == [True] * (16 * 4 + 32) + [False] * 12
    assert (gammas.groups[:16] == gammas.groups[16:32]).all()  # a ghost goes with what it is made of
    assert len(np.unique(gammas.groups)) == 16 + 16 + 32 + 12
    members = gammas.members()
    assert members.shape == (16 + 16 + 32 + 12, 2)
    for group, places in enumerate(members):
        assert places[places < 108].tolist() == np.flatnonzero(gammas.groups == group).tolist()


def test_layers_that_share_weights_are_one() -> None:
    conv = "[convolutional]\nfilters=16\nsize=3\npad=1\nstride=1\nbatch_normalize=1\nactivation=leaky\n"
    shared = CFG.replace("[convolutional]\nfilters=32", f"{conv}{conv}share_index=3\n[convolutional]\nfilters=32", 1)
    shared = shared.replace("filters=32\nsize=3\nstride=2", "filters=16\nsize=3\nstride=2")
    model = network(shared)
    assert model.blocks[3].unit[1] is model.blocks[4].unit[1]
    assert sum(name.startswith(("blocks.3", "blocks.4")) for name in Gammas.of(model).names) == 1


@pytest.mark.parametrize("optimizer_step", [0, 20])
def test_a_step_pulls_nothing_else_and_the_average_follows(optimizer_step: int) -> None:
    """Beside the same step without it. At step 20 of 40 the cosine is at (1 + 0.05) / 2."""
    states, averages = [], []
    for strength in (0.0, 0.3):
        model = network(NORMED_HEAD)
        one = trainee(model, frozen=freeze(list(model.blocks), [0]))
        set_gammas(model, {PRUNABLE[4]: [0.001 * place for place in range(-16, 16)]})
        one.regulariser = sparsity(model, strength=strength)
        one.train_mode()
        one.schedule.set(optimizer_step)
        loss, _ = one.gradients(*batch(0)[:2])
        assert one.change(loss)
        states.append(state(model))
        averages.append(state(one.average.model))
    pull = 0.16 * 0.3 * (1 if optimizer_step == 0 else 0.525)
    decay = 0.998 * (1 - math.exp(-1 / 200))
    for name, plain in states[0].items():
        if name not in PRUNABLE:
            assert torch.equal(plain, states[1][name]), name
            continue
        pulled = plain.sign() * (plain.abs() - pull).clamp(min=0)
        torch.testing.assert_close(states[1][name], pulled, rtol=0, atol=1e-6)
        change = (averages[1][name] - averages[0][name]) / (1 - decay)
        torch.testing.assert_close(change, pulled - plain, rtol=0, atol=1e-5)
    assert (states[1][PRUNABLE[4]] == 0).all() and (states[1][PRUNABLE[0]] > 0.9).all()


class Recorder:
    """A regulariser that notes when it is called."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def step(self, rate: float) -> None:
        self.rates.append(rate)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(("accumulate", "steps"), [(1, range(10)), (4, (3, 7, 9))])
def test_once_for_each_change_of_the_weights(accumulate: int, steps: Any) -> None:
    recorder = Recorder()
    one = trainee(network(), accumulate=accumulate, regulariser=recorder)
    run_epoch(one, [batch(index) for index in range(10)])
    cosine = [0.05 + 0.95 * (1 + math.cos(math.pi * step / 40)) / 2 for step in steps]
    assert recorder.rates == pytest.approx(cosine)


def test_not_for_a_step_that_is_not_finite() -> None:
    recorder = Recorder()
    one = trainee(network(), bad={2}, regulariser=recorder)
    run_epoch(one, [batch(index) for index in range(3)])
    assert len(recorder.rates) == 2 and one.guard.skipped == 1


def test_groups_are_pulled_together() -> None:
    """A ghost stays where its primary channel is large, and goes with it; each alone it would be at 0."""
    model = network()
    primary, cheap = "blocks.1.ghost.primary_conv.1.weight", "blocks.1.ghost.cheap_operation.1.weight"
    start = {primary: [0.4] + [0.1] * 15, cheap: [0.3] + [0.05] * 15}
    results = []
    for grouped in (False, True):
        set_gammas(model, start)
        one = sparsity(model, strength=0.5, grouped=grouped)
        for _ in range(4):
            one.step(1.0)
        results.append([model.get_parameter(name)[:2].tolist() for name in (primary, cheap)])
    assert results[0] == [pytest.approx([0.08, 0]), pytest.approx([0, 0])]
    norm = 0.5 - 4 * 0.08 * math.sqrt(2)
    assert results[1] == [pytest.approx([0.8 * norm, 0], rel=1e-4), pytest.approx([0.6 * norm, 0], rel=1e-4)]


# ---- Strength over the epochs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "before"), [(4, 2), (5, 3), (1, 1)])
def test_global_decay(epochs: int, before: int) -> None:
    """What a gamma of 1 loses in a step of each epoch: 0.16 S, and a hundredth of it after half of them."""
    model = network()
    one, fallen = sparsity(model, 0.2, epochs, schedule="global-decay"), []
    for _ in range(epochs):
        set_gammas(model, {PRUNABLE[4]: [1.0] * 32})
        one.step(1.0)
        fallen.append(1 - model.get_parameter(PRUNABLE[4])[0].item())
        one.after_epoch(model)
    expected = [0.16 * 0.2] * before + [0.16 * 0.002] * (epochs - before)
    assert fallen == pytest.approx(expected, abs=1e-6)


def test_constant_is_constant() -> None:
    model = network()
    one = sparsity(model, strength=0.2)
    for _ in range(4):
        one.after_epoch(model)
    assert one.strength == 0.2


def test_a_later_epoch_goes_on_with_its_strength() -> None:
    model = network()
    one, other = (sparsity(model, 0.2, schedule="global-decay") for _ in range(2))
    for _ in range(2):
        one.after_epoch(model)
    assert other.strength == 0.2
    other.load_state_dict(one.state_dict())
    assert other.strength == one.strength == pytest.approx(0.002)


# ---- What is counted -----------------------------------------------------------------------------------------------


def test_counts() -> None:
    assert near_zero(np.array([0, 0.0099, 0.01, 1])) == 0.5
    counts = histogram(np.array([0, 0.0099, 0.0101, 1.001, 7]))
    assert counts[[0, 1, 100, 199]].tolist() == [2, 1, 1, 1] and counts.sum() == 5
    model = network(NORMED_HEAD)
    set_gammas(model, {PRUNABLE[1]: [0.001] * 3 + [-0.5] * 13, HEAD: [0.0] * 12})
    layers = {name: counts for name, *counts in layer_counts(Gammas.of(model), model)}
    assert layers[PRUNABLE[1]] == [3, 13] and layers[PRUNABLE[4]] == [0, 32] and HEAD not in layers
    assert [short_name(name) for name in PRUNABLE[1:5:3]] == ["1 cheap_operation", "3"]
