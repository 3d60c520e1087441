"""Cfg text to sections and typed options."""

from pathlib import Path

import pytest

from models import Darknet  # noqa: F401  (registers the blocks)
from utils.errors import CfgError
from utils.network.cfg import parse_cfg
from utils.network.graph import Graph, load_graph, parse_graph

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
        (NET + "[convolutional]\npad=yes\n", "x.cfg:5: pad=yes: expected 0 or 1"),
        (NET + "[convolutional]\nactivation=gelu\n", "x.cfg:5: activation=gelu: expected one of linear, leaky"),
        (NET + "[convolutional]\nxnor=1\n", "x.cfg:5: xnor=1 is not supported"),
        (NET + "[shortcut]\n", "x.cfg:4: [shortcut] expected the key from"),
        (NET + "[Gaussian_yolo]\n", "x.cfg:4: unknown section [Gaussian_yolo], expected one of: activation"),
        (NET + "[region]\n", "x.cfg:4: unknown section [region]"),
        (NET + "[route]\nlayers=-1\n", "x.cfg:5: [route] layers=-1: the first layer has none before it"),
        (NET + "[convolutional]\n[route]\nlayers=1\n", "x.cfg:6: [route] layers=1: there is no such layer"),
        (NET + "[convolutional]\n[route]\nlayers=-2\n", "x.cfg:6: [route] layers=-2: there is no such layer"),
        (NET + "[convolutional]\n[route]\nlayers=-1\ngroups=2\ngroup_id=2\n", "group_id=2: expected 0 to 1"),
        (NET + "[yolo]\nnum=3\n", "x.cfg:4: [yolo] expected the key anchors"),
        (NET + "[yolo]\nanchors=1,2\nnum=2000000000\n", "num=2000000000: expected at most 1000 anchors"),
        (NET + "[yolo]\nanchors=1,2,3,-4\nnum=2\n", "anchors: expected positive sizes, got -4"),
        (NET + "[yolo]\nanchors=1,2\nmask=1\n", "mask=1: expected an anchor from 0 to 0"),
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


DIGITS = "1" * 4000
CONV = NET + "[convolutional]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CONV + f"filters={DIGITS}\n", "a whole number"),
        (CONV + f"filters=-{DIGITS}\n", "a whole number"),
        (CONV + f"filters={DIGITS}.5\n", "a whole number"),
        (CONV + f"filters={DIGITS * 3}\n", "a whole number"),
        (CONV + "filters=4294967296\n", "a whole number"),
        (CONV + f"pad={DIGITS}\n", "0 or 1"),
        (f"[net]\n#\n#\n#\nwidth={DIGITS}\n[convolutional]\n", "a whole number"),
        (CONV + f"#\n[route]\nlayers={DIGITS}\n".replace("#\n", "", 1), "whole numbers separated by commas"),
        (NET + f"[yolo]\nanchors={DIGITS},2\n", "numbers separated by commas"),
        (NET + "[yolo]\nscale_x_y=1e999\n", "a number"),
        (NET + f"[dropout]\nprobability={DIGITS}\n", "a number"),
    ],
)
def test_numbers_that_darknet_cannot_hold(text: str, expected: str) -> None:
    with pytest.raises(CfgError) as caught:
        parse_graph(text, "x.cfg")
    message = str(caught.value)
    assert message.endswith(f": expected {expected}") and message.startswith("x.cfg:") and len(message) < 200


def read(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[Graph, list[str]]:
    """A cfg file as commands read it, with its warnings."""
    (tmp_path / "x.cfg").write_text(text)
    graph = load_graph(tmp_path / "x.cfg")
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"warning: {tmp_path}/x.cfg:") for line in lines)
    return graph, [line.removeprefix(f"warning: {tmp_path}/") for line in lines]


@pytest.mark.parametrize(
    ("key", "field", "expected"),
    [
        ("pad=2", "pad", True),
        ("pad=-1", "pad", True),
        ("pad=0.9", "pad", False),
        ("batch_normalize=2", "batch_normalize", True),
        ("filters=8.0", "filters", 8),
        ("filters=8.9", "filters", 8),
        ("filters=1 6", "filters", 16),
        ("dilation=2.", "dilation", 2),
    ],
)
def test_numbers_are_read_as_darknets_atoi_does(
    key: str, field: str, expected: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph, warnings = read(tmp_path, CONV + key + "\n", capsys)
    assert getattr(graph.nodes[0].options, field) == expected
    assert warnings and f"x.cfg:5: {key}" in warnings[0] and "as Darknet does" in warnings[0]
    again, silence = read(tmp_path, graph.to_cfg(), capsys)  # what is written is plain
    assert again == graph and silence == []


@pytest.mark.parametrize(
    ("text", "anchors", "warning"),
    [  # by darknet's parse_yolo: `num` biases, each .5 until read; all blanks leave a line before it is looked at
        ("anchors=1,2,3,4\nnum=2", [(1, 2), (3, 4)], None),
        ("anchors=1,2,3,4,5,6\nnum=3\nmask=2,0", [(5, 6), (1, 2)], None),
        ("anchors=1,2,3,4", [(1, 2)], "num=1 (its default): the first of 2 anchors are taken"),
        ("anchors=1,2,3,4,5,6\nnum=2", [(1, 2), (3, 4)], "num=2: the first of 3 anchors are taken"),
        ("anchors=1,2,3,4,5,6\nnum=2\nmask=1", [(3, 4)], "num=2: the first of 3 anchors are taken"),
        ("anchors=1,2,3,4\nmask=0,1", [(1, 2), (3, 4)], "mask=1: expected less than num=1 (its default)"),
        ("anchors=1,2,3,4\nnum=9\nmask=0,1", [(1, 2), (3, 4)], "num=9: expected as many anchors, got 2"),
        ("anchors=1,2,3,4\nnum=3", [(1, 2), (3, 4), (0.5, 0.5)], "num=3: expected as many anchors, got 2"),
        ("anchors=1,2,3,4\nnum=9\nmask=3", [(0.5, 0.5)], "num=9: expected as many anchors, got 2"),
        ("anchors=0,3,5,6\nnum=2", [(0, 3), (5, 6)], "a side of 0"),
        ("anchors=1,2,  3,4  5,6,7\nnum=3\nmask=1,2", [(3, 45), (6, 7)], "'4  5' is read as 45"),
        ("anchors=1,2,3  4,5,6\nnum=3\nmask=0,1,2", [(1, 2), (34, 5), (6, 0.5)], "'3  4' is read as 34"),
    ],
)
def test_anchors_are_darknets(
    text: str,
    anchors: list[tuple[float, float]],
    warning: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = f"[yolo]\n{text}\nclasses=1\n"
    graph, warnings = read(tmp_path, f"{NET}[convolutional]\nfilters={6 * len(anchors)}\n{head}", capsys)
    options = graph.heads()[0].options
    assert options.head_anchors == anchors and options.in_channels == 6 * len(anchors)
    assert any(warning in line for line in warnings) if warning else warnings == []
    written = graph.to_cfg()
    keys = dict(line.split("=") for line in written.partition("[yolo]")[2].split())
    assert int(keys["num"]) * 2 == len(keys["anchors"].split(","))  # OpenCV asks for it
    assert len(keys["mask"].split(",")) == len(anchors)
    again, _ = read(tmp_path, written, capsys)
    assert again == graph


def test_unknown_keys_are_warnings_with_a_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = NET + "max_epochs=5\n[convolutional]\nfiltres=3\nuc_normalizer=1\n"
    graph, warnings = read(tmp_path, text, capsys)
    assert graph.nodes[0].options.filters == 1
    assert warnings == [
        "x.cfg:4: unknown key 'max_epochs' in [net], did you mean 'max_batches'?; ignored, as Darknet does",
        "x.cfg:6: unknown key 'filtres' in [convolutional], did you mean 'filters'?; ignored, as Darknet does",
        warnings[2],
    ]
    assert "x.cfg:7: unknown key 'uc_normalizer'" in warnings[2]
    with pytest.raises(CfgError, match=r"x\.cfg:4: unknown key 'max_epochs' in \[net\], did you mean 'max_batches'"):
        load_graph(tmp_path / "x.cfg", strict=True)
    assert parse_graph(graph.to_cfg()) == graph and "filtres=3" in graph.to_cfg()
    assert capsys.readouterr().err == ""  # not once more of what was read before


def test_repeated_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, warnings = read(tmp_path, "[net]\nbatch=1\nbatch=64\nwidth=32\nwidth=32\n[convolutional]\n", capsys)
    assert graph.net.width == 32 and graph.net_inert == (("batch", "1"),)
    assert warnings == [
        "x.cfg:3: batch=64: given before as 1 in line 2; Darknet and this project take the first, OpenCV the last"
    ]


def test_aliases_and_darknet_defaults() -> None:
    graph = parse_graph("[network]\n[conv]\n[max]\nstride=2\n[GhostConv]\nfilters=4\nratio=2\n")
    assert [node.kind for node in graph.nodes] == ["convolutional", "maxpool", "ghost"]
    conv, pool, _ = (node.options for node in graph.nodes)
    assert (conv.filters, conv.size, conv.activation) == (1, 1, "logistic")
    assert pool.window == (2, (2, 2), 1)  # size = stride, padding = size - 1
    assert (graph.net.width, graph.net.height) == (416, 416)
