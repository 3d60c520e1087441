"""How a training measures its validation images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.small import make_set
from train import TrainOptions, prepare
from utils.data.labels import Sample, pixel_boxes
from utils.errors import DataError
from utils.evaluation.metrics import ImageResult
from utils.training import detection
from utils.training.distributed import Ranks
from utils.training.stop import StopRequest


@pytest.fixture
def annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    """Four images with one box each; annotations.json says that it is larger, and that the image is a crowd region."""
    make_set(tmp_path, images=4)
    monkeypatch.chdir(tmp_path)
    images, objects = [], []
    for number, path in enumerate(sorted(Path("set").glob("*.png"))):
        images.append({"id": number, "file_name": path.name, "width": 64, "height": 64})
        _, x, y, w, h = map(float, path.with_suffix(".txt").read_text().split())
        about = {"image_id": number, "category_id": 7}
        box = [(x - w / 2) * 64, (y - h / 2) * 64, w * 64, h * 64]
        objects.append({**about, "id": 2 * number + 1, "bbox": box, "area": 2000, "iscrowd": 0})
        objects.append({**about, "id": 2 * number + 2, "bbox": [0, 0, 64, 64], "area": 4096, "iscrowd": 1})
    document = {"images": images, "annotations": objects, "categories": [{"id": 7, "name": "box"}]}
    Path("annotations.json").write_text(json.dumps(document))
    Path("box.names").write_text("box\n")
    Path("s.data").write_text("classes=1\ntrain=set\nvalid=set\nnames=box.names\nannotations=annotations.json\n")
    return TrainOptions(cfg="x.cfg", data="s.data", batch_size=2, workers=0)


def two_found_in_each(model: Any, samples: Sequence[Sample], *_: Any) -> list[ImageResult]:
    """In place of the network: each object, and in its image a surer false alarm."""
    results = []
    for sample in samples:
        truth = pixel_boxes(sample.labels, *sample.size)
        found = np.array([[*truth[0, 1:], 0.5, 0], [0, 0, 5, 5, 0.9, 0]], np.float32)
        results.append(ImageResult(*sample.size, truth, found, file=sample.image))
    return results


@pytest.mark.parametrize("single_cls", [False, True])
def test_crowd_regions_and_areas_count_as_in_the_annotations(
    annotated: TrainOptions, monkeypatch: pytest.MonkeyPatch, single_cls: bool
) -> None:
    """A false alarm on a crowd region costs nothing; without the annotations half of what is found is wrong."""
    monkeypatch.setattr(detection, "collect", two_found_in_each)
    options = TrainOptions(**{**vars(annotated), "single_cls": single_cls})
    run = prepare(options, Ranks(), StopRequest())
    loader = run.checks_loader(run.valid)
    metrics = run.measure(run.valid, loader)
    assert (metrics.ap, metrics.ap_medium, metrics.ap_small, metrics.labels) == (pytest.approx(1), 1, None, 4)
    assert list(metrics.classes) == (["object"] if single_cls else ["box"])
    Path("s.data").write_text("classes=1\ntrain=set\nvalid=set\n")
    run = prepare(options, Ranks(), StopRequest())
    metrics = run.measure(run.valid, loader)
    assert (metrics.ap, metrics.ap_medium, metrics.ap_small) == (pytest.approx(0.5, abs=0.01), None, metrics.ap)


def test_images_that_the_annotations_do_not_have(annotated: TrainOptions) -> None:
    (Path("set") / "000.png").rename("set/new.png")
    with pytest.raises(DataError, match=r"annotations\.json: expected all validation images, .*new\.png is not in it"):
        prepare(annotated, Ranks(), StopRequest())
    assert not Path("runs").exists()
