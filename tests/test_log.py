"""Messages: of the commands on any terminal, of the library in somebody else's program."""

import ast
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from utils.log import LOGGER, say, terminal_output, warn


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program of somebody else, who imports this library."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**clean, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


SPEAKING = """
from utils.log import say, warn
say("for information")
warn("a warning")
"""


def test_python_shows_warnings_alone_and_can_redirect_all() -> None:
    done = python(SPEAKING)
    assert (done.stdout, done.stderr) == ("", "a warning\n")
    silenced = python("import logging\nlogging.getLogger('ghost_yolo').setLevel(logging.ERROR)\n" + SPEAKING)
    assert (silenced.stdout, silenced.stderr) == ("", "")
    configured = python(
        "import logging\nlogging.basicConfig(level=logging.INFO, format='%(name)s: %(message)s')" + SPEAKING
    )
    assert configured.stderr == "ghost_yolo: for information\nghost_yolo: a warning\n"


def test_importing_changes_no_log_level() -> None:
    code = (
        "import logging, os, cv2\n"
        "level, variables = cv2.utils.logging.getLogLevel(), dict(os.environ)\n"
        "loggers = logging.root.level, logging.root.manager.disable\n"
        "import detect\n"
        "assert cv2.utils.logging.getLogLevel() == level == 3, level\n"
        "assert (logging.root.level, logging.root.manager.disable) == loggers and not logging.root.handlers\n"
        "print({name for name in set(variables) ^ set(os.environ) if 'LOG' in name})\n"
    )
    done = python(code)
    assert done.returncode == 0 and done.stdout == "set()\n", done.stderr


def test_a_command_prints_information_and_warnings_apart(capsys: pytest.CaptureFixture[str]) -> None:
    say("one")
    warn("two")
    with terminal_output():  # within another: once each
        say("three")
    LOGGER.debug("not shown")
    assert capsys.readouterr() == ("one\nthree\n", "two\n")


def test_the_loggers_own_state_comes_back() -> None:
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    with pytest.raises(KeyError), terminal_output():
        assert (LOGGER.level, LOGGER.propagate) == (logging.INFO, False)
        raise KeyError
    assert (LOGGER.handlers, LOGGER.level, LOGGER.propagate) == before


def test_one_rank_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    say("one")
    warn("two")
    warn("of my own files", every_rank=True)
    assert capsys.readouterr() == ("", "of my own files\n")


COMMAND = """
import logging, sys
from dataclasses import dataclass
from tqdm import tqdm
from utils.log import progress, say, warn
from utils.options import run_command

@dataclass
class Options:
    name: str = "\\u732b"

def main(options):
    say(f"{options.name} | \\u00dcbergr\\u00f6\\u00dfe")
    warn("caf\\u00e9 \\u732b \\udcff")
    print("table", "\\u732b")
    for _ in progress([1], "\\u732b"):
        pass
    logging.getLogger("ghost_yolo").info("logged \\u732b")
    raise OSError("\\u732b.jpg: none")

run_command(main, Options, "Says things.", argv=[])
"""


@pytest.mark.parametrize(
    ("encoding", "cat"), [("cp1252", r"\u732b"), ("ascii", r"\u732b"), ("ascii:strict", r"\u732b"), ("utf-8", "猫")]
)
def test_no_letter_breaks_a_command(encoding: str, cat: str) -> None:
    """Where the stream has no such letter, its code stands there."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=60,
    )
    out, err = (text.decode(encoding.partition(":")[0]) for text in (done.stdout, done.stderr))
    assert done.returncode == 2 and "Traceback" not in err
    assert out.splitlines()[1:] == [f"table {cat}", f"logged {cat}"]
    assert out.startswith(f"{cat} | ") and ("Übergröße" in out or encoding.startswith("ascii"))
    assert f"{cat} \\udcff" in err and f"error: {cat}.jpg: none" in err


TERMINAL = """
import os, pty, sys, termios
pid, descriptor = pty.fork()
if not pid:
    termios.tcsetwinsize(1, (24, 80))
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
text = b""
try:
    while block := os.read(descriptor, 4096):
        text += block
except OSError:
    pass
os.waitpid(pid, 0)
print(ascii(text.decode()))
"""

BAR = """
from utils.log import progress, say, terminal_output
with terminal_output():
    for number in progress(range(2), "working"):
        say(f"line {number}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_bar_that_someone_watches_is_not_torn() -> None:
    """Each message has a line of its own: the bar is wiped before it."""
    shown = ast.literal_eval(python(TERMINAL, BAR).stdout)
    lines = [line.rpartition("\r")[2] for line in shown.split("\r\n")]
    assert [line for line in lines if line.startswith("line ")] == ["line 0", "line 1"], shown
    assert "working: 100%" in shown


def test_a_broken_pipe_ends_a_command_quietly(tmp_path: Path) -> None:
    """`| head`: exit code 1, no traceback."""
    many = COMMAND.replace(
        '    say(f"{options.name}', '    [say("x" * 1000) for _ in range(1000)]\n    say(f"{options.name}'
    )
    script = tmp_path / "many.py"
    script.write_text(many)
    line = f'set -o pipefail; "{sys.executable}" "{script}" | head -n 1'
    done = subprocess.run(
        ["bash", "-c", line], env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stdout == "x" * 1000 + "\n" and not done.stderr
