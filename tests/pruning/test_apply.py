"""Removing channels: the smaller network computes what the masked one does, whatever it is built of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import Darknet, load_model, save_weights
from tests.conftest import randomise
from tests.network.test_blocks import KIND_NAMES, network, section
from tests.pruning.random_cfgs import SIZE, cfgs
from utils.network.graph import parse_graph
from utils.pruning.apply import all_heads, constant, fold_constants, head_difference, masked, prune_channels
from utils.pruning.groups import ChannelGroups
from utils.pruning.importance import group_scores
from utils.pruning.plan import Choice, Limits, Strategy


def cut(model: Darknet, share: float, strategy: Strategy = "slim", limits: Limits = Limits(0, 1)) -> tuple:  # noqa: B008
    """The groups, which labels stay, and the smaller network, by random gammas."""
    groups = ChannelGroups.of(model)
    choice = Choice(groups, group_scores(groups, "gamma", strategy == "slim"), strategy, limits)
    keep = groups.labels_kept(choice.of_share(share))
    return groups.book, keep, prune_channels(model, groups.book, keep, Darknet).eval()


def assert_same_as_masked(model: Darknet, share: float, strategy: Strategy = "slim") -> Darknet:
    book, keep, compact = cut(model, share, strategy)
    images = [torch.rand(1, 3, model.graph.net.height, model.graph.net.width)]
    with masked(book, keep):
        expected = all_heads(model, images)
    assert head_difference(expected, all_heads(compact, images)) < 1e-4
    assert parse_graph(compact.graph.to_cfg()) == compact.graph
    return compact


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_kind_of_block(kind: str, share: float, tmp_path: Path) -> None:
    model = network(section(kind))
    compact = assert_same_as_masked(model, share)
    assert count(compact) < count(model)
    save_weights(compact, tmp_path / "x.weights")
    (tmp_path / "x.cfg").write_text(compact.graph.to_cfg())
    again = load_model(tmp_path / "x.cfg", tmp_path / "x.weights")
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(again(images), compact(images))


def test_a_value_that_is_no_number_is_a_difference() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, torch.nan, 1.0])
    for other in ([[good, bad]], [[bad, good]]):
        assert not head_difference([[good, good]], other) <= 1e-4


def count(model: Darknet) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cfgs(), st.sampled_from((0.2, 0.5, 0.9)), st.sampled_from(("normal", "slim")), st.integers(0, 99))
def test_random_networks(text: str, share: float, strategy: Strategy, seed: int) -> None:
    model = Darknet(parse_graph(text)).eval()
    randomise(model, seed)
    assert_same_as_masked(model, share, strategy)


def test_constants_are_exact_where_nothing_is_padded() -> None:
    text = """[net]\nwidth=32\nheight=32
        [convolutional]\nfilters=8\nsize=3\nbatch_normalize=1\nactivation=mish
        [ghost]\nfilters=24\nsize=1\nratio=3\ncheap_size=1\nbatch_normalize=1\nactivation=leaky
        [convolutional]\nfilters=16\nsize=1\nbatch_normalize=1\nactivation=swish
        [convolutional]\nfilters=16\nsize=1\nbatch_normalize=1\nactivation=linear
        [shortcut]\nfrom=-2\nactivation=leaky
        [maxpool]\nsize=3\nstride=1
        [route]\nlayers=-1,-3
        [convolutional]\nfilters=16\nsize=5\nactivation=linear
        [yolo]\nanchors=4,4,8,8\nnum=2\nclasses=3"""
    model = Darknet(parse_graph(text)).eval()
    randomise(model)
    book, keep, compact = cut(model, 0.5)
    images = [torch.rand(1, 3, 32, 32) for _ in range(2)]
    expected = all_heads(constant(model, book, keep), images)
    assert head_difference(expected, all_heads(compact, images)) > 0.01
    fold_constants(model, compact, book, keep, [torch.rand(1, 3, 64, 64)])
    assert head_difference(expected, all_heads(compact, images)) < 1e-5


def test_shared_weights() -> None:
    shared = "[convolutional]\nfilters=8\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\nshare_index=1\n"
    compact = assert_same_as_masked(network(shared, shared), 0.5)
    first, second = (compact.blocks[index].unit[0].weight for index in (1, 2))
    assert first is second and len(first) < 8


def test_a_projection_stays_where_the_shape_no_longer_changes() -> None:
    text = "[ghost_bottleneck]\nfilters=12\nexpansion=8\n"
    model = network(text)
    groups = ChannelGroups.of(model)
    keep = np.ones(groups.count, bool)
    outputs = groups.of_label[groups.book.maps[2]]  # (12,), the second half ghosts of the first
    keep[outputs[:2]] = False
    labels = groups.labels_kept(keep)
    compact = prune_channels(model, groups.book, labels, Darknet).eval()
    assert compact.graph.nodes[2].options.filters == 8 == compact.graph.nodes[1].options.filters
    images = [torch.rand(1, 3, 16, 16)]
    with masked(groups.book, labels):
        expected = all_heads(model, images)
    assert head_difference(expected, all_heads(compact, images)) < 1e-5


def test_the_smaller_network_learns() -> None:
    model = network(section("ghost"), section("ghost_bottleneck"))
    compact = cut(model, 0.5)[2].train()
    sum(head.square().sum() for head in compact(torch.rand(2, 3, SIZE, SIZE))).backward()
    for name, parameter in compact.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
