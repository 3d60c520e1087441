"""The cfg linter."""

from pathlib import Path

import pytest

from models import Darknet
from tests.conftest import PROJECT
from utils.network.check import check_cfg

BODY = """[net]
width=64
height=64
learning_rate=.1
[convolutional]
filters=16
size=3
stride=2
pad=1
[dropout]
probability=.1
[convolutional]
filters=16
[yolo]
anchors=4,4,8,8
classes=3
jitter=.3
"""


def lint(tmp_path: Path, text: str) -> tuple[list[str], dict[tuple[str, str], str]]:
    path = tmp_path / "x.cfg"
    path.write_text(text)
    report = check_cfg(path, Darknet)
    problems = [problem.replace(str(path), "x.cfg") for problem in report.problems]
    return problems, {key: status for key, (status, _) in report.keys.items()}


@pytest.mark.parametrize("path", sorted((PROJECT / "cfg").glob("*.cfg")), ids=lambda path: path.name)
def test_shipped_cfgs_are_clean(path: Path) -> None:
    assert check_cfg(path, Darknet).problems == []


def test_every_key_has_a_status(tmp_path: Path) -> None:
    problems, keys = lint(tmp_path, BODY.replace("jitter", "jiter"))
    assert problems == ["x.cfg:17: unknown key 'jiter' in [yolo], did you mean 'jitter'?"]
    assert keys["convolutional", "filters"] == "honoured"
    assert keys["net", "learning_rate"].startswith("inert: Darknet's own training")
    assert keys["dropout", "probability"] == "inert at inference: train.py drops with it"
    assert keys["yolo", "jiter"] == "unknown"


def test_all_problems_are_listed_not_only_the_first(tmp_path: Path) -> None:
    text = BODY.replace("size=3", "size=x").replace("jitter", "jiter").replace("[dropout]", "[droput]")
    problems, _ = lint(tmp_path, text)
    assert [problem.split(" ")[0] for problem in problems] == ["x.cfg:7:", "x.cfg:10:", "x.cfg:17:"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("filters=16\n[yolo]", "filters=17\n[yolo]", "x.cfg:14: [yolo] filters=(5 + 3 classes) * 2 anchors"),
        ("classes=3\n", "classes=3\nmask=2\n", "mask=2: expected an anchor from 0 to 1"),
        ("classes=3\n", "classes=3\nnum=3\n", "num=3: expected the number of anchors, 2"),
        ("[dropout]\n", "[route]\nlayers=-5\n[dropout]\n", "layers=-5: there is no such layer before this one"),
        ("width=64\n", "width=63\n", "[net] input 63x64: expected a width and height divisible by 2"),
        ("pad=1\n[dropout]", "[maxpool]\nsize=1\n[route]\nlayers=-1,-2\n[dropout]", ""),
    ],
)
def test_findings(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in BODY
    problems, _ = lint(tmp_path, BODY.replace(old, new))
    if message:
        assert len(problems) == 1 and message in problems[0]
    else:
        assert problems == []


def test_doubtful_heads_are_noted_but_allowed(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(BODY.replace("jitter=.3", "new_coords=1\nscale_x_y=2"))
    assert check_cfg(tmp_path / "x.cfg", Darknet).notes == []  # the layer before is logistic, Darknet's default
    (tmp_path / "x.cfg").write_text(BODY)
    report = check_cfg(tmp_path / "x.cfg", Darknet)
    assert report.problems == [] and "usually has activation=linear, got logistic" in report.notes[0]


def test_repeated_key_is_told(tmp_path: Path) -> None:
    problems, keys = lint(tmp_path, BODY.replace("width=64", "width=64\nwidth=64"))
    assert problems == []
    contradiction, _ = lint(tmp_path, BODY.replace("width=64", "width=64\nwidth=32"))
    assert len(contradiction) == 1 and "x.cfg:3: width=32: given before as 64 in line 2" in contradiction[0]
    assert keys["net", "width (repeated)"] == "inert: the first counts, line 2"
