"""The cfg linter."""

from pathlib import Path

import pytest

from models import Darknet
from tests.commands import assert_refused, run
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
num=2
classes=3
jitter=.3
"""


def lint(tmp_path: Path, text: str, strict: bool = True) -> tuple[list[str], dict[tuple[str, str], str]]:
    path = tmp_path / "x.cfg"
    path.write_text(text)
    report = check_cfg(path, Darknet, strict)
    problems = [problem.replace(str(path), "x.cfg") for problem in report.problems]
    return problems, {key: status for key, (status, _) in report.keys.items()}


@pytest.mark.parametrize("path", sorted((PROJECT / "cfg").glob("*.cfg")), ids=lambda path: path.name)
def test_shipped_cfgs_are_clean(path: Path) -> None:
    assert check_cfg(path, Darknet, strict=True).problems == []


def test_every_key_has_a_status(tmp_path: Path) -> None:
    problems, keys = lint(tmp_path, BODY.replace("jitter", "jiter"))
    assert problems == ["x.cfg:18: unknown key 'jiter' in [yolo], did you mean 'jitter'?; ignored, as Darknet does"]
    assert keys["convolutional", "filters"] == "honoured"
    assert keys["net", "learning_rate"].startswith("inert: Darknet's own training")
    assert keys["dropout", "probability"] == "inert at inference: train.py drops with it"
    assert keys["yolo", "jiter"] == "unknown"


def test_all_problems_are_listed_not_only_the_first(tmp_path: Path) -> None:
    text = BODY.replace("size=3", "size=x").replace("jitter", "jiter").replace("[dropout]", "[droput]")
    problems, _ = lint(tmp_path, text)
    assert [problem.split(" ")[0] for problem in problems] == ["x.cfg:7:", "x.cfg:10:", "x.cfg:18:"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("filters=16\n[yolo]", "filters=17\n[yolo]", "x.cfg:14: [yolo] filters=(5 + 3 classes) * 2 anchors"),
        ("classes=3\n", "classes=3\nmask=2\n", "mask=2: expected an anchor from 0 to 1"),
        ("num=2\n", "num=3\nmask=0,1\n", "x.cfg:14: [yolo] num=3: expected as many anchors, got 2"),
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


def test_warnings_are_problems_only_if_strict(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(BODY.replace("jitter", "jiter").replace("pad=1", "pad=2"))
    done = run("models.py", "--cfg", "x.cfg", "--check", folder=tmp_path)
    assert done.returncode == 0 and "no problems found" in done.stdout
    assert "\nwarning: x.cfg:9: pad=2: read as 1" in done.stdout
    assert "\nwarning: x.cfg:18: unknown key 'jiter' in [yolo], did you mean 'jitter'?" in done.stdout
    strict = run("models.py", "--cfg", "x.cfg", "--check", "--strict", folder=tmp_path)
    assert strict.returncode == 2 and "warning" not in strict.stdout and "x.cfg: 2 problems" in strict.stderr
    assert_refused(
        run("models.py", "--cfg", "x.cfg", "--strict", folder=tmp_path), "--strict: expected --check", tmp_path
    )


@pytest.mark.parametrize(
    ("section", "zero"),
    [  # darknet src/activations.c: activate() has no case for them; convolutions have code of their own for some
        ("[convolutional]\nfilters=16\nactivation=relu6\n", True),
        ("[convolutional]\nfilters=16\nactivation=mish\n", False),
        ("[convolutional]\nfilters=16\nactivation=swish\n", False),
        ("[activation]\nactivation=mish\n", True),
        ("[activation]\nactivation=swish\n", True),
        ("[activation]\nactivation=relu6\n", True),
        ("[activation]\nactivation=leaky\n", False),
        ("[shortcut]\nfrom=-1\nactivation=relu6\n", True),
        ("[shortcut]\nfrom=-1\nactivation=mish\n", False),
        ("[sam]\nfrom=-1\nactivation=mish\n", True),
        ("[avgpool]\n[scale_channels]\nfrom=-2\nactivation=swish\n", True),
        ("[ghost]\nfilters=16\nactivation=relu6\n", True),
        ("[ghost]\nfilters=16\nactivation=mish\n", False),
    ],
)
def test_activations_that_darknets_cpu_makes_zero_are_noted(section: str, zero: bool, tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(BODY.replace("[dropout]\n", section + "[dropout]\n"))
    report = check_cfg(tmp_path / "x.cfg", Darknet, strict=True)
    assert report.problems == []
    assert any("Darknet on a CPU makes maps of zeros" in note for note in report.notes) == zero


def test_heads_behind_any_block_are_checked_not_crashed_on(tmp_path: Path) -> None:
    ghost = BODY.replace("[convolutional]\nfilters=16\n[yolo]", "[ghost]\nfilters=16\n[yolo]")
    assert ghost != BODY
    for text in (ghost, ghost.replace("[ghost]\n", "[ghost]\nbatch_normalize=1\n")):
        assert lint(tmp_path, text)[0] == []
