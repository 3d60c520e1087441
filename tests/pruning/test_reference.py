"""Removing channels, compared with Torch-Pruning: the same channels gone, the same network left."""

import json
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch

from models import Darknet, load_model
from tests.commands import assert_refused, run
from tests.conftest import randomise
from utils.errors import InputError
from utils.network.graph import load_graph, parse_graph
from utils.pruning.apply import all_heads, head_difference, prune_channels
from utils.pruning.cost import Costs
from utils.pruning.groups import ChannelGroups
from utils.pruning.plan import Limits
from utils.pruning.reference import Reference, reference_choice, reference_keep, reference_network

LIMITS = Limits(min_keep=0.1, round_to=4)
CONVOLUTION = "[convolutional]\nbatch_normalize=1\npad=1\n"
HEAD = "[convolutional]\nfilters=24\nactivation=linear\n[yolo]\nmask=0,1,2\nanchors=4,4,8,8,16,16\nclasses=3\nnum=3\n"
MIXED = f"""
[net]
width=64
height=64
{CONVOLUTION}filters=32
size=3
stride=2
activation=mish
{CONVOLUTION}filters=32
groups=32
size=3
activation=leaky
{CONVOLUTION}filters=32
size=1
activation=linear
[shortcut]
from=-3
[maxpool]
size=5
stride=1
[route]
layers=-1,-2
{CONVOLUTION}filters=48
size=3
activation=swish
{HEAD}
[route]
layers=-3
[upsample]
stride=2
{CONVOLUTION}filters=24
size=3
activation=leaky
{HEAD}
"""  # a shortcut over a depthwise convolution, a pooled route, upsampling, two heads


def network(name: str) -> Darknet:
    model = Darknet(parse_graph(MIXED) if name == "mixed" else load_graph(name)).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("reference", get_args(Reference))
@pytest.mark.parametrize(
    "name", ["mixed", "yolov3-tiny.cfg", "yolov3-tiny-3l.cfg", "ghost-yolov3-tiny-lite.cfg", "yolov3.cfg"]
)
def test_the_same_channels_gone_is_the_same_network(name: str, reference: Reference) -> None:
    model = network(name)
    groups = ChannelGroups.of(model)
    keep = reference_keep(model, groups, reference, 0.5, LIMITS)
    theirs = reference_network(model, groups, reference, 0.5, LIMITS)
    ours = prune_channels(model, groups.book, groups.labels_kept(keep), Darknet)
    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (model, theirs, ours)]
    assert sizes[1] == sizes[2] < 0.5 * sizes[0]
    images = [torch.rand(1, 3, 64, 64)]
    assert head_difference(all_heads(theirs, images), all_heads(ours, images)) < 1e-6


@pytest.mark.parametrize(
    ("name", "words"), [("yolov4-tiny.cfg", "slices of"), ("ghostnet-yolov3-nano.cfg", "[0-9]+ channels of layer")]
)
def test_what_no_cfg_can_say_is_an_error(name: str, words: str) -> None:
    model = network(name)
    with pytest.raises(InputError, match=f"torch-pruning cannot prune this network: it leaves {words}"):
        reference_keep(model, ChannelGroups.of(model), "torch-pruning", 0.5, Limits(0.1, 1))


def test_as_little_goes_as_it_takes() -> None:
    model = network("mixed")
    groups = ChannelGroups.of(model)
    costs = Costs(model, groups, (64, 64))
    whole = costs.gflops(np.ones(groups.count, bool))
    keep = reference_choice(model, groups, "torch-pruning", LIMITS, lambda keep: costs.gflops(keep) <= 0.5 * whole)
    assert 0.4 < costs.gflops(keep) / whole <= 0.5
    with pytest.raises(InputError, match=r"expected a target that it can reach with --min-keep 0\.1"):
        reference_choice(model, groups, "torch-pruning", LIMITS, lambda keep: False)


@pytest.mark.slow
def test_ways_to_prune_side_by_side(trained: Path, data: Path, tmp_path: Path) -> None:
    common = ["--weights", trained / "best.pt", "--data", data / "s.data", "--workers", 0, "--finetune-epochs", 1]
    methods = ["gamma", "random", "torch-pruning"]
    done = run("benchmark.py", "pruning", *common, "--methods", *methods, "--target-flops", 0.8, 0.6, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "benchmark" / "exp"
    written = json.loads((folder / "pruning.json").read_text())
    assert [row["method"] for row in written["pruned"]] == 2 * methods
    for row, goal in zip(written["pruned"], [0.8] * 3 + [0.6] * 3, strict=True):
        assert row["standing"]["gflops"] <= goal * written["whole"]["gflops"]
        weights = folder / f"{row['method']}-{goal}" / "train" / "best.pt"
        model = load_model(weights=weights)
        assert row["standing"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert f"\n{row['method']} " in done.stdout
    assert cv2.imread(str(folder / "pruning.png")).min() < 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-flops", 0], "--target-flops 0: expected a share of what there is"),
        (["--target-flops", 0.001], "expected what --strategy slim"),
        (["--finetune-epochs", 0], "--finetune-epochs 0: expected at least 1"),
        (["--data", "none.data"], "none.data"),
    ],
)
def test_bad_input(trained: Path, data: Path, tmp_path: Path, options: list[object], message: str) -> None:
    common = ["--weights", trained / "best.pt", "--data", data / "s.data", "--workers", 0]
    assert_refused(run("benchmark.py", "pruning", *common, *options, folder=tmp_path), message, tmp_path)
