"""Every shipped cfg, pruned: the same as masked, reloaded, trained a step, and run by OpenCV's Darknet importer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import Darknet, load_model, save_weights
from tests.conftest import PROJECT, randomise
from tests.network.test_opencv import assert_heads_equal
from tests.pruning.test_apply import cut
from utils.network.expand import expand
from utils.network.graph import load_graph
from utils.pruning.apply import all_heads, head_difference, masked
from utils.pruning.plan import Limits

CFGS = sorted(path.name for path in (PROJECT / "cfg").glob("*.cfg"))
SIZE = 96


def without_clamps(name: str) -> Darknet:
    """The network without squeeze and excitation, which Darknet has no sections for, at a small input."""
    graph = load_graph(name)
    return Darknet(graph.with_options({n.index: {"se": 0} for n in graph.nodes if n.kind == "ghost_bottleneck"})).eval()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", CFGS)
def test_a_pruned_network_is_the_masked_one_everywhere(name: str, share: float, tmp_path: Path) -> None:
    model = without_clamps(name)
    randomise(model)
    book, keep, compact = cut(model, share, limits=Limits(0.05, 4))
    image = torch.rand(1, 3, SIZE, SIZE)
    with masked(book, keep):
        expected = all_heads(model, [image])
    assert head_difference(expected, all_heads(compact, [image])) < 1e-4
    del model, expected

    save_weights(compact, tmp_path / "x.weights")
    (tmp_path / "x.cfg").write_text(compact.graph.to_cfg())
    again = load_model(tmp_path / "x.cfg", tmp_path / "x.weights")
    assert torch.equal(again(image), compact(image))

    parts = Darknet(expand(compact.graph, compact.blocks)).eval()
    sources = (tensor for block in compact.blocks for tensor in block.darknet_tensors())
    with torch.no_grad():
        for block in parts.blocks:
            for tensor in block.darknet_tensors():
                tensor.copy_(next(sources))
    save_weights(parts, tmp_path / "parts.weights")
    (tmp_path / "parts.cfg").write_text(parts.graph.to_cfg())
    blob = np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    assert_heads_equal(parts, tmp_path / "parts.cfg", tmp_path / "parts.weights", blob)

    again.train()
    optimizer = torch.optim.SGD(again.parameters(), lr=1e-6)
    sum(head.square().mean() for head in again(torch.rand(2, 3, SIZE, SIZE))).backward()
    before = {name: value.detach().clone() for name, value in again.named_parameters()}
    optimizer.step()
    assert all(value.isfinite().all() for value in again.parameters())
    assert any(not torch.equal(before[name], value) for name, value in again.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CFGS if name.startswith("ghostnet")])
def test_with_squeeze_and_excitation(name: str) -> None:
    model = load_model(name)
    randomise(model)
    book, keep, compact = cut(model, 0.6)
    image = torch.rand(1, 3, SIZE, SIZE)
    with masked(book, keep):
        expected = all_heads(model, [image])
    assert head_difference(expected, all_heads(compact, [image])) < 1e-4
