"""The examples find what detect.py finds."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from detect import DetectOptions, detect
from export import ExportOptions, export
from tests.conftest import PROJECT


def test_onnx_runtime_alone(shared: Path, tmp_path: Path) -> None:
    stem = str(shared / "models" / "yolo-fastest-1.1" / "yolo-fastest-1.1")
    photo = str(shared / "images" / "dog.jpg")
    (done,) = export(ExportOptions(f"{stem}.weights", f"{stem}.cfg", "onnx", nms=True, output=str(tmp_path)))
    script = PROJECT / "examples" / "onnx_runtime.py"
    said = subprocess.run(
        [sys.executable, str(script), str(done.path), photo], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in said.stdout.splitlines()]
    (own,) = detect(DetectOptions(f"{stem}.weights", photo, f"{stem}.cfg"))
    assert [row[0] for row in rows] == [own.names[label] for label in own.class_ids]
    np.testing.assert_allclose([float(row[1]) for row in rows], own.scores, atol=2e-3)
    found = np.clip(np.array([[float(side) for side in row[2:]] for row in rows]), 0, [own.width, own.height] * 2)
    np.testing.assert_allclose(found, own.boxes_xyxy_px, atol=1.0)
