"""Cfg text to sections and typed options."""

from pathlib import Path

import pytest

from models import Darknet  # noqa: F401  (registers the blocks)
from utils.errors import CfgError
from utils.network.cfg import parse_cfg
from utils.network.graph import load_graph, parse_graph

NET = "[net]\nwidth=32\nheight=32\n"


def test_sections_entries_and_comments() -> None:
    text = "# lead\n\n[net]\n width = 32 # trailing\n; other comment\n[route]\nlayers = -1, -3\n"
    net, route = parse_cfg(text, "x.cfg")
    assert (net.kind, net.line, [(e.key, e.value, e.line) for e in net.entries]) == ("net", 3, [("width", "32", 4)])
    assert (route.kind, route.line, route.entries[0].value) == ("route", 6, "-1, -3")
    assert route.where("layers") == "x.cfg:7" and route.where("nothing") == "x.cfg:6"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.cfg: holds no sections"),
        ("[convolutional]\n", "x.cfg:1: expected [net] as the first section, got [convolutional]"),
        ("width=3\n", "x.cfg:1: expected the [net] section first"),
        (NET + "[convolutional]\nfilters=\n", "x.cfg:5: expected key=value, got 'filters='"),
        (NET + "[convolutional]\nfilters\n", "x.cfg:5: expected key=value, got 'filters'"),
        (NET + "[convolutional\n", "x.cfg:4: expected a section header"),
        (NET + "[convolutional]\nfilters=a\n", "x.cfg:5: filters=a: expected a whole number"),
        (NET + "[convolutional]\nfilters=0\n", "x.cfg:5: filters=0: expected at least 1"),
        (NET + "[convolutional]\nfilters=1_6\n", "x.cfg:5: filters=1_6: expected a whole number"),
        (NET + "[yolo]\nanchors=1,nan\n", "x.cfg:5: anchors=1,nan: expected numbers separated by commas"),
        (NET + "[route]\nlayers=-1,,2\n", "x.cfg:5: layers=-1,,2: expected whole numbers separated by commas"),
        (NET + "[convolutional]\npad=2\n", "x.cfg:5: pad=2: expected 0 or 1"),
        (NET + "[convolutional]\nactivation=gelu\n", "x.cfg:5: activation=gelu: expected one of linear, leaky"),
        (
            NET + "[convolutional]\nfiltres=3\n",
            "x.cfg:5: unknown key 'filtres' in [convolutional], did you mean 'filters'?",
        ),
        (NET + "[convolutional]\nxnor=1\n", "x.cfg:5: xnor=1 is not supported"),
        (NET + "[shortcut]\n", "x.cfg:4: [shortcut] expected the key from"),
        (NET + "[route]\nactivation=leaky\n", "x.cfg:5: unknown key 'activation' in [route]"),
        (NET + "[Gaussian_yolo]\n", "x.cfg:4: unknown section [Gaussian_yolo], expected one of: activation"),
        (NET + "[region]\n", "x.cfg:4: unknown section [region]"),
        (NET + "[route]\nlayers=-1\n", "x.cfg:5: [route] layers=-1: the first layer has none before it"),
        (NET + "[convolutional]\n[route]\nlayers=1\n", "x.cfg:6: [route] layers=1: there is no such layer"),
        (NET + "[convolutional]\n[route]\nlayers=-2\n", "x.cfg:6: [route] layers=-2: there is no such layer"),
        (NET + "[convolutional]\n[route]\nlayers=-1\ngroups=2\ngroup_id=2\n", "group_id=2: expected 0 to 1"),
        (NET + "[yolo]\nanchors=1,2,3\n", "anchors: expected pairs of width,height, got 3 numbers"),
        (NET + "[yolo]\nanchors=1,2\nmask=1\n", "mask=1: expected an anchor from 0 to 0"),
        (NET + "[yolo]\nanchors=1,2\nnum=2\n", "num=2: expected the number of anchors, 1"),
        (NET + "[ghost]\nfilters=3\n", "x.cfg:4: [ghost] filters=3: expected a multiple of ratio=2"),
        (
            NET + "[convolutional]\n[convolutional]\n[shortcut]\nfrom=-2\nweights_type=per_channel\n",
            "weights_type=per_channel: expected weights_normalization=relu or softmax",
        ),
    ],
)
def test_errors_name_file_line_expected_and_got(text: str, message: str) -> None:
    with pytest.raises(CfgError) as caught:
        parse_graph(text, "x.cfg")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf[net]\r\nwidth=64\r\n\r\n[convolutional]\r\nfilters=8",
        b"# 104\xd7104 \x0c page\n[net]\nwidth =\t64\n \t\n[ convolutional ]\n  filters = 8 ; note",
    ],
)
def test_any_line_end_and_comment_encoding(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.cfg").write_bytes(content)
    graph = load_graph(tmp_path / "x.cfg")
    assert (graph.net.width, graph.nodes[0].options.filters) == (64, 8)


def test_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(CfgError, match="not a text file"):
        load_graph(tmp_path / "x.cfg")


def test_first_of_a_repeated_key_counts_as_in_darknet() -> None:
    graph = parse_graph(NET + "[convolutional]\nfilters=4\nfilters=8\n")
    assert graph.nodes[0].options.filters == 4


def test_darknets_training_keys_are_kept_but_inert() -> None:
    graph = parse_graph(NET + "learning_rate=0.001\n[convolutional]\nstopbackward=1\n")
    assert graph.net_inert == (("learning_rate", "0.001"),)
    assert graph.nodes[0].inert == (("stopbackward", "1"),)
    assert "learning_rate=0.001" in graph.to_cfg() and "stopbackward=1" in graph.to_cfg()


def test_aliases_and_darknet_defaults() -> None:
    graph = parse_graph("[network]\n[conv]\n[max]\nstride=2\n[GhostConv]\nfilters=4\nratio=2\n")
    assert [node.kind for node in graph.nodes] == ["convolutional", "maxpool", "ghost"]
    conv, pool, _ = (node.options for node in graph.nodes)
    assert (conv.filters, conv.size, conv.activation) == (1, 1, "logistic")
    assert pool.window == (2, (2, 2), 1)  # size = stride, padding = size - 1
    assert (graph.net.width, graph.net.height) == (416, 416)
