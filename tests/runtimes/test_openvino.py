"""Networks in OpenVINO come and go; what the process does otherwise goes on."""

import subprocess
import sys
from pathlib import Path

from export import ExportOptions, export
from models import load_model, save_weights
from tests.commands import CFG
from tests.conftest import PROJECT

OPEN_AND_CLOSE = """
import signal, sys
from pathlib import Path
from utils.runtimes.opening import open_exported

seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
first, second = open_exported(Path(sys.argv[1])), open_exported(Path(sys.argv[1]))
del first
del second
signal.raise_signal(signal.SIGINT)
assert seen == [1]
print("still here")
"""


def test_a_signal_after_two_networks_were_closed(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    save_weights(load_model(tmp_path / "x.cfg"), tmp_path / "x.pt")
    (done,) = export(ExportOptions(str(tmp_path / "x.pt"), format="openvino"))
    said = subprocess.run(
        [sys.executable, "-c", OPEN_AND_CLOSE, str(done.path)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (0, "still here\n"), said.stderr
