"""detect.py from end to end: images, videos, and what it writes of them."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detect import DetectOptions, Detector, detect
from tests.commands import run
from tests.conftest import PROJECT
from utils.data.frames import Frame, VideoInfo
from utils.errors import InputError
from utils.inference.result import Result
from utils.inference.writer import Outputs, Writer

pytestmark = pytest.mark.slow


def test_detect_writes_what_was_asked_for(trained: Path, data: Path) -> None:
    image = data / "shapes" / "images" / "valid" / "0000.jpg"
    options = ["--weights", trained / "best.pt", "--conf", "0", "--max-det", 5, "--classes", "square,triangle"]
    outputs = ["--save-csv", "--save-json", "--save-txt", "--save-crop", "--nosave", "--agnostic-nms"]
    done = run("detect.py", *options, *outputs, "--source", image, "--name", "all", folder=data)
    assert done.returncode == 0, done.stderr
    folder = data / "runs" / "detect" / "all"
    (row,) = json.loads((folder / "detections.json").read_text())
    boxes = row["boxes"]
    assert 0 < len(boxes) <= 5 and {box["name"] for box in boxes} <= {"square", "triangle"}
    with (folder / "detections.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["x1"]) for line in lines] == [box["x1"] for box in boxes] and lines[0]["frame"] == ""
    labels = [line.split() for line in (folder / "labels" / "0000.txt").read_text().splitlines()]
    assert [int(label[0]) for label in labels] == [box["class"] for box in boxes]
    assert (float(labels[0][1]) - float(labels[0][3]) / 2) * 96 == pytest.approx(boxes[0]["x1"], abs=0.01)
    crops = list((folder / "crops").glob("*/0000_*.jpg"))
    assert len(crops) == len(boxes) and {crop.parent.name for crop in crops} == {box["name"] for box in boxes}
    assert not list(folder.glob("*.jpg"))


def test_detect_draws_as_asked(trained: Path, data: Path) -> None:
    image = data / "shapes" / "images" / "valid" / "0000.jpg"
    pictures = []
    for number, extra in enumerate([[], ["--hide-conf"], ["--hide-labels"], ["--line-thickness", 9]]):
        options = ["--weights", trained / "best.pt", "--conf", "0", "--max-det", 3, "--name", f"d{number}"]
        done = run("detect.py", *options, *extra, "--source", image, folder=data)
        assert done.returncode == 0, done.stderr
        pictures.append(cv2.imread(str(data / f"runs/detect/d{number}/0000.jpg")).astype(int))
    changed = [np.abs(picture - cv2.imread(str(image))).sum() for picture in pictures]
    assert changed[0] > changed[1] > changed[2] > 0 and changed[3] > changed[0]


@pytest.fixture(scope="module")
def video(data: Path) -> Path:
    """11 frames at 12.5 a second: a validation image that moves."""
    image = cv2.imread(str(data / "shapes" / "images" / "valid" / "0000.jpg"))
    path = data / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.5, (96, 64))
    for index in range(11):
        writer.write(image[index : index + 64])
    writer.release()
    return path


def test_detect_a_folder(trained: Path, data: Path) -> None:
    folder = data / "shapes" / "images" / "valid"
    options = ["--weights", trained / "best.pt", "--conf", "0", "--save-json", "--source", folder]
    done = run("detect.py", *options, "--name", "folder", folder=data)
    assert done.returncode == 0, done.stderr
    rows = json.loads((data / "runs" / "detect" / "folder" / "detections.json").read_text())
    assert len(rows) == 8 and set(rows[0]) == {"path", "width", "height", "boxes"}
    boxes = [box for row in rows for box in row["boxes"]]
    assert boxes and set(boxes[0]) == {"x1", "y1", "x2", "y2", "score", "class", "name"}
    assert all(0 <= box["x1"] <= box["x2"] <= 96 and 0 <= box["y1"] <= box["y2"] <= 96 for box in boxes)
    assert "96x96, " in done.stdout and " ms" in done.stdout
    pictures = sorted(path.name for path in (data / "runs" / "detect" / "folder").glob("*.jpg"))
    assert pictures == sorted(path.name for path in folder.iterdir())
    run("detect.py", *options, "--batch-size", 3, "--name", "batches", folder=data)
    batched = json.loads((data / "runs" / "detect" / "batches" / "detections.json").read_text())
    assert [row["path"] for row in batched] == [row["path"] for row in rows]
    for row, other in zip(rows, batched, strict=True):
        expected = [pytest.approx(list(box.values())[:5], abs=0.02) for box in row["boxes"]]
        assert [list(box.values())[:5] for box in other["boxes"]] == expected


@pytest.mark.parametrize("stride", [1, 3])
def test_videos_keep_their_size_and_time(trained: Path, data: Path, video: Path, stride: int) -> None:
    options = ["--weights", trained / "best.pt", "--conf", "0", "--save-json", "--vid-stride", stride]
    done = run("detect.py", *options, "--source", video, "--name", f"v{stride}", folder=data)
    assert done.returncode == 0, done.stderr
    folder = data / "runs" / "detect" / f"v{stride}"
    rows = json.loads((folder / "detections.json").read_text())
    assert [row["frame"] for row in rows] == list(range(0, 11, stride))
    with av.open(str(folder / "v.mp4")) as written:
        stream = written.streams.video[0]
        times = [frame.time for frame in written.decode(stream)]
        assert (stream.codec.name, stream.width, stream.height) == ("h264", 96, 64)
    assert times == pytest.approx([row["frame"] / 12.5 for row in rows])
    if stride == 1:
        assert cv2.VideoCapture(str(folder / "v.mp4")).get(cv2.CAP_PROP_FPS) == 12.5


def test_tracking_numbers_objects_in_every_file(trained: Path, data: Path, video: Path) -> None:
    options = ["--weights", trained / "best.pt", "--conf", "0", "--max-det", 5, "--track"]
    outputs = ["--count-line", "0,30,96,30", "--save-json", "--save-csv", "--save-crop"]
    done = run("detect.py", *options, *outputs, "--source", video, "--name", "tracked", folder=data)
    assert done.returncode == 0, done.stderr
    folder = data / "runs" / "detect" / "tracked"
    rows = json.loads((folder / "detections.json").read_text())
    ids = {box["id"] for row in rows for box in row["boxes"]} - {None}
    assert 1 in ids
    with (folder / "detections.csv").open() as file:
        assert {line["id"] for line in csv.DictReader(file)} - {""} == {str(number) for number in ids}
    assert list(folder.glob("crops/*/v/*_id1.jpg")) and (folder / "crossings.csv").exists()
    assert "crossed to the right" in done.stdout


def test_sizes_that_h264_does_not_take(trained: Path, data: Path) -> None:
    path = data / "odd.avi"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=10, options={"strict": "unofficial"})
        stream.width, stream.height, stream.pix_fmt = 63, 47, "yuvj420p"
        for value in range(3):
            picture = np.full((47, 63, 3), 80 * value, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode())
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_WIDTH) == 63
    done = run("detect.py", "--weights", trained / "best.pt", "--source", path, "--name", "odd", folder=data)
    assert done.returncode == 0, done.stderr
    capture = cv2.VideoCapture(str(data / "runs" / "detect" / "odd" / "odd.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (63, 47)
    assert capture.get(cv2.CAP_PROP_FPS) == 10 and capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_other_ways_to_look(trained: Path, data: Path) -> None:
    """Tiles, other views and half precision, and that files of one name do not meet.

    Without suppression every anchor of every cell gives a box, so that their numbers are known.
    """
    for name in ("1/x.jpg", "2/x.jpg", "2/x.png"):
        path = data / "same" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(data / "shapes" / "images" / "valid" / f"000{name[0]}.jpg"))
        cv2.imwrite(str(path), cv2.resize(image, (200, 160)))
    options = [
        "--weights",
        trained / "best.pt",
        "--source",
        data / "same",
        "--recursive",
        "--conf",
        "0",
        "--iou",
        "1",
        "--vote",
        "off",
        "--max-det",
        1000,
    ]
    ways = [[], ["--tile", "200,160"], ["--tile", "100,80", "--overlap", "0.3"], ["--augment"], ["--half"]]
    rows = {}
    for number, extra in enumerate(ways):
        outputs = ["--save-json", "--save-txt", "--save-crop", "--name", f"ways{number}"]
        done = run("detect.py", *options, *extra, *outputs, folder=data)
        if "--half" in extra and "expected a device with native" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        folder = data / "runs" / "detect" / f"ways{number}"
        rows[number] = json.loads((folder / "detections.json").read_text())
        assert {path.name for path in folder.iterdir() if path.is_file()} == {
            "detections.json", "x.jpg", "x-2.jpg", "x-3.png"
        }  # fmt: skip
        labels = [len((folder / "labels" / f"{name}.txt").read_text().splitlines()) for name in ("x", "x-2", "x-3")]
        assert labels == [len(row["boxes"]) for row in rows[number]]
    corners = {
        number: [np.array([[box[side] for side in ("x1", "y1", "x2", "y2")] for box in row["boxes"]]) for row in way]
        for number, way in rows.items()
    }
    plain, whole, tiled, augmented = (corners[number] for number in range(4))
    for picture in range(3):
        assert len(plain[picture]) == 2 * 6 * 6  # anchors x cells of 16 pixels in 96
        np.testing.assert_array_equal(whole[picture], plain[picture])  # the one tile is the picture
        assert len(augmented[picture]) == 2 * (6 * 6 + 8 * 8)  # 1.2 x 96 pixels fill 8 cells
        for box in plain[picture]:
            assert np.abs(augmented[picture] - box).max(axis=1).min() < 0.05
        sides = tiled[picture][:, 2:] - tiled[picture][:, :2]
        assert len(sides) > len(plain[picture]) and (tiled[picture] >= 0).all()
        assert (tiled[picture][:, 2:] <= (200, 160)).all()
        if 4 in corners:
            for box in corners[4][picture]:
                assert np.abs(plain[picture] - box).max(axis=1).min() < 2


SLOW_WRITER = """
import runpy, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
sys.path.insert(0, {project!r})
from utils.inference.writer import Writer
written = Writer.write
def write(self, result):
    written(self, result)
    if result.frame_index == 2:
        print("third", flush=True)
        time.sleep(1)
Writer.write = write
sys.argv = ["detect.py", *sys.argv[1:]]
runpy.run_path({script!r}, run_name="__main__")
"""


def test_ctrl_c_keeps_what_was_found(trained: Path, data: Path, video: Path) -> None:
    """By a signal, as a terminal sends it, after the third picture."""
    code = SLOW_WRITER.format(project=str(PROJECT), script=str(PROJECT / "detect.py"))
    options = ["--weights", trained / "best.pt", "--source", video, "--save-json", "--save-csv", "--name", "stopped"]
    command = [sys.executable, "-c", code, *map(str, options)]
    with subprocess.Popen(command, cwd=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "third\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    folder = data / "runs" / "detect" / "stopped"
    rows = json.loads((folder / "detections.json").read_text())
    assert 3 <= len(rows) <= 11 and "results in" in stdout
    with av.open(str(folder / "v.mp4")) as file:
        assert len(list(file.decode(video=0))) == len(rows)
    assert sorted(path.name for path in folder.iterdir()) == ["detections.csv", "detections.json", "v.mp4"]


def test_a_killed_run_leaves_what_was_found(trained: Path, data: Path) -> None:
    """`kill -9` in the middle of a video."""
    path, picture = data / "long.avi", cv2.imread(str(data / "shapes" / "images" / "valid" / "0000.jpg"))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 96))
    for _ in range(2000):
        writer.write(picture)
    writer.release()
    options = ["--weights", trained / "best.pt", "--conf", "0.01", "--save-json", "--save-csv", "--name", "killed"]
    command = [sys.executable, PROJECT / "detect.py", "--source", path, *options]
    folder = data / "runs" / "detect" / "killed"
    with subprocess.Popen(list(map(str, command)), cwd=data, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            lines = (folder / "detections.jsonl").read_text() if (folder / "detections.jsonl").exists() else ""
            if lines.count("\n") > 100:
                process.kill()
    assert process.returncode == -signal.SIGKILL
    rows = [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(len(rows)))
    with (folder / "detections.csv").open() as file:
        assert abs(len(list(csv.DictReader(file))) - sum(len(row["boxes"]) for row in rows)) <= 300  # of one frame
    with av.open(str(folder / "long.mp4")) as video:
        assert len(list(video.decode(video=0))) > len(rows) / 2
    assert not (folder / "detections.json").exists()


def test_live_sources_have_files_side_by_side(tmp_path: Path) -> None:
    """Two streams in turn, with an address for a name, at the times of the clock."""
    none = np.zeros(0)
    with Writer(tmp_path, Outputs(txt=True), Result.plot) as writer:
        for index in range(4):
            for place in ("a", "b"):
                info = VideoInfo(25, 32, 24, None, live=True)
                frame = Frame(np.zeros((24, 32, 3), np.uint8), f"http://h:1/{place}?key=x", index, info, index * 0.7)
                writer.write(Result(frame, none.reshape(0, 4), none, none.astype(int), [], {}))
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["h_1_a.mp4", "h_1_b.mp4"]
    with av.open(str(tmp_path / "h_1_a.mp4")) as file:
        assert [frame.time for frame in file.decode(video=0)] == pytest.approx([0, 0.7, 1.4, 2.1], abs=1e-3)
    assert (tmp_path / "labels" / "h_1_b" / "000003.txt").exists()


KINDS = {  # name -> (mode to save in, what else PIL is told)
    "grey.png": "L", "palette.png": "P", "alpha.png": "RGBA", "bits.png": "1", "grey_alpha.png": "LA",
    "cmyk.jpg": "CMYK", "grey.jpg": "L", "colour.bmp": "RGB", "colour.webp": "RGB", "colour.tif": "RGB",
    "cmyk.tif": "CMYK", "größe 大.jpg": "RGB",
}  # fmt: skip


def mixed_folder(folder: Path, image: Image.Image) -> set[str]:
    """A hundred files, some of which cannot be read; returns the names of those."""
    folder.mkdir()
    for name, mode in KINDS.items():
        image.convert(mode).save(folder / name)
    cv2.imwrite(str(folder / "deep.png"), np.asarray(image)[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "deep_grey.tif"), np.asarray(image.convert("L")).astype(np.uint16) * 257)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folder / f"turned{orientation}.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (12_000, 40)).save(folder / "wide.jpg")
    good = (folder / "größe 大.jpg").read_bytes()
    bad = {"zero.jpg": b"", "text.jpg": b"no picture" * 30, "half.jpg": good[: len(good) // 2], "page.png": b"<html>"}
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    for index in range(100 - len(list(folder.iterdir()))):
        image.rotate(index, expand=bool(index % 2)).save(folder / f"more{index:02d}.jpg")
    assert len(list(folder.iterdir())) == 100
    return set(bad)


def test_a_hundred_images_of_every_kind(trained: Path, data: Path) -> None:
    image = Image.open(data / "shapes" / "images" / "valid" / "0000.jpg").resize((96, 64))
    bad = mixed_folder(data / "mixed", image)
    options = ["--weights", trained / "best.pt", "--source", data / "mixed", "--save-json", "--batch-size", 8]
    done = run("detect.py", *options, "--name", "mixed", folder=data)
    assert done.returncode == 0, done.stderr
    rows = json.loads((data / "runs" / "detect" / "mixed" / "detections.json").read_text())
    names = {Path(row["path"]).name for row in rows}
    assert len(rows) == len(names) == 96 and not names & bad
    assert "in 96 pictures" in done.stdout and "4 files could not be read" in done.stdout
    skipped = [line for line in done.stderr.splitlines() if "skipped: " in line]
    assert len(skipped) == 4 and all(any(name in line for line in skipped) for name in bad)
    assert len([path for path in (data / "runs" / "detect" / "mixed").iterdir() if path.suffix != ".json"]) == 96
    sizes = {Path(row["path"]).name: (row["width"], row["height"]) for row in rows}
    assert sizes["turned5.jpg"] == sizes["turned8.jpg"] == (64, 96) and sizes["turned3.jpg"] == (96, 64)
    assert sizes["dot.png"] == (1, 1) and sizes["wide.jpg"] == (12_000, 40)


def test_every_kind_of_image_has_pillows_pixels(tmp_path: Path, data: Path) -> None:
    image = Image.open(data / "shapes" / "images" / "valid" / "0000.jpg").resize((96, 64))
    bad = mixed_folder(tmp_path / "mixed", image)
    detector = Detector(str(data / "x.cfg"))
    for file in sorted((tmp_path / "mixed").iterdir()):
        if file.name not in bad and "deep" not in file.name:
            (mine,), (pillows,) = detector(file), detector(Image.open(file))
            difference = np.abs(mine.image.astype(int) - pillows.image.astype(int))
            assert difference.mean() < 2, file.name  # other JPEG decoders differ by a little
    deep = detector(tmp_path / "mixed" / "deep.png")[0].image
    np.testing.assert_allclose(deep.astype(int), np.asarray(image)[..., ::-1], atol=1)
    grey = detector(tmp_path / "mixed" / "deep_grey.tif")[0].image
    np.testing.assert_allclose(grey[..., 0].astype(int), np.asarray(image.convert("L")), atol=1)


def test_from_python(trained: Path, data: Path, video: Path) -> None:
    weights = str(trained / "best.pt")
    results = detect(DetectOptions(weights=weights, source=str(video), conf=0))
    first = next(results)
    assert first.frame_index == 0 and first.path == str(video) and first.boxes_xyxy_px.shape == (len(first), 4)
    results.close()
    with pytest.raises(InputError, match="no such file"):  # at once, not with the first result
        detect(DetectOptions(weights=weights, source="gone.jpg"))


def test_a_detector_takes_images_alone(data: Path, video: Path, tmp_path: Path) -> None:
    """A list of all frames of a film would not fit into memory."""
    detector = Detector(str(data / "x.cfg"))
    several = data / "shapes" / "images" / "valid"
    for source in (video, several, str(several / "*.jpg"), "http://127.0.0.1:9/film.mp4", "rtsp://127.0.0.1:9/live"):
        with pytest.raises(InputError, match=r"expected one image; detect\(\) takes videos"):
            detector(source)
    assert len(detector([several / "0000.jpg", several / "0001.jpg"])) == 2


def test_from_the_hub(trained: Path, data: Path) -> None:
    file = data / "shapes" / "images" / "valid" / "0001.jpg"
    load = {"source": "local", "weights": str(trained / "best.pt"), "conf": 0.0, "max_det": 7}
    model = torch.hub.load(str(PROJECT), "custom", **load)
    pixels = cv2.imread(str(file))
    same = [model(str(file)), model(file), model(pixels), model(pixels[None]), model([file, pixels])[1:]]
    for (result,) in same:
        assert len(result) == 7 and result.boxes_xyxy_px.tolist() == same[0][0].boxes_xyxy_px.tolist()
    (pillows,) = model(Image.open(file))
    np.testing.assert_allclose(pillows.scores, same[0][0].scores, atol=0.05)
    with pytest.raises(InputError, match=r"or \(H, W, 3\) uint8 in BGR, got \(5, 5\) float64"):
        model(np.zeros((5, 5)))
    with pytest.raises(InputError, match="expected detect"):
        Detector(weights=str(trained / "best.pt"), track=True)
    chosen = Detector(weights=str(trained / "best.pt"), conf=0, classes=[0, "square"], img_size=(96, 64))
    assert chosen.predictor.classes == [0, 1] and chosen.predictor.size == (96, 64)
    untrained = torch.hub.load(str(PROJECT), "ghost_yolov3_tiny", source="local", conf=0.0)
    assert len(untrained(pixels)[0]) > 0


@pytest.mark.parametrize(("extra", "message"), [
    (["--vid-stride", 0], "--vid-stride 0: expected at least 1"),
    (["--tile", "15"], "--tile 15: expected at least 16, the network's largest stride"),
    (["--tile", "0"], "--tile 0: expected N or W,H in pixels"),
    (["--overlap", "0.95"], "--overlap 0.95: expected 0 to 0.9"),
    (["--count-line", "1,2,3,4"], "--count-line: expected --track with it"),
    (["--track", "--count-line", "1,2,3"], "--count-line 1,2,3: expected x1,y1,x2,y2 in pixels"),
    (["--view-img"], "--view-img: expected a display; there is none here"),
    (["--source", "screen:1"], "expected screen or screen:x,y,w,h in pixels"),
])  # fmt: skip
def test_bad_options(trained: Path, data: Path, extra: list, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    image = data / "shapes" / "images" / "valid" / "0001.jpg"
    done = run("detect.py", "--weights", trained / "best.pt", "--source", image, *extra, "--name", "bad", folder=data)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (data / "runs" / "detect" / "bad").exists()
