"""Class names: when two lists of them are not about the same classes."""

import pytest

from utils.names import class_names, warn_of_other_names


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
