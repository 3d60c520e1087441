"""test.py on real images with real weights, against pycocotools on the file that it writes."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.commands import run
from utils.data.formats import main

pytestmark = pytest.mark.slow


def test_equals_pycocotools(shared: Path, tmp_path: Path) -> None:
    """Yolo-Fastest on coco128: predictions.json and COCO's own annotations, crowds and areas, give the metrics.json."""
    source, models = shared / "datasets" / "coco128", shared / "models" / "yolo-fastest-1.1"
    main(["coco", f"{source}/instances_train2017.json", f"{source}/images", f"{tmp_path}/c"])
    options = ["--cfg", models / "yolo-fastest-1.1.cfg", "--weights", models / "yolo-fastest-1.1.weights"]
    done = run("test.py", *options, "--data", tmp_path / "c/c.data", "--vote", "off", "--save-json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/test/exp"
    metrics = json.loads((folder / "metrics.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(source / "instances_train2017.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "predictions.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert any(entry["iscrowd"] for entry in truth.anns.values())
    ours = [metrics[key] for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")]
    assert ours == pytest.approx(evaluation.stats[[0, 1, 2, 3, 4, 5, 8]].tolist(), abs=1e-6)
    assert metrics["images"] == 128 and metrics["ap50"] > 0.25
