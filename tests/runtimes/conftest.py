"""One network in every runtime."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from export import ExportOptions, export
from models import load_model, save_weights
from tests.commands import CFG
from tests.conftest import randomise
from utils.deploy.formats import KINDS


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """One random network as each runtime takes it."""
    folder = tmp_path_factory.mktemp("contract")
    (folder / "x.cfg").write_text(CFG)
    model = load_model(folder / "x.cfg")
    randomise(model)
    save_weights(model, folder / "x.pt")
    options = ExportOptions(str(folder / "x.pt"), format=",".join(KINDS), fold_bn=True, precision="f32")
    return {"pytorch": folder / "x.pt", **{done.format: done.path for done in export(options)}}
