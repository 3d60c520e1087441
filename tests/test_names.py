"""Class names: when two lists of them are not about the same classes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from utils.data.annotations import check_class_name
from utils.draw import _word
from utils.errors import DataError
from utils.names import check_names, class_names, read_names, warn_of_other_names


@pytest.mark.parametrize(
    ("own", "expected", "said"),
    [
        (("cat", "dog"), ("cat", "dog"), ""),
        (("cat", "dog"), ("cat", "wolf"), "class 1 is 'dog' to the network and 'wolf' in x.data"),
        (("dog", "cat"), ("cat", "dog"), "class 0 is 'dog' to the network and 'cat' in x.data"),
        (class_names(2), ("cat", "dog"), ""),  # a network that was never told any
        (("cat",), ("cat", "dog"), ""),  # other counts are an error elsewhere
    ],
)
def test_other_names_are_told(
    own: tuple[str, ...], expected: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_other_names(own, expected, "x.data")
    told = capsys.readouterr().err
    assert said in told if said else not told


@pytest.mark.parametrize("character", ["\t", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\udcff"])
def test_a_name_that_fills_no_line_is_refused_everywhere(character: str, tmp_path: Path) -> None:
    """By a .names file, which it does not divide in two, by a YAML file's check and by the converters; never drawn."""
    name = f"a{character}b"

    def read(name: str) -> object:
        (tmp_path / "x.names").write_bytes(f"cat\n{name}\r\ndog\n".encode())
        return read_names(tmp_path / "x.names")

    ways: list[Callable[[str], object]] = [lambda name: check_names([name], "x.yaml"), check_class_name]
    if character != "\udcff":  # which no file in UTF-8 has
        ways.append(read)
    for way in ways:
        with pytest.raises(DataError, match="class name") as caught:
            way(name)
        assert repr(name) in str(caught.value)
    assert (_word(name, 12) == _word("a\N{REPLACEMENT CHARACTER}b", 12)).all()


def test_names_in_any_script_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.names").write_bytes("cat\r\n\r\n\u732b\u3000\u00a0x\rgro\u00df dog".encode())
    assert read_names(tmp_path / "x.names") == ("cat", "\u732b\u3000\u00a0x", "gro\u00df dog")
