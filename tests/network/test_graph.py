"""Sections to one graph with absolute indices, and back to text."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import Darknet
from tests.conftest import PROJECT
from utils.errors import CfgError
from utils.network.expand import expand
from utils.network.graph import IMAGE, fit_heads, load_graph, num_classes_of, parse_graph

CFGS = sorted(path.name for path in (PROJECT / "cfg").glob("*.cfg"))
ANCHORS = "anchors=4,4,8,8,9,9\nnum=3\n"
TEXT = """[net]
[convolutional]
filters=4
[convolutional]
filters=4
[shortcut]
from=-2
[route]
layers=-1,0
[scale_channels]
from=2
"""


def priors(text: str) -> torch.Tensor:
    """(A, 5+C) what a new network's first head gives where its input is 0: the biases alone."""
    model = Darknet(parse_graph(f"[net]\nwidth=64\nheight=64\n{text}"))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
    return model.eval().raw(torch.zeros(1, 3, 64, 64))[0][0, :, 0, 0].detach()


@pytest.mark.parametrize("normal", ["", "batch_normalize=1\n"])
@pytest.mark.parametrize(
    "section",
    [
        "convolutional]\nstride=8",
        "ghost]\nstride=8\nratio=2",
        "ghost]\nstride=8\nratio=4",
        "ghost]\nstride=8\nratio=16",
    ],
)
def test_heads_start_at_plausible_rates(section: str, normal: str) -> None:
    """About 8 objects in 640 x 640 pixels for each anchor, and the same for each class."""
    found = priors(f"[{section}\nfilters=48\nactivation=linear\n{normal}[yolo]\nanchors=4,4,8,8\nnum=2\nclasses=19\n")
    assert found.shape == (2, 24)
    objects = found[:, 4].sigmoid() * (640 / 8) ** 2
    torch.testing.assert_close(objects, torch.full((2,), 8.0), rtol=0.01, atol=0)
    torch.testing.assert_close(found[:, 5:].exp(), torch.full((2, 19), 0.6 / 19), rtol=1e-4, atol=0)
    if normal:  # beta starts at 0; a convolution's own bias by chance
        assert (found[:, :4] == 0).all()


@pytest.mark.parametrize(
    ("section", "known"),
    [
        ("[convolutional]\nfilters=16\nstride=8\nbatch_normalize=1\nactivation=linear\n[batchnorm]\n", True),
        ("[convolutional]\nfilters=8\nstride=8\n[ghost_bottleneck]\nfilters=16\nexpansion=6\n", True),
        ("[convolutional]\nfilters=16\nstride=8\n[se]\nsqueezed=4\n", False),
        ("[convolutional]\nfilters=16\nstride=8\n[convolutional]\nfilters=16\n[shortcut]\nfrom=-2\n", False),
        ("[convolutional]\nfilters=8\nstride=8\n[convolutional]\nfilters=8\n[route]\nlayers=-1,-2\n", False),
        ("[convolutional]\nfilters=16\nstride=4\n[maxpool]\nstride=2\n", False),
        ("[convolutional]\nfilters=16\nstride=8\n[activation]\nactivation=leaky\n", False),
        ("[convolutional]\nfilters=16\nstride=8\n[dropout]\n", False),
    ],
)
def test_heads_behind_other_blocks(section: str, known: bool) -> None:
    """Where no layer adds a bias to the head's input there is no place for a rate; nothing else is changed for it."""
    text = f"{section}[yolo]\nanchors=4,4,8,8\nnum=2\nclasses=3\n"
    assert torch.isclose(priors(text)[:, 4], torch.tensor(math.log(8 / 80**2))).all() == known
    gates = Darknet(parse_graph(f"[net]\n{text}")).state_dict().get("blocks.1.se.fc.2.bias")
    assert gates is None or (gates == 0.5).all()


def test_fitted_heads_may_say_what_a_cfg_may_say() -> None:
    text = "[net]\n[ghost]\nfilters=36\nratio=2\n[yolo]\nanchors=1,1,2,2,3,3\nnum=3\nclasses=7\n"
    assert Darknet(fit_heads(parse_graph(text), 3)).num_classes == 3
    with pytest.raises(CfgError, match=r"cfg:2: \[ghost\] filters=21: expected a multiple of ratio=2"):
        fit_heads(parse_graph(text), 2)


def test_inert_layer_indices_move_with_their_layers() -> None:
    """Darknet's embedding_layer, a layer index, in a network whose layers are renumbered."""
    text = "[net]\n[ghost]\nfilters=8\n[convolutional]\nfilters=24\n[convolutional]\nfilters=24\n"
    text += "[yolo]\nanchors=1,1,2,2,3,3\nnum=3\nclasses=3\nembedding_layer="
    for written in ("-2", "1"):
        graph = parse_graph(text + written + "\n")
        assert graph.heads()[0].sources == (2,) and graph.consumers(1) == [2]
        plain = expand(graph, Darknet(graph).blocks)
        assert [node.kind for node in plain.nodes][3:] == ["convolutional", "convolutional", "yolo"]
        assert plain.nodes[5].options.embedding_layer == 3 and "\nembedding_layer=-2\n" in plain.to_cfg()
        assert parse_graph(plain.to_cfg()) == plain


def test_sources_are_absolute() -> None:
    graph = parse_graph(TEXT)
    assert [node.sources for node in graph.nodes] == [(IMAGE,), (0,), (1, 0), (2, 0), (3, 2)]
    assert graph.consumers(IMAGE) == [0]
    assert graph.consumers(0) == [1, 2, 3]
    assert [graph.last_use(index) for index in range(5)] == [3, 2, 4, 4, 4]


def test_with_options_leaves_the_original() -> None:
    graph = parse_graph(TEXT)
    changed = graph.with_options({0: {"filters": 16}})
    assert (graph.nodes[0].options.filters, changed.nodes[0].options.filters) == (4, 16)
    assert changed.nodes[1:] == graph.nodes[1:] and changed != graph


@pytest.mark.parametrize("name", CFGS)
def test_shipped_cfgs_round_trip(name: str) -> None:
    graph = load_graph(name)
    again = parse_graph(graph.to_cfg("a comment\nof two lines"))
    assert again == graph
    if all(getattr(node.options, "se", 0) == 0 for node in graph.nodes):
        expanded = expand(graph, Darknet(graph).blocks)
        assert parse_graph(expanded.to_cfg()) == expanded


def test_expansion_keeps_references_across_ghost_blocks() -> None:
    graph = load_graph("ghost-yolov3-tiny.cfg")
    expanded = expand(graph, Darknet(graph).blocks)
    assert all(node.kind != "ghost" for node in expanded.nodes)
    assert len(expanded.nodes) == len(graph.nodes) + 2 * sum(node.kind == "ghost" for node in graph.nodes)
    route = next(node for node in expanded.nodes if node.kind == "route" and node.options.group_id == 1)
    source = expanded.nodes[route.sources[0]]
    assert (source.kind, source.sources) == ("route", (source.index - 2, source.index - 1))  # primary, then ghosts


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[ghost]\nversion=2\n", "version=2 has no Darknet form"),
        ("[se]\n", "squeeze and excitation with a clamp has no Darknet form"),
        ("[ghost_bottleneck]\nfilters=4\nexpansion=8\nse=2\n", "se=2: squeeze and excitation with a clamp has no"),
        ("[ghost_bottleneck]\nfilters=4\nexpansion=8\nversion=2\n", "version=2 has no Darknet form"),
        ("[ghost_bottleneck]\nfilters=4\nexpansion=8\n", "reads the image twice, which Darknet's sections cannot"),
    ],
)
def test_what_darknet_cannot_say_is_refused_with_its_line(section: str, message: str) -> None:
    graph = parse_graph(f"[net]\n{section}[convolutional]\nfilters=18\n[yolo]\nmask=0,1,2\nclasses=1\n" + ANCHORS)
    with pytest.raises(CfgError, match=f"cfg:2: .* {message}"):
        expand(graph, Darknet(graph).blocks)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[ghost]\nversion=3\n", "version=3: expected 1, or 2"),
        ("[ghost_bottleneck]\nfilters=5\n", "filters=5: expected an even number"),
        ("[ghost_bottleneck]\nexpansion=7\n", "expansion=7: expected an even number"),
        ("[ghost_bottleneck]\nsize=4\n", "size=4: expected an odd size"),
        ("[se]\nsqueezed=0\n", "squeezed=0: expected at least 1"),
    ],
)
def test_ghost_sections_say_what_they_expect(section: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        parse_graph(f"[net]\n{section}")


@st.composite
def random_cfg(draw: st.DrawFn) -> str:
    """A cfg of random sections, every reference to some earlier layer, relative or absolute."""
    sections = ["[net]\nwidth=64\nheight=32\nlearning_rate=.1"]
    count = draw(st.integers(1, 12))
    for index in range(count):
        kinds = ["convolutional", "ghost", "maxpool", "upsample", "dropout", "activation", "batchnorm", "reorg3d"]
        kind = draw(st.sampled_from([*kinds, "route", "shortcut", "sam"] if index else kinds))
        lines = [f"[{kind}]"]

        def reference(index: int = index) -> str:
            target = draw(st.integers(0, index - 1))
            return str(target - index if draw(st.booleans()) else target)

        if kind == "convolutional":
            lines += [f"filters={draw(st.integers(1, 64))}", f"size={draw(st.sampled_from([1, 3, 5]))}", "pad=1"]
            lines += draw(st.sampled_from([[], ["stride_x=2", "stride_y=1"], ["dilation=2"], ["batch_normalize=1"]]))
        elif kind == "ghost":
            lines += [
                f"filters={6 * draw(st.integers(1, 8))}",
                f"ratio={draw(st.sampled_from([2, 3]))}",
                "cheap_size=5",
            ]
        elif kind == "maxpool":
            lines += [f"size={draw(st.integers(2, 5))}", f"stride={draw(st.integers(1, 2))}"]
        elif kind == "dropout":
            lines += [f"probability={draw(st.floats(0, 0.99))}"]
        elif kind == "route":
            layers = ",".join(reference() for _ in range(draw(st.integers(1, 3))))
            lines += [f"layers={layers}", *draw(st.sampled_from([[], ["groups=2", "group_id=1"]]))]
        elif kind == "shortcut":
            lines += [f"from={reference()},{reference()}", "activation=leaky"]
            lines += draw(st.sampled_from([[], ["weights_type=per_channel", "weights_normalization=softmax"]]))
        elif kind == "sam":
            lines += [f"from={reference()}"]
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


@settings(max_examples=200, deadline=None)
@given(random_cfg())
def test_any_graph_round_trips(text: str) -> None:
    graph = parse_graph(text)
    assert parse_graph(graph.to_cfg()) == graph
    assert all(-1 <= source < node.index for node in graph.nodes for source in node.sources)


def test_fit_heads_rewrites_classes_and_filters() -> None:
    fitted = fit_heads(load_graph("yolov3-tiny.cfg"), 3)
    assert num_classes_of(fitted) == 3
    assert [fitted.nodes[head.sources[0]].options.filters for head in fitted.heads()] == [24, 24]
    assert Darknet(fitted).num_classes == 3


def test_heads_that_cannot_be_fitted_say_so() -> None:
    text = "[net]\n[convolutional]\nfilters=18\n[activation]\n[yolo]\nanchors=1,1,2,2,3,3\nnum=3\nclasses=1\n"
    with pytest.raises(CfgError, match=r"cfg:5: \[yolo\]: cannot be fitted to 2 classes"):
        fit_heads(parse_graph(text), 2)
