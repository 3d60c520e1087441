"""What detection writes: under which names, and what can be read of it while it is written."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import PROJECT
from utils.data.frames import Frame, VideoInfo
from utils.errors import DataError
from utils.inference.result import Result
from utils.inference.video import VideoFile
from utils.inference.writer import Outputs, Writer, safe_name


def result(path: str, index: int | None = None, names: tuple[str, ...] = ("thing",), frames: int = 60) -> Result:
    """A box on a picture that moves by a pixel a frame."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[10:30, (index or 0) % 40 : (index or 0) % 40 + 20] = 255
    video = None if index is None else VideoInfo(25, 64, 48, frames)
    frame = Frame(image, path, index, video, (index or 0) / 25)
    return Result(frame, np.array([[1, 2, 30, 40]], np.float32), np.array([0.5]), np.array([0]), list(names), {})


WRITING = """
import sys
import numpy as np
from pathlib import Path
from utils.data.frames import Frame, VideoInfo
from utils.inference.result import Result
from utils.inference.writer import Outputs, Writer

with Writer(Path(sys.argv[1]), Outputs(json=True, csv=True), Result.plot) as writer:
    for index in range(60):
        frame = Frame(np.full((48, 64, 3), index, np.uint8), "v.mp4", index, VideoInfo(25, 64, 48, 60), index / 25)
        box = np.array([[1, 2, 30, 40]], np.float32)
        writer.write(Result(frame, box, np.array([0.5]), np.array([0]), ["thing"], {}))
    print("written", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_run_leaves_can_be_read(tmp_path: Path) -> None:
    """Every box of the tables, and the video but for the frames that the encoder still holds."""
    command, environment = [sys.executable, "-c", WRITING, str(tmp_path)], {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"written\n"
        process.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detections.csv", "detections.jsonl", "v.mp4"]
    with (tmp_path / "detections.csv").open() as file:
        assert [int(row["frame"]) for row in csv.DictReader(file)] == list(range(60))
    rows = [json.loads(line) for line in (tmp_path / "detections.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(60)) and rows[0]["boxes"][0]["x2"] == 30
    with av.open(str(tmp_path / "v.mp4")) as video:
        times = [frame.time for frame in video.decode(video=0)]
    assert len(times) >= 20 and np.diff(times[:-4]) == pytest.approx(1 / 25, abs=1e-3)


def test_a_finished_video_is_an_ordinary_one(tmp_path: Path) -> None:
    """Its length and number of frames stand in its head, as players want them."""
    with Writer(tmp_path, Outputs(), Result.plot) as writer:
        for index in range(60):
            writer.write(result("v.mp4", index))
    with av.open(str(tmp_path / "v.mp4")) as video:
        stream = video.streams.video[0]
        assert stream.frames == 60 and stream.average_rate == 25 and video.duration == pytest.approx(2.4e6, rel=0.05)
        times = [frame.time for frame in video.decode(stream)]
    assert times == pytest.approx([index / 25 for index in range(60)], abs=1e-3)


def test_tables_can_be_read_while_they_grow(tmp_path: Path) -> None:
    names = ('a "quoted", name', "猫")
    with Writer(tmp_path, Outputs(pictures=False, json=True, csv=True), Result.plot) as writer:
        for number in range(1, 4):
            writer.write(result(f"{number}.jpg", names=names))
            with (tmp_path / "detections.csv").open(newline="", encoding="utf-8") as file:
                assert [row["path"] for row in csv.DictReader(file)] == [f"{each}.jpg" for each in range(1, number + 1)]
            lines = (tmp_path / "detections.jsonl").read_text("utf-8").splitlines()
            assert json.loads(lines[-1])["boxes"][0]["name"] == names[0] and len(lines) == number
        assert not (tmp_path / "detections.json").exists()
    rows = json.loads((tmp_path / "detections.json").read_text("utf-8"))
    assert rows == [json.loads(line) for line in lines]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detections.csv", "detections.json"]


def test_nothing_found_is_an_empty_array(tmp_path: Path) -> None:
    with Writer(tmp_path, Outputs(pictures=False, json=True), Result.plot):
        pass
    assert json.loads((tmp_path / "detections.json").read_text()) == []


def test_a_video_that_cannot_be_finished_leaves_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: VideoFile) -> None:
        raise DataError("disk full")

    monkeypatch.setattr(VideoFile, "close", failing)
    with pytest.raises(DataError, match="disk full"), Writer(tmp_path, Outputs(json=True), Result.plot) as writer:
        writer.write(result("v.mp4", 0))
    assert json.loads((tmp_path / "detections.json").read_text())[0]["frame"] == 0


@pytest.mark.parametrize("name", [
    "../../x", "..", ".", "", "/etc/passwd", "a\0b", "x" * 400, "猫" * 400, "a\nb", "\x1b[31m", "c:\\x", "a/../b",
])  # fmt: skip
def test_class_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    """Whatever a class is called, its crops lie two folders below the run's: crops/CLASS/FILE."""
    run = tmp_path / "run"
    with Writer(run, Outputs(pictures=False, crops=True), Result.plot) as writer:
        writer.write(result("a.jpg", names=(name,)))
    (crop,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert crop.relative_to(run).parts[::2] == ("crops", "a_1.jpg") and len(crop.relative_to(run).parts) == 3
    plain = safe_name(name)
    assert crop.parent.name == plain and plain not in {"", ".", ".."} and plain.isprintable()
    assert len(plain.encode()) <= 150 and not set(plain) & set('/\\:*?"<>|')


def test_addresses_stay_in_the_folder(tmp_path: Path) -> None:
    with Writer(tmp_path / "run", Outputs(txt=True), Result.plot) as writer:
        for path in ("http://h/../../x.jpg", "http://h/..%2f..%2fx.jpg?a=/b", "http://" + "h" * 400 + "/a.jpg"):
            writer.write(result(path))
    files = [path.relative_to(tmp_path / "run").parts for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 6 and all(len(parts) == 1 + (parts[0] == "labels") for parts in files)
