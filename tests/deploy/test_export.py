"""Exported networks compute what the network in PyTorch computes; what does not is not kept."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import export as command
from detect import DetectOptions, detect, make_predictor
from export import ExportOptions, export
from models import Darknet, load_model, save_weights
from prune import PruneOptions, prune
from tests.commands import CFG, assert_refused, run
from tests.conftest import PROJECT, randomise
from utils.data.shapes import generate
from utils.deploy.formats import KINDS, megabytes
from utils.errors import InputError
from utils.inference.postprocess import detections
from utils.runtimes.opening import open_exported

FORMATS = tuple(KINDS)
NETWORKS = ["yolov3-tiny.cfg", "ghost-yolov3-tiny.cfg", "ghost-yolov3-tiny-lite.cfg"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random networks of the shipped cfgs, for 3 classes at 96 pixels, and a small one that has been pruned."""
    folder = tmp_path_factory.mktemp("networks")
    for cfg in NETWORKS:
        model = load_model(cfg, num_classes=3)
        randomise(model)
        save_weights(model, folder / f"{Path(cfg).stem}.pt")
    (folder / "small.cfg").write_text(CFG)
    small = load_model(folder / "small.cfg")
    randomise(small)
    save_weights(small, folder / "small.pt")
    return folder


@pytest.fixture
def real(shared: Path) -> tuple[str, str]:
    stem = shared / "models" / "yolo-fastest-1.1" / "yolo-fastest-1.1"
    return f"{stem}.cfg", f"{stem}.weights"


def pictures(count: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def by_torch(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """The trained network itself: not fused, planes in their usual order."""
    with torch.no_grad():
        return np.array(model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255))


def largest_relative(own: np.ndarray, other: np.ndarray) -> float:
    return float((np.abs(own - other) / (1 + np.abs(other))).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(Path(cfg).stem for cfg in NETWORKS), "pruned"])
def test_every_format_computes_the_same(
    name: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = saved / f"{name}.pt"
    if name == "pruned":
        lite = str(saved / "ghost-yolov3-tiny-lite.pt")
        weights = prune(PruneOptions(weights=lite, percent=0.5, img_size=96)).folder / "pruned.pt"
    done = export(
        ExportOptions(
            str(weights), format=",".join(FORMATS), img_size=96, output=str(tmp_path / "out"), precision="f32"
        )
    )
    assert [each.format for each in done] == list(FORMATS)
    images, model = pictures(2, 96, 96), load_model(weights=weights)
    expected = by_torch(model, images)
    for each in done:
        runtime = open_exported(each.path, precision="f32")
        limit = 5e-3 if each.format == "darknet" else 1e-4  # OpenCV's eps is another one
        assert largest_relative(runtime.infer(images), expected) < limit, each.format
        assert runtime.info.names == tuple(model.names) and runtime.info.size == (96, 96)
        assert each.difference.heads is not None and each.difference.heads < (
            5e-3 if each.format == "darknet" else 1e-4
        )
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript"])
def test_any_number_and_size_of_images(format: str, saved: Path, tmp_path: Path) -> None:
    weights = saved / "small.pt"
    (done,) = export(ExportOptions(str(weights), format=format, dynamic=True, output=str(tmp_path), precision="f32"))
    runtime, model = open_exported(done.path), load_model(weights=weights)
    for images in (pictures(1, 96, 96), pictures(3, 64, 128)):
        assert largest_relative(runtime.infer(images), by_torch(model, images)) < 1e-4
    with pytest.raises(InputError, match="divisible by 16"):
        runtime.infer(pictures(1, 100, 96))


def test_one_size_where_it_was_not_asked_for(saved: Path, tmp_path: Path) -> None:
    (done,) = export(ExportOptions(str(saved / "small.pt"), output=str(tmp_path)))
    runtime = open_exported(done.path)
    images = pictures(3, 96, 96)
    assert largest_relative(runtime.infer(images), by_torch(load_model(weights=saved / "small.pt"), images)) < 1e-4
    with pytest.raises(InputError, match="expected 96x96"):
        runtime.infer(pictures(1, 128, 96))


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_nms_inside(format: str, real: tuple[str, str], tmp_path: Path, shared: Path) -> None:
    cfg, weights = real
    (done,) = export(
        ExportOptions(weights, cfg, format, nms=True, dynamic=True, conf=0.2, output=str(tmp_path), precision="f32")
    )
    photos = [str(shared / "images" / f"{name}.jpg") for name in ("dog", "person")]
    for photo in photos:
        (own,) = detect(DetectOptions(weights, photo, cfg, conf=0.2))
        (its,) = detect(DetectOptions(str(done.path), photo, conf=0.2))
        assert len(own) > 1
        np.testing.assert_allclose(own.rows(), its.rows(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("dynamic", "vote"), [(True, True), (True, False), (False, True)])
def test_nms_inside_sees_the_images_of_a_batch_apart(
    saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], dynamic: bool, vote: bool
) -> None:
    weights = str(saved / "small.pt")
    options = ExportOptions(weights, nms=True, dynamic=dynamic, conf=0.05, vote=vote, output=str(tmp_path))
    (done,) = export(options)
    assert ("voting in the file takes memory and time" in capfd.readouterr().err) == (dynamic and vote)
    images = pictures(3, 96, 96)
    expected = detections(by_torch(load_model(weights=saved / "small.pt"), images), 0.05, 0.45, vote=vote)
    found = detections(open_exported(done.path).infer(images), 0.05, 1.0)
    assert sum(map(len, expected)) > 0
    for own, its in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, its, rtol=1e-4, atol=1e-2)


@pytest.mark.slow
def test_the_same_image_has_the_same_boxes_everywhere(real: tuple[str, str], tmp_path: Path, shared: Path) -> None:
    cfg, weights = real
    photo = str(shared / "images" / "dog.jpg")
    (own,) = detect(DetectOptions(weights, photo, cfg))
    assert own.counts() == "2 car, 1 dog, 1 bicycle"
    for each in export(ExportOptions(weights, cfg, ",".join(FORMATS), output=str(tmp_path), precision="f32")):
        (its,) = detect(DetectOptions(str(each.path), photo, threads=1))
        assert its.counts() == own.counts()
        near = 3.0 if each.format == "darknet" else 0.02  # OpenCV's eps
        np.testing.assert_allclose(its.boxes_xyxy_px, own.boxes_xyxy_px, atol=near)
        np.testing.assert_allclose(its.scores, own.scores, atol=near / 100)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript", "ncnn"])
def test_half_is_smaller_and_near(format: str, saved: Path, tmp_path: Path) -> None:
    weights = str(saved / "ghost-yolov3-tiny-lite.pt")
    images, sizes = pictures(2, 96, 96), []
    expected = by_torch(load_model(weights=weights), images)
    for half in (False, True):
        folder = tmp_path / str(half)
        (done,) = export(ExportOptions(weights, format=format, img_size=96, half=half, output=str(folder)))
        sizes.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
        runtime = open_exported(done.path, precision="f32" if format == "openvino" else "auto")
        assert runtime.info.precision == ("float16" if half else "float32")
        found = np.concatenate([runtime.infer(image[None]) for image in images])
        off, score = largest_relative(found, expected), np.abs(found - expected)[..., 4:].max()
        if half:  # 16 bits keep weights to 2**-11 of their size
            assert 1e-4 < off < 0.05 and 1e-5 < score < 2**-8
        else:
            assert off < 1e-4 and score < 1e-5
    assert sizes[1] < 0.6 * sizes[0]


def test_darknet_files_are_stock(real: tuple[str, str], tmp_path: Path) -> None:
    """Folded: no batch normalisation is left, and both load as any Darknet network."""
    cfg, weights = real
    images = pictures(1, 320, 320)
    expected = by_torch(load_model(cfg, weights), images)
    for fold in (False, True):
        options = ExportOptions(weights, cfg, "darknet", fold_bn=fold, output=str(tmp_path / str(fold)))
        (done,) = export(options)
        model = load_model(done.path, done.path.with_suffix(".weights"))
        assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) is not fold
        assert largest_relative(by_torch(model, images), expected) < 1e-4


def test_onnx_says_what_one_has_to_know(saved: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (done,) = export(ExportOptions(str(saved / "small.pt"), output=str(tmp_path)))
    model = onnx.load(str(done.path))
    known = json.loads({entry.key: entry.value for entry in model.metadata_props}["metadata.json"])
    assert known["size"] == [96, 96] and known["stride"] == 16 and known["anchors"] == [[[20, 20], [40, 40]]]
    assert "grey 114" in known["resize"] and known["names"] == ["class_0"]
    assert {name for node in model.graph.node for name in node.output} >= {"layer_0", "layer_1", "layer_2"}
    assert str(PROJECT).encode() not in done.path.read_bytes()  # exporters write down where the code is


@pytest.mark.parametrize("format", FORMATS)
def test_what_differs_is_not_kept(format: Any, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is of another network than the one that it is compared with."""

    def another(cfg: str | None, weights: str) -> Darknet:
        model = load_model(cfg, weights)
        reference = command.PyTorch(model)
        with torch.no_grad():
            next(model.blocks[0].units()).conv.weight[0] += 0.1
        monkeypatch.setattr(command, "PyTorch", lambda _: reference)
        return model

    monkeypatch.setattr(command, "load_model", another)
    with pytest.raises(InputError, match="differs from PyTorch by more than rounding"):
        export(ExportOptions(str(saved / "small.pt"), format=format, output=str(tmp_path / "out")))
    assert not list((tmp_path / "out").iterdir())


def test_a_file_without_heads_to_compare_is_not_kept(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where its runtime shows no maps, nor where it shows some but one head's is missing."""
    weights = ExportOptions(
        str(saved / "yolov3-tiny.pt"), format="torchscript", img_size=96, output=str(tmp_path / "o")
    )
    show = command.maps_inside

    def without(*missing: str) -> None:
        def shown(runtime: Any, path: Path | None = None) -> Any:
            maps = show(runtime, path)
            if path is None:
                return maps
            return lambda picture: {name: value for name, value in maps(picture).items() if name not in missing}

        monkeypatch.setattr(command, "maps_inside", shown)

    for missing in (("head_0", "head_1"), ("head_1",)):
        without(*missing)
        with pytest.raises(InputError, match="--format torchscript: expected the maps of 2 heads to compare"):
            export(weights)
        assert not list((tmp_path / "o").iterdir())


def test_what_was_there_is_replaced_when_the_new_one_is_whole(saved: Path, tmp_path: Path) -> None:
    options = ExportOptions(str(saved / "small.pt"), format="openvino,onnx", output=str(tmp_path))
    for folder in (tmp_path / "small_openvino", tmp_path / "other"):
        folder.mkdir()
        (folder / "old.xml").write_text("old")
    (tmp_path / "small.onnx").write_text("old")
    export(options)
    assert not (tmp_path / "small_openvino" / "old.xml").exists() and (tmp_path / "other" / "old.xml").exists()
    for path in (tmp_path / "small_openvino", tmp_path / "small.onnx"):
        assert open_exported(path).infer(pictures(1, 96, 96)).shape == (1, 72, 6)


def test_test_measures_an_exported_network(data: Path, trained: Path, tmp_path: Path) -> None:
    done = run("export.py", "--weights", trained / "best.pt", "--data", "s.data", "--output", tmp_path, folder=data)
    assert done.returncode == 0, done.stderr
    figures = []
    for weights in (trained / "best.pt", tmp_path / "best.onnx"):
        options = ["--weights", weights, "--data", "s.data", "--workers", 0, "--name", weights.name]
        done = run("test.py", *options, folder=data)
        assert done.returncode == 0, done.stderr
        figures.append(json.loads((data / "runs" / "test" / weights.name / "metrics.json").read_text()))
    assert figures[0]["ap"] == pytest.approx(figures[1]["ap"], abs=1e-3)
    assert figures[0]["images"] == figures[1]["images"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx,tflite"], "expected some of onnx, openvino, torchscript, ncnn, darknet, got 'tflite'"),
        (["--format", "ncnn", "--dynamic"], "--dynamic with --format ncnn: expected onnx or openvino or torchscript"),
        (["--format", "torchscript", "--nms"], "--nms with --format torchscript: expected onnx or openvino"),
        (["--format", "darknet", "--half"], "--half with --format darknet"),
        (["--fold-bn"], "--fold-bn: expected --format darknet"),
        (["--img-size", 100], "divisible by 16"),
        (["--conf", 2], "--conf 2"),
        (["--int8"], "--int8: expected --data with it"),
        (["--int8", "--format", "ncnn", "--data", "x.data"], "--int8 with --format ncnn: expected onnx or openvino"),
        (["--int8", "--data", "other.data"], "the network has 1 classes, other.data has 2"),
        (["--data", "other.data"], "the network has 1 classes, other.data has 2"),
    ],
)
def test_bad_input_is_told_in_one_line(saved: Path, arguments: list[Any], message: str, tmp_path: Path) -> None:
    generate(tmp_path / "shapes", train=1, valid=1, size=32)
    (tmp_path / "other.data").write_text("classes=2\nvalid=shapes/images/valid\nnames=o.names\n")
    (tmp_path / "o.names").write_text("a\nb\n")
    done = run("export.py", "--weights", saved / "small.pt", "--output", "out", *arguments, folder=tmp_path)
    assert_refused(done, message, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("format", "package"),
    [("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("openvino", "openvino"), ("ncnn", "pnnx"), ("ncnn", "ncnn")],
)
def test_a_missing_package_is_named(
    format: str, package: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    done = run("export.py", "--weights", saved / "small.pt", "--format", format, "--output", "out", folder=tmp_path)
    assert_refused(done, f"expected the package {package}", tmp_path)
    assert "requirements-export.txt" in done.stderr and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.onnx", "cannot be loaded by ONNX Runtime"),
        ("x.torchscript", "expected a TorchScript file"),
        ("x.cfg", "expected x.weights beside it"),
        ("folder", "is a folder, expected a file or an exported network"),
        ("x_openvino/model.xml", "expected metadata.json in it"),
        ("x_ncnn/model.ncnn.param", "expected metadata.json in it"),
    ],
)
def test_files_of_another_kind(name: str, message: str, tmp_path: Path, shared: Path) -> None:
    path = tmp_path / name
    if "." in name:
        path.parent.mkdir(exist_ok=True)
        path.write_text("not a network")
    else:
        path.mkdir()
    given = path.parent if path.parent != tmp_path else path
    done = run("detect.py", "--weights", given, "--source", shared / "images" / "dog.jpg", folder=tmp_path)
    assert_refused(done, message, tmp_path)
    assert not (tmp_path / "runs").exists()


def test_megabytes_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for name, size in (("a", 1_000_000), ("deep/b", 500_000), ("deep/deeper/c", 250_000)):
        (tmp_path / name).write_bytes(bytes(size))
    assert megabytes(tmp_path) == 1.75
    assert megabytes(tmp_path / "a", tmp_path / "deep" / "deeper") == 1.25


def test_what_only_pytorch_can_do(saved: Path, tmp_path: Path, shared: Path) -> None:
    (done,) = export(ExportOptions(str(saved / "small.pt"), output=str(tmp_path)))
    for flags in (["--half"], ["--augment"], ["--cfg", saved / "small.cfg"]):
        said = run("detect.py", "--weights", done.path, "--source", shared / "images", *flags, folder=tmp_path)
        assert_refused(said, f"{flags[0]} with {done.path}: expected it with .pt or .weights only", tmp_path)
    said = run("detect.py", "--weights", done.path, "--source", "x.jpg", "--img-size", 128, folder=tmp_path)
    assert said.returncode == 2
    assert_refused(run("export.py", "--weights", done.path, folder=tmp_path), "export.py wrote it", tmp_path)


@pytest.mark.parametrize("name", ["m.engine", "m.tflite", "m"])
def test_weights_of_an_unknown_kind(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(bytes(40))
    kinds = ".onnx, .torchscript, x_openvino/, x_ncnn/ or x_darknet.cfg"
    message = f"{name}: expected a .pt, a .weights with --cfg or, to run it, what export.py writes: {kinds}"
    (tmp_path / "a.jpg").write_bytes(b"")
    for script, *flags in (["detect.py", "--source", "a.jpg"], ["test.py"], ["export.py"]):
        assert_refused(run(script, "--weights", name, *flags, folder=tmp_path), message, tmp_path)


def test_what_the_nms_inside_has_left_out_is_said(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(saved / "small.pt")
    (done,) = export(ExportOptions(weights, nms=True, conf=0.3, iou=0.5, output=str(tmp_path)))
    line = (
        f"warning: {done.path} has NMS inside, exported with --conf 0.3 --iou 0.5 --vote on: a lower --conf, another "
        "--iou and another --vote change nothing"
    )
    for conf, iou, vote, said in (
        (0.3, 0.5, True, False),
        (0.6, 0.5, True, False),
        (0.6, 0.4, True, True),
        (0.29, 0.5, True, True),
        (0.3, 0.51, True, True),
        (0.3, 0.5, False, True),
    ):
        capsys.readouterr()
        make_predictor(DetectOptions(str(done.path), "", conf=conf, iou=iou, vote=vote), str(done.path))
        assert capsys.readouterr().err.splitlines() == [line] * said


def test_ap_of_a_file_with_nms_inside_is_said_to_be_lower(saved: Path, tmp_path: Path) -> None:
    generate(tmp_path / "shapes", train=1, valid=2, size=96)
    (tmp_path / "s.data").write_text("classes=3\nvalid=shapes/images/valid\nnames=s.names\n")
    (tmp_path / "s.names").write_text("a\nb\nc\n")
    (done,) = export(ExportOptions(str(saved / "yolov3-tiny.pt"), img_size=96, nms=True, output=str(tmp_path)))
    said = run("test.py", "--weights", done.path, "--data", "s.data", folder=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "has NMS inside, exported with --conf 0.25 --iou 0.45 --vote on: a lower --conf" in said.stderr
    assert "AP is lower than without --nms" in said.stderr


def test_exported_networks_run_without_torch(real: tuple[str, str], tmp_path: Path, shared: Path) -> None:
    """Its import alone takes longer than all of detect.py."""
    cfg, weights = real
    formats = "onnx,openvino,darknet"
    files = [
        str(each.path) for each in export(ExportOptions(weights, cfg, formats, output=str(tmp_path), precision="f32"))
    ]
    program = (
        "import sys; from detect import DetectOptions, detect\n"
        f"for file in {files}:\n"
        f"    print(next(detect(DetectOptions(file, {str(shared / 'images' / 'dog.jpg')!r}))).counts())\n"
        "print(sorted({'torch', 'torchvision', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 car, 1 dog, 1 bicycle"] * 3 + ["[]"]
