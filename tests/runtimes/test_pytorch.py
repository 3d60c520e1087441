"""PyTorch as a runtime: what compiling and folding may not change."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models import load_model
from tests.commands import CFG
from tests.conftest import randomise
from utils.errors import InputError
from utils.runtimes.pytorch import PyTorch


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_it_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "x.cfg").write_text(CFG)
    model = load_model(tmp_path / "x.cfg")
    randomise(model)
    compiled = PyTorch(model, compiled=True)
    for shape in ((1, 96, 96, 3), (2, 64, 96, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        with torch.no_grad():
            expected = model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).numpy()
        np.testing.assert_allclose(compiled.infer(images), expected, rtol=1e-4, atol=1e-3)
    assert type(compiled.model).__name__ == "OptimizedModule"


def test_a_network_that_cannot_be_compiled_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    runtime = PyTorch(load_model(tmp_path / "x.cfg"), compiled=True)

    def fail(_: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("InvalidCxxCompiler: No working C++ compiler found\nmore")

    monkeypatch.setattr(runtime, "model", fail)
    with pytest.raises(InputError, match=r"--compile: expected a C\+\+ compiler.*InvalidCxxCompiler: No working"):
        runtime.infer(np.zeros((1, 96, 96, 3), np.uint8))
