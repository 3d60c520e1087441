"""test.py on real images with real weights, against pycocotools on the file that it writes."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.test_commands import run
from utils.data.formats import main
from utils.data.images import image_size

pytestmark = pytest.mark.slow


def test_equals_pycocotools(shared: Path, tmp_path: Path) -> None:
    """Yolo-Fastest on coco128: predictions.json and the label files give the numbers of metrics.json."""
    source, models = shared / "datasets" / "coco128", shared / "models" / "yolo-fastest-1.1"
    main(["coco", f"{source}/instances_train2017.json", f"{source}/images", f"{tmp_path}/c"])
    options = ["--cfg", models / "yolo-fastest-1.1.cfg", "--weights", models / "yolo-fastest-1.1.weights"]
    done = run("test.py", *options, "--data", tmp_path / "c/c.data", "--save-json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/test/exp"
    metrics = json.loads((folder / "metrics.json").read_text())
    images, annotations = [], []
    for image in sorted((tmp_path / "c/images").rglob("*.jpg")):
        width, height = image_size(image)
        images.append({"id": int(image.stem)})
        labels = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        for line in labels.read_text().splitlines() if labels.is_file() else []:
            label, x, y, w, h = map(float, line.split())
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append({"id": len(annotations) + 1, "image_id": int(image.stem), "category_id": int(label) + 1,
                                "bbox": box, "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        categories = [{"id": index} for index in range(1, 81)]
        truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads((folder / "predictions.json").read_text())), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = [metrics[key] for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")]
    assert ours == pytest.approx(evaluation.stats[[0, 1, 2, 3, 4, 5, 8]].tolist(), abs=1e-6)
    assert metrics["images"] == 128 and metrics["ap50"] > 0.25
