"""The examples find what detect.py finds."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detect import DetectOptions, detect
from export import ExportOptions, export
from tests.conftest import PROJECT


def test_onnx_runtime_alone(shared: Path, tmp_path: Path) -> None:
    stem = str(shared / "models" / "yolo-fastest-1.1" / "yolo-fastest-1.1")
    photo = str(shared / "images" / "dog.jpg")
    (done,) = export(ExportOptions(f"{stem}.weights", f"{stem}.cfg", "onnx", nms=True, output=str(tmp_path)))
    script = PROJECT / "examples" / "onnx_runtime.py"
    assert_same_boxes([sys.executable, str(script), str(done.path), photo], stem, photo)


def test_opencv_in_cpp(shared: Path, tmp_path: Path) -> None:
    if shutil.which("g++") is None or shutil.which("pkg-config") is None:
        pytest.skip("no C++ compiler")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "opencv4"], capture_output=True, text=True, check=False)
    if flags.returncode:
        pytest.skip("OpenCV's C++ headers are not installed")
    source, program = PROJECT / "examples" / "opencv_dnn.cpp", tmp_path / "opencv_dnn"
    subprocess.run(
        ["g++", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(program), *flags.stdout.split()], check=True
    )
    stem = str(shared / "models" / "yolo-fastest-1.1" / "yolo-fastest-1.1")
    photo = str(shared / "images" / "dog.jpg")
    (done,) = export(
        ExportOptions(f"{stem}.weights", f"{stem}.cfg", "darknet", fold_bn=True, img_size=320, output=str(tmp_path))
    )
    files = [str(done.path.with_suffix(suffix)) for suffix in (".cfg", ".weights", ".names")]
    assert_same_boxes([str(program), *files, photo], stem, photo)


def test_the_docker_image_says_what_it_cannot_run(tmp_path: Path) -> None:
    """The files that it copies, without torch: weights that need PyTorch are refused in a line."""
    copied = [line.split()[1] for line in (PROJECT / "examples" / "Dockerfile").read_text().splitlines()
              if line.startswith("COPY") and "requirements" not in line]  # fmt: skip
    assert "detect.py" in copied and "models.py" not in copied
    for pattern in copied:
        for path in PROJECT.glob(pattern):
            place = tmp_path / path.relative_to(PROJECT)
            if path.is_dir():
                shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(exist_ok=True)
                shutil.copy(path, place)
    (tmp_path / "best.pt").write_bytes(b"weights")
    shutil.copy(PROJECT / "examples" / "Dockerfile", tmp_path / "a.jpg")
    program = (
        "import runpy, sys\n"
        "class Without:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('torch', 'torchvision'): raise ModuleNotFoundError(f'no {name}')\n"
        "sys.meta_path.insert(0, Without())\n"
        "sys.argv = ['detect.py', '--weights', 'best.pt', '--source', 'a.jpg']\n"
        "runpy.run_path('detect.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: best.pt: needs PyTorch and this project's models.py")
    assert ".onnx" in done.stderr


def assert_same_boxes(command: list[str], stem: str, photo: str) -> None:
    """The command prints the boxes that detect.py finds: name, score, x1, y1, x2, y2."""
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split() for line in said.stdout.splitlines()]
    (own,) = detect(DetectOptions(f"{stem}.weights", photo, f"{stem}.cfg"))
    assert len(rows) > 0
    assert [row[0] for row in rows] == [own.names[label] for label in own.class_ids]
    np.testing.assert_allclose([float(row[1]) for row in rows], own.scores, atol=2e-3)
    found = np.clip(np.array([[float(side) for side in row[2:]] for row in rows]), 0, [own.width, own.height] * 2)
    np.testing.assert_allclose(found, own.boxes_xyxy_px, atol=1.0)
