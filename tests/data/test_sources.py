"""utils/data/sources.py: what is found, in which order, and what happens to files that cannot be read."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.sources import open_source
from utils.errors import DataError


def write_image(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((6, 8, 3), value, np.uint8))
    return path


def write_video(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write videos")
    for index in range(frames):
        writer.write(np.full((48, 64, 3), index * 40, np.uint8))
    writer.release()
    return path


def test_one_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 7)
    source = open_source(str(path))
    (frame,) = source.frames()
    assert (frame.path, frame.index, frame.video, source.length, source.problems) == (path, None, None, 1, 0)
    assert frame.image.shape == (6, 8, 3) and frame.image.max() == 7


def test_video(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "v.avi", 4)))
    frames = list(source.frames())
    assert source.length == 4 and [frame.index for frame in frames] == [0, 1, 2, 3]
    for index, frame in enumerate(frames):
        assert frame.image.mean() == pytest.approx(index * 40, abs=5)
    video = frames[0].video
    assert video is not None and (video.fps, video.width, video.height, video.frames) == (10, 64, 48, 4)


def test_folder_is_sorted_flat_and_mixed(tmp_path: Path) -> None:
    write_image(tmp_path / "c.png", 3)
    write_image(tmp_path / "a.PNG", 1)
    write_video(tmp_path / "b.avi", 2)
    write_image(tmp_path / "sub" / "d.png", 4)
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(str(tmp_path))
    assert [(frame.path.name, frame.index) for frame in source.frames()] == [
        ("a.PNG", None), ("b.avi", 0), ("b.avi", 1), ("c.png", None)
    ]  # fmt: skip
    assert source.length == 4


def test_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/1.png", "x/2.png", "y/3.png"):
        write_image(tmp_path / name, 1)
    monkeypatch.chdir(tmp_path)
    assert [frame.path for frame in open_source("*/*.png").frames()] == [
        Path("x/1.png"),
        Path("x/2.png"),
        Path("y/3.png"),
    ]
    assert open_source(str(tmp_path / "**" / "[12].png")).length == 2


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a[1].png", 9)
    assert [frame.path for frame in open_source(str(path)).frames()] == [path]


def test_unreadable_file_is_named_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes(b"junk")
    (tmp_path / "c.mp4").write_bytes(b"junk" * 50)
    source = open_source(str(tmp_path))
    assert [frame.path.name for frame in source.frames()] == ["a.png"]
    assert source.problems == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "b.png" in lines[0] and "c.mp4" in lines[1]
    assert source.length is None  # the broken video does not say


def test_nothing_readable(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(DataError, match="none of the 2 files can be read"):
        list(open_source(str(tmp_path)).frames())
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        list(open_source(str(tmp_path / "a.png")).frames())


def test_nothing_found(tmp_path: Path) -> None:
    for source, message in (
        (str(tmp_path), "no image or video in this folder"),
        (str(tmp_path / "gone.jpg"), "no such file or folder"),
        (str(tmp_path / "*.jpg"), "no image or video matches this pattern"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(source)
