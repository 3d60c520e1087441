"""The examples find what detect.py finds."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from detect import DetectOptions, detect
from export import ExportOptions, export
from models import load_model, save_weights
from tests.commands import CFG
from tests.conftest import PROJECT, randomise


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example, compiled."""
    if shutil.which("g++") is None or shutil.which("pkg-config") is None:
        pytest.skip("no C++ compiler")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "opencv4"], capture_output=True, text=True, check=False)
    if flags.returncode:
        pytest.skip("OpenCV's C++ headers are not installed")
    source, built = PROJECT / "examples" / "opencv_dnn.cpp", tmp_path_factory.mktemp("cpp") / "opencv_dnn"
    command = ["g++", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(built), *flags.stdout.split()]
    subprocess.run(command, check=True)
    return built


@pytest.fixture
def strip(tmp_path: Path) -> tuple[str, str]:
    """A small network that is sure of all it sees, and a picture of which less than a pixel of height is left."""
    (tmp_path / "small.cfg").write_text(CFG)
    model = load_model(tmp_path / "small.cfg")
    randomise(model)
    for head in model.graph.heads():
        for part in model.blocks[head.sources[0]].output_bias():  # type: ignore[operator]
            part.data += 2
    model.names = ["a"]
    save_weights(model, tmp_path / "small.pt")
    colours = np.random.default_rng(0).integers(0, 256, (10, 12000, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "strip.png"), colours)
    return str(tmp_path / "small.pt"), str(tmp_path / "strip.png")


def test_onnx_runtime_with_a_picture_as_thin_as_a_line(strip: tuple[str, str], tmp_path: Path) -> None:
    weights, picture = strip
    (done,) = export(ExportOptions(weights, format="onnx", nms=True, output=str(tmp_path)))
    script = PROJECT / "examples" / "onnx_runtime.py"
    assert_same_boxes([sys.executable, str(script), str(done.path), picture], DetectOptions(weights, picture))


def test_cpp_with_a_picture_as_thin_as_a_line(strip: tuple[str, str], tmp_path: Path, program: Path) -> None:
    weights, picture = strip
    (done,) = export(ExportOptions(weights, format="darknet", fold_bn=True, output=str(tmp_path)))
    files = [str(done.path.with_suffix(suffix)) for suffix in (".cfg", ".weights", ".names")]
    assert_same_boxes([str(program), *files, picture], DetectOptions(weights, picture))


def test_onnx_runtime_alone(shared: Path, tmp_path: Path) -> None:
    stem = str(shared / "models" / "yolo-fastest-1.1" / "yolo-fastest-1.1")
    photo = str(shared / "images" / "dog.jpg")
    (done,) = export(ExportOptions(f"{stem}.weights", f"{stem}.cfg", "onnx", nms=True, output=str(tmp_path)))
    script = PROJECT / "examples" / "onnx_runtime.py"
    assert_same_boxes(
        [sys.executable, str(script), str(done.path), photo], DetectOptions(f"{stem}.weights", photo, f"{stem}.cfg")
    )


def test_opencv_in_cpp(shared: Path, tmp_path: Path, program: Path) -> None:
    stem = str(shared / "models" / "yolo-fastest-1.1" / "yolo-fastest-1.1")
    photo = str(shared / "images" / "dog.jpg")
    (done,) = export(
        ExportOptions(f"{stem}.weights", f"{stem}.cfg", "darknet", fold_bn=True, img_size=320, output=str(tmp_path))
    )
    files = [str(done.path.with_suffix(suffix)) for suffix in (".cfg", ".weights", ".names")]
    assert_same_boxes([str(program), *files, photo], DetectOptions(f"{stem}.weights", photo, f"{stem}.cfg"))


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


def assert_same_boxes(command: list[str], options: DetectOptions) -> None:
    """The command prints the boxes that detect.py finds: name, score, x1, y1, x2, y2."""
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split() for line in said.stdout.splitlines()]
    (own,) = detect(options)
    assert len(rows) > 0
    assert [row[0] for row in rows] == [own.names[label] for label in own.class_ids]
    np.testing.assert_allclose([float(row[1]) for row in rows], own.scores, atol=2e-3)
    found = np.clip(np.array([[float(side) for side in row[2:]] for row in rows]), 0, [own.width, own.height] * 2)
    np.testing.assert_allclose(found, own.boxes_xyxy_px, atol=1.0)
