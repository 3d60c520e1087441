"""The chain from labels to AP learns: white rectangles on noise."""

from pathlib import Path

import pytest

from tests.training.small import CFG, make_set
from train import TrainOptions, train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "extra"),
    [
        ("", {}),
        ("scale_x_y=2\n", {}),
        ("", {"optimizer": "sgd", "mixup": 0.1, "cutmix": 0.1, "schedule": "linear", "amp": "off", "accumulate": 2}),
        ("", {"optimizer": "muon", "rect": True, "class_weights": True, "cache": "disk"}),
        ("", {"multi_scale": True, "label_smoothing": 0.05, "single_cls": True, "autoanchor": True, "cache": "off"}),
    ],
)
def test_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, extra: dict[str, object]) -> None:
    make_set(tmp_path)
    (tmp_path / "x.cfg").write_text(CFG + change)
    monkeypatch.chdir(tmp_path)
    result = train(TrainOptions(cfg="x.cfg", data="s.data", epochs=16, batch_size=8, workers=0, **extra))
    assert result.metrics.ap50 > 0.7
