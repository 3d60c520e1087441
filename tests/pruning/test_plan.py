"""Which channels go: the least important, as many as asked, within the rules; and what that costs."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from models import Darknet, load_model
from tests.conftest import randomise
from tests.network.test_blocks import KIND_NAMES, network, section
from utils.errors import InputError
from utils.network.summary import gflops, trace
from utils.pruning.apply import prune_channels
from utils.pruning.cost import Costs, in_short, parse_target
from utils.pruning.groups import ChannelGroups
from utils.pruning.importance import CRITERIA, group_scores, loss_changes
from utils.pruning.layers import remove_block, remove_layers, residual_blocks
from utils.pruning.plan import Choice, Limits

CONV = "[convolutional]\nfilters={}\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n"
RESIDUAL = CONV.format(16) + CONV.format(8) + "[shortcut]\nfrom=-3\nactivation=linear\n"


def gammas(model: Darknet, *values: list[float]) -> Darknet:
    """The network with these gammas in its first layers."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm, row in zip(norms, values, strict=False):
        norm.weight.data = torch.tensor(row)
    return model


def choose(model: Darknet, share: float, strategy: str = "slim", **limits: float) -> tuple[ChannelGroups, np.ndarray]:
    groups = ChannelGroups.of(model)
    scores = group_scores(groups, "gamma", strategy == "slim")
    choice = Choice(groups, scores, strategy, Limits(**({"min_keep": 0, "round_to": 1} | limits)))  # type: ignore[arg-type]
    return groups, groups.labels_kept(choice.of_share(share))


def stays(groups: ChannelGroups, keep: np.ndarray, layer: int) -> list[int]:
    return np.flatnonzero(keep[groups.book.maps[layer]]).tolist()


def test_the_smallest_gammas_go_whatever_their_sign() -> None:
    model = gammas(network(), [1, 0.1, -0.2, 1, -1, 1, 1, 1], [0.3, 1, 1, 1, 1, 1, -0.01, 1])
    groups, keep = choose(model, 0.25)
    assert stays(groups, keep, 0) == [0, 3, 4, 5, 6, 7] and stays(groups, keep, 1) == [1, 2, 3, 4, 5, 7]


def test_strategies_differ_in_what_shortcuts_tie() -> None:
    first, middle, last = [0.1, 0.9, 0.3, *[2.0] * 5], [0.35, *[2.0] * 15], [0.6, 0.2, 0.3, *[2.0] * 5]
    model = gammas(network(RESIDUAL), [2.0] * 8, first, middle, last)
    expected = {  # of ties the greatest: .6 .9 .3
        "normal": ([0, 1, 2, 3, 4, 5, 6, 7], range(1, 16)),
        "slim": ([0, 1, 3, 4, 5, 6, 7], range(1, 16)),
    }
    for strategy, (tied, inner) in expected.items():
        share = {"normal": 1 / 24, "slim": 3 / 40}[strategy]
        groups, keep = choose(model, share, strategy)
        assert stays(groups, keep, 1) == stays(groups, keep, 3) == stays(groups, keep, 4) == tied, strategy
        assert stays(groups, keep, 2) == list(inner), strategy


def test_no_layer_is_emptied_and_each_keeps_its_share_and_a_multiple() -> None:
    model = gammas(network(CONV.format(40)), [0.001 * i for i in range(1, 9)], [1.0] * 8, [1.0] * 40)
    groups, keep = choose(model, 0.9)
    assert stays(groups, keep, 0) == [7] and all(len(stays(groups, keep, layer)) >= 1 for layer in range(3))
    groups, keep = choose(model, 0.99, min_keep=0.5)
    assert [len(stays(groups, keep, layer)) for layer in range(3)] == [4, 4, 20]
    groups, keep = choose(model, 0.99, min_keep=0.3, round_to=8)
    assert [len(stays(groups, keep, layer)) for layer in range(3)] == [8, 8, 16]


def test_slices_keep_as_many_channels() -> None:
    sliced = "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
    model = gammas(network(sliced), [1.0] * 8, [0.1, 0.2, 0.3, 5, 5, 5, 5, 0.4])
    groups, keep = choose(model, 3 / 16)
    assert stays(groups, keep, 1) == [1, 2, 3, 4, 5, 6] and len(stays(groups, keep, 0)) == 7


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_costs_are_those_of_the_network_that_is_built(kind: str, share: float) -> None:
    model = network(section(kind))
    groups = ChannelGroups.of(model)
    choice = Choice(groups, group_scores(groups, "gamma", True), "slim", Limits(0, 1))
    keep = choice.of_share(share)
    compact = prune_channels(model, groups.book, groups.labels_kept(keep), Darknet).eval()
    costs = Costs(model, groups, (16, 16))
    assert costs.parameters(keep) == len(parameters_to_vector(compact.parameters()))
    assert costs.gflops(keep) == pytest.approx(gflops(trace(compact, torch.zeros(1, 3, 16, 16))))


def test_criteria_by_their_definitions() -> None:
    model = network(CONV.format(6))
    groups = ChannelGroups.of(model)
    ids = groups.of_label[groups.book.maps[2]]
    unit = model.blocks[2].unit
    filters = unit[0].weight.detach().double().flatten(1).numpy()
    norms = np.sqrt((filters**2).sum(1))
    distances = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in filters] for a in filters]).sum(1)
    lamp = np.array([value**2 / (norms[norms >= value] ** 2).sum() for value in norms])
    expected = {
        "gamma": unit[1].weight.detach().abs().double().numpy(),
        "l1": np.abs(filters).sum(1) / np.abs(filters).sum(1).mean(),
        "l2": norms / norms.mean(),
        "fpgm": distances / distances.mean(),
        "lamp": lamp,
    }
    for criterion, values in expected.items():
        assert group_scores(groups, criterion, True)[ids] == pytest.approx(values, rel=1e-4)  # type: ignore[arg-type]
    chance = group_scores(groups, "random", False, seed=3)[ids]
    assert (chance == group_scores(groups, "random", False, seed=3)[ids]).all()
    assert (chance != group_scores(groups, "random", False, seed=4)[ids]).all()
    assert set(CRITERIA) == {*expected, "random", "taylor"}


def test_taylor_is_the_change_of_the_loss_without_the_channel() -> None:
    model = network(CONV.format(6))
    groups = ChannelGroups.of(model)
    images = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)

    def loss(raw: list[torch.Tensor], targets: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, None]:
        return sum(head.double().sum() for head in raw), None  # type: ignore[return-value]

    changes = loss_changes(groups, model, loss, [(images, torch.zeros(0, 6), [])])
    scores = group_scores(groups, "taylor", True, changes=changes)
    bn = model.blocks[2].unit[1]
    step = 1e-2  # towards gamma = beta = 0
    for channel in range(6):
        before = loss(model.raw(images.float() / 255), images, (16, 16))[0].item()
        kept = bn.weight.data.clone(), bn.bias.data.clone()
        bn.weight.data[channel] *= 1 - step
        bn.bias.data[channel] *= 1 - step
        after = loss(model.raw(images.float() / 255), images, (16, 16))[0].item()
        bn.weight.data, bn.bias.data = kept
        found = scores[groups.of_label[groups.book.maps[2][channel]]]
        assert found == pytest.approx(((after - before) / step) ** 2, rel=0.1)


def test_targets_are_shares_or_amounts() -> None:
    assert parse_target("0.3", 8e6, "--x") == pytest.approx(2.4e6)
    assert parse_target("1.5M", 8e6, "--x") == 1.5e6
    assert parse_target("20", 8e6, "--x") == 20
    for wrong in ("9M", "-1", "many", "0", "nan"):
        with pytest.raises(InputError, match="--x"):
            parse_target(wrong, 8e6, "--x")


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (20, "20"),
        (999, "999"),
        (1e3, "1K"),
        (844_312, "844.4K"),
        (8_674_496, "8.675M"),
        (5.445e9, "5.445G"),
        (77_551_001, "77.56M"),
    ],
)
def test_amounts_are_told_as_they_are_asked_for(amount: float, words: str) -> None:
    assert in_short(amount) == words
    assert parse_target(words, 1e12, "--x") == pytest.approx(amount, rel=1e-3)


# ---- Whole blocks --------------------------------------------------------------------------------------------------


def test_residual_blocks_go_by_their_gammas_and_leave_the_rest_alone() -> None:
    other = "[ghost_bottleneck]\nfilters=8\nexpansion=8\n"
    model = network(RESIDUAL, other, RESIDUAL)
    for layer, value in ((2, 0.9), (3, 0.7), (5, 0.5), (6, 0.1), (7, 0.2)):
        for module in model.blocks[layer].modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data.fill_(value)
    blocks = residual_blocks(model)
    assert [(block.source, block.last) for block in blocks] == [(5, 8), (4, 5), (1, 4)]
    assert [block.gamma for block in blocks] == pytest.approx([0.15, 0.5, 0.8])
    images = torch.rand(1, 3, 16, 16)
    smaller = remove_block(model, blocks[1], Darknet)
    silent = model.blocks[5].bottleneck.conv  # what remains of the whole network without what the block adds
    for module in silent[-1].modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.zero_()
            module.bias.data.zero_()
    assert torch.allclose(model(images), smaller(images), atol=1e-5)
    left, gone = remove_layers(model, 3, Darknet)
    assert [words.split(" of ")[0] for words in gone] == ["layers 6 to 8", "layers 5 to 5", "layers 2 to 4"]
    with pytest.raises(InputError, match="--layers 4: expected at most 3"):
        remove_layers(model, 4, Darknet)
    assert [node.kind for node in left.graph.nodes] == ["convolutional"] * 3 + ["yolo"]


def test_a_block_that_something_else_reads_stays() -> None:
    assert residual_blocks(network(RESIDUAL, "[route]\nlayers=-1,-2\n")) == []
    assert len(residual_blocks(network(RESIDUAL, "[route]\nlayers=-1,-4\n"))) == 1
    assert residual_blocks(network(RESIDUAL.replace("activation=linear", "activation=relu"))) == []
    head = "[convolutional]\nfilters=16\nactivation=linear\n[yolo]\nmask=0,1\nanchors=4,4,8,8\nnum=2\nclasses=3\n"
    assert (
        residual_blocks(
            network(RESIDUAL.replace("[shortcut]\nfrom=-3", head + "[route]\nlayers=-3\n[shortcut]\nfrom=-6"))
        )
        == []
    )
    wider = "[ghost_bottleneck]\nfilters=12\nexpansion=8\n"
    assert residual_blocks(network(wider)) == []


def test_the_shipped_residual_networks_have_their_blocks() -> None:
    for cfg, number in (("yolov3.cfg", 23), ("ghostnet-yolov3-nano.cfg", 11), ("yolov3-tiny.cfg", 0)):
        model = load_model(cfg)
        randomise(model)
        assert len(residual_blocks(model)) == number, cfg
