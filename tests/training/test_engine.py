"""One step: skipped where it is not finite, averaged over several where asked, clipped, frozen where asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import Darknet
from tests.training.small import CFG
from train import check_batch
from utils.errors import InputError, Stopped
from utils.network.graph import parse_graph
from utils.training.assign import head_specs
from utils.training.distributed import Ranks
from utils.training.engine import Totals, Trainee, train_one_epoch
from utils.training.freeze import freeze, frozen_layers
from utils.training.guard import Guard
from utils.training.loss import DetectionLoss
from utils.training.optimizers import make_optimizer
from utils.training.options import TrainOptions
from utils.training.schedule import Average, Schedule, ScheduleOptions
from utils.training.stop import StopRequest

Batch = tuple[torch.Tensor, torch.Tensor, list[int]]


def batch(seed: int, count: int = 4) -> Batch:
    torch.manual_seed(seed)
    targets = torch.tensor([[i % count, 0, 0.3 + 0.05 * i, 0.5, 0.25, 0.3] for i in range(6)])
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8), targets, list(range(count))


class Broken(DetectionLoss):
    """A loss that is NaN at the calls listed."""

    def __init__(self, *args: Any, bad: set[int]) -> None:
        super().__init__(*args)
        self.bad, self.calls = bad, 0

    def forward(self, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss, parts = super().forward(*args)
        self.calls += 1
        return (loss * float("nan") if self.calls in self.bad else loss), parts


def trainee(bad: set[int] | None = None, **options: Any) -> Trainee:
    torch.manual_seed(0)
    model = Darknet(parse_graph(CFG))
    criterion = Broken(head_specs(model), bad=bad or set())
    optimizer = make_optimizer(model, options.pop("optimizer", "sgd"), 0.01, 0.9, 0.0)
    schedule = Schedule(optimizer, ScheduleOptions(0.01, warmup_epochs=0), 4, 10)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    guard = Guard(model, Path("last.pt"), scaler)
    return Trainee(model, criterion, schedule, Average(model), guard, scaler, None, **options)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def run(one: Trainee, batches: list[Batch], stop: StopRequest | None = None, totals: Totals | None = None) -> Totals:
    totals = totals or Totals()
    train_one_epoch(one, batches, 0, totals, stop or StopRequest(), "epoch", [f"{i}.jpg" for i in range(20)])
    return totals


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    one = trainee(bad={1})
    before = state(one.model), state(one.average.model)
    totals = run(one, [batch(0)])
    assert same(before[0], one.model.state_dict()) and same(before[1], one.average.model.state_dict())
    assert one.guard.skipped == 1 and totals.steps == 1 and totals.losses.sum() == 0
    assert one.average.updates == 0


def test_accumulated_steps_that_are_never_finite_end_it_too() -> None:
    one = trainee(bad=set(range(1, 99)), accumulate=2)
    with pytest.raises(InputError, match="not finite in 10 steps in a row"):
        run(one, [batch(i) for i in range(30)])
    assert one.guard.skipped == 10


def test_losses_of_a_bad_part_are_not_averaged_in() -> None:
    totals = Totals()
    for value in (1.0, float("nan"), 3.0):
        totals.add(torch.full((3,), value))
    assert totals.means(("a", "b", "c")) == {"a": 2.0, "b": 2.0, "c": 2.0}


def test_a_bad_part_of_an_accumulated_step_takes_the_whole_step_back() -> None:
    one = trainee(bad={1}, accumulate=2)
    before = state(one.model)
    run(one, [batch(0), batch(1)])
    assert same(before, one.model.state_dict()) and one.guard.skipped == 1


def test_a_signal_waits_for_the_end_of_an_accumulated_step() -> None:
    one, stop, totals = trainee(accumulate=2), StopRequest(), Totals()
    stop.number = 15
    with pytest.raises(Stopped):
        run(one, [batch(i) for i in range(6)], stop, totals)
    assert totals.steps == 2 and one.average.updates == 1


def test_it_goes_on_as_if_the_bad_batch_had_not_been() -> None:
    broken, plain = trainee(bad={2}), trainee()
    run(broken, [batch(0), batch(1), batch(2)])
    # the same learning rates for the same batches: steps 0 and 2
    for step, images in ((0, batch(0)), (2, batch(2))):
        plain.train_mode()
        plain.schedule.set(step)
        loss, _ = plain.gradients(images[0], images[1])
        assert plain.change(loss)
    assert same(state(broken.model), state(plain.model))
    assert broken.guard.skipped == 1 and broken.guard.in_a_row == 0


def test_ten_bad_steps_in_a_row_end_it() -> None:
    one = trainee(bad=set(range(3, 40)))
    message = r"epoch 1, step 12: .* 10 steps in a row, at learning rate .* 0.jpg, 1.jpg, 2.jpg, 3.jpg.* last.pt"
    with pytest.raises(InputError, match=message):
        run(one, [batch(i) for i in range(20)])


def test_accumulated_steps_are_one_step_of_their_mean() -> None:
    """Without batch normalisation two batches of 2, accumulated, are one of 4 (each with as many boxes)."""
    cfg = CFG.replace("batch_normalize=1\n", "batch_normalize=0\n")
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    targets = torch.tensor([[i, 0, 0.4, 0.5, 0.25, 0.25] for i in range(4)])
    gradients = []
    for parts in (1, 2):
        torch.manual_seed(1)
        one = trainee(accumulate=parts)
        one.model = Darknet(parse_graph(cfg))
        one.train_mode()
        for part in range(parts):
            chosen = slice(part * 4 // parts, (part + 1) * 4 // parts)
            mine = targets[chosen].clone()
            mine[:, 0] -= mine[0, 0].item()
            one.gradients(images[chosen], mine, update=part + 1 == parts)
        gradients.append([parameter.grad for parameter in one.model.parameters()])
    assert max(gradient.abs().max() for gradient in gradients[0]) > 1e-3
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("times", "accumulate"), [(4, 1), (16, 1), (1, 4)])
def test_the_gradient_is_as_large_for_any_batch(times: int, accumulate: int) -> None:
    """Batches with the same images over and over, and accumulated ones, have the gradient of those images."""
    gradients = []
    for repeats, parts in ((1, 1), (times, accumulate)):
        one = trainee(accumulate=parts)
        one.train_mode()
        images, targets, _ = batch(0)
        more = [targets + torch.tensor([4.0 * number, 0, 0, 0, 0, 0]) for number in range(repeats)]
        for part in range(parts):
            one.gradients(images.repeat(repeats, 1, 1, 1), torch.cat(more), update=part + 1 == parts)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in one.model.parameters()]))
    assert gradients[0].norm() > 0.1
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_the_network_sees_shares_of_one() -> None:
    """Bytes of 0 and 255 reach it as 0 and 1."""
    one = trainee()
    seen: list[torch.Tensor] = []
    one.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[:, 1], images[:, 2] = 255, 51
    one.gradients(images, torch.zeros(0, 6))
    torch.testing.assert_close(seen[0][0, :, 5, 5], torch.tensor([0.0, 1.0, 0.2]))


def test_the_gradient_is_clipped() -> None:
    one = trainee(clip=0.001)
    one.train_mode()
    loss, _ = one.gradients(*batch(0)[:2])
    optimizer = one.schedule.optimizer
    norms = []
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.stack([p.grad.norm() for p in one.model.parameters()]).norm().item())
    )
    one.change(loss)
    assert norms[0] == pytest.approx(0.001, rel=1e-3)


def test_frozen_layers_stay_as_they_are() -> None:
    one = trainee()
    blocks = freeze(list(one.model.blocks), [0, 1])
    one.frozen = blocks
    before = state(one.model)
    run(one, [batch(0), batch(1)])
    after = one.model.state_dict()
    for name in before:
        changed = not torch.equal(before[name], after[name])
        assert changed == (not name.startswith(("blocks.0.", "blocks.1."))), name


def test_what_backbone_means() -> None:
    assert frozen_layers(parse_graph(CFG), "backbone") == [0, 1, 2, 3]
    assert frozen_layers(parse_graph(CFG), "2") == [0, 1]
    with pytest.raises(InputError, match="at most the number of layers, 6"):
        frozen_layers(parse_graph(CFG), "7")
    from utils.network.graph import load_graph

    tiny = frozen_layers(load_graph("yolov3-tiny.cfg"), "backbone")
    assert tiny == [*range(14), 17, 18]  # all that the upsampling reads: the backbone, and the lateral convolution
    assert frozen_layers(load_graph("yolov3.cfg"), "backbone")[:75] == list(range(75))


def test_a_signal_ends_it_after_the_step() -> None:
    one, stop, totals = trainee(), StopRequest(), Totals()

    def batches() -> Any:
        for index in range(5):
            if index == 2:
                stop.number = 15
            yield batch(index)

    class Loader:
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Any:
            return batches()

    with pytest.raises(Stopped) as caught:
        run(one, Loader(), stop, totals)
    assert caught.value.number == 15 and totals.steps == 3 and one.average.updates == 3


@pytest.mark.parametrize(
    ("cfg", "single"),
    [
        (CFG, False),
        (CFG.replace("[yolo]", "[avgpool]\n[scale_channels]\nfrom=-2\n[yolo]"), False),
        (
            CFG.replace(
                "[yolo]",
                "[avgpool]\n[convolutional]\nfilters=12\nbatch_normalize=1\nactivation=logistic\n"
                "[scale_channels]\nfrom=-3\n[yolo]",
            ),
            True,
        ),
        (CFG.replace("width=64", "width=8").replace("height=64", "height=8"), True),
    ],
)
def test_a_single_image_cannot_be_normalised_by_itself(cfg: str, single: bool) -> None:
    """Behind [avgpool], or where the last map has one cell, PyTorch refuses to train with one image."""
    graph, one = parse_graph(cfg), TrainOptions(batch_size=1)
    check_batch(replace(one, batch_size=2), 9, graph, Ranks())
    if not single:
        check_batch(one, 9, graph, Ranks())
        return
    for options, images in ((one, 9), (replace(one, batch_size=4), 1)):
        with pytest.raises(InputError, match=r"^one image of \d+x\d+ a step: expected more images"):
            check_batch(options, images, graph, Ranks())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        Darknet(graph).train()(torch.rand(1, 3, graph.net.height, graph.net.width))
