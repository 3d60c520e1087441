"""utils/data/sources.py: what is found, in which order, and what happens to files that cannot be read."""

import http.server
import io
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from utils.data.sources import open_source
from utils.data.streams import Streams
from utils.errors import DataError


def write_image(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((6, 8, 3), value, np.uint8))
    return path


def write_video(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((48, 64, 3), index * 40 % 256, np.uint8))
    writer.release()
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of what lies in tmp_path; /private/ asks for me:secret, /moved/ points on."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/private/") and self.headers["Authorization"] != "Basic bWU6c2VjcmV0":
                self.send_error(401)
            elif self.path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", self.path.replace("/moved/", "/private/"))
                self.end_headers()
            else:
                self.path = self.path.replace("/private/", "/")
                super().do_GET()

        def guess_type(self, path: object) -> str:
            return "image/png" if str(path).endswith("picture") else super().guess_type(str(path))

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def paths(source: str, **options: object) -> list[str]:
    return [frame.path for frame in open_source(source, **options).frames()]  # type: ignore[arg-type]


def test_one_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 7)
    source = open_source(str(path))
    (frame,) = source.frames()
    assert (frame.path, frame.index, frame.video, source.length, source.problems) == (str(path), None, None, 1, 0)
    assert frame.image.shape == (6, 8, 3) and frame.image.max() == 7


def test_video(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "v.avi", 4)))
    frames = list(source.frames())
    assert source.length == 4 and [frame.index for frame in frames] == [0, 1, 2, 3]
    for index, frame in enumerate(frames):
        assert frame.image.mean() == pytest.approx(index * 40, abs=5)
        assert frame.seconds == pytest.approx(index / 10)
    video = frames[0].video
    assert video is not None and (video.fps, video.width, video.height, video.frames) == (10, 64, 48, 4)


def test_frames_have_the_videos_own_times(tmp_path: Path) -> None:
    times = [0, 33, 66, 100, 1100, 2100, 2133]
    with av.open(str(tmp_path / "v.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.codec_context.time_base = 64, 48, Fraction(1, 1000)
        for milliseconds in times:
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    frames = list(open_source(str(tmp_path / "v.mp4")).frames())
    assert [frame.seconds * 1000 for frame in frames] == pytest.approx(times, abs=1)


def test_a_video_that_ends_early_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_video(tmp_path / "v.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    count = len(list(open_source(str(path)).frames()))
    assert 5 < count < 35
    assert f"damaged after {count} of " in capfd.readouterr().err


def test_every_other_frame(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "v.avi", 5)), stride=2)
    frames = list(source.frames())
    assert [frame.index for frame in frames] == [0, 2, 4] and source.length == 3
    assert [frame.image.mean() for frame in frames] == pytest.approx([0, 80, 160], abs=5)


def test_folder_is_sorted_flat_and_mixed(tmp_path: Path) -> None:
    write_image(tmp_path / "c.png", 3)
    write_image(tmp_path / "a.PNG", 1)
    write_video(tmp_path / "b.avi", 2)
    write_image(tmp_path / "sub" / "d.png", 4)
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(str(tmp_path))
    assert [(Path(frame.path).name, frame.index) for frame in source.frames()] == [
        ("a.PNG", None), ("b.avi", 0), ("b.avi", 1), ("c.png", None)
    ]  # fmt: skip
    assert source.length == 4
    assert paths(str(tmp_path), recursive=True)[-1] == str(tmp_path / "sub" / "d.png")


def test_frames_are_in_natural_order(tmp_path: Path) -> None:
    """1, 2 ... 10, 11, as they were taken, in folders and patterns; other names as ever."""
    numbers = [1, 2, 3, 9, 10, 11, 100]
    for number in numbers:
        write_image(tmp_path / "plain" / f"{number}.png", 1)
        write_image(tmp_path / "mixed" / f"cam2_frame{number}_²a.png", 1)
        write_image(tmp_path / "deep" / f"take{number}" / "x.png", 1)
    for name in ("007.png", "7.png", "b.png", "a.png", "².png"):
        write_image(tmp_path / "others" / name, 1)
    for source, folder in (("plain", "plain"), ("plain/*.png", "plain"), ("mixed", "mixed")):
        found = [Path(path) for path in paths(str(tmp_path / source))]
        assert [int(path.stem.removeprefix("cam2_frame").removesuffix("_²a")) for path in found] == numbers, folder
    deep = paths(str(tmp_path / "deep"), recursive=True)
    assert [int(Path(path).parent.name.removeprefix("take")) for path in deep] == numbers
    assert [Path(path).name for path in paths(str(tmp_path / "others"))] == [
        "007.png", "7.png", "a.png", "b.png", "².png"
    ]  # fmt: skip


@pytest.mark.parametrize(("suffix", "times"), [
    ("mkv", [0, 0.04, 0.08, 3600, 3600.04]),  # a gap of an hour
    ("webm", [10, 10.04, 10.08, 10.12]),  # begins at 10 s
    ("mp4", [0, 1, 1.04, 7, 30]),
])  # fmt: skip
def test_a_varying_rate_is_no_damage(
    tmp_path: Path, suffix: str, times: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    """And the number of frames is told where the file knows it, never guessed."""
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libvpx" if suffix == "webm" else "libx264", rate=25)
        stream.width, stream.height, stream.codec_context.time_base = 64, 48, Fraction(1, 1000)
        for index, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 9, np.uint8), format="bgr24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    source = open_source(str(path))
    assert source.length == (len(times) if suffix == "mp4" else None)
    assert len(list(source.frames())) == len(times) and not capfd.readouterr().err


def test_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/1.png", "x/2.png", "y/3.png"):
        write_image(tmp_path / name, 1)
    monkeypatch.chdir(tmp_path)
    assert paths("*/*.png") == ["x/1.png", "x/2.png", "y/3.png"]
    assert open_source(str(tmp_path / "**" / "[12].png")).length == 2


def test_lists_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the working directory, else to the list; comments and blank lines are none."""
    for name in ("here/1.png", "there/2.png"):
        write_image(tmp_path / name, 1)
    (tmp_path / "there" / "list.txt").write_text(f"# a comment\n1.png\n\n2.png\n1.png\n{tmp_path}/here/1.png\n")
    monkeypatch.chdir(tmp_path / "here")
    assert paths("../there/list.txt") == ["1.png", "../there/2.png", f"{tmp_path}/here/1.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("1.png\n# a comment\n../there/2.png\n"))
    assert paths("-") == ["1.png", "../there/2.png"]


def test_addresses_of_files(tmp_path: Path, server: str) -> None:
    write_image(tmp_path / "a.png", 9)
    write_video(tmp_path / "v.avi", 3)
    (frame,) = open_source(f"{server}/a.png?size=full").frames()
    assert frame.image.max() == 9 and frame.video is None
    assert [frame.index for frame in open_source(f"{server}/v.avi").frames()] == [0, 1, 2]
    with pytest.raises(DataError, match=r"/gone\.png: cannot be fetched \(.*404"):
        paths(f"{server}/gone.png")


def test_a_video_at_an_address_is_fetched_once(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as OpenCV alone asks for it."""
    write_video(tmp_path / "v.avi", 3)
    asked, answer = [], http.server.SimpleHTTPRequestHandler.do_GET

    def counting(handler: http.server.SimpleHTTPRequestHandler) -> None:
        asked.append(handler.path)
        answer(handler)

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "do_GET", counting)
    capture = cv2.VideoCapture(f"{server}/v.avi", cv2.CAP_FFMPEG, [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 10_000])
    assert [capture.grab() for _ in range(4)] == [True, True, True, False]
    capture.release()
    alone = len(asked)
    source = open_source(f"{server}/v.avi")
    assert source.length is None
    frames = list(source.frames())
    assert len(frames) == 3 and frames[0].video is not None and frames[0].video.frames is None
    assert alone >= 1 and len(asked) == 2 * alone


def test_addresses_that_do_not_say_image(tmp_path: Path, server: str) -> None:
    """The server says it; letters beyond ASCII are put into the form that servers know."""
    write_image(tmp_path / "a.png", 9).rename(tmp_path / "picture")
    (frame,) = open_source(f"{server}/picture").frames()
    assert frame.image.max() == 9
    cv2.imwrite(str(tmp_path / "größe 1.png"), np.full((6, 8, 3), 7, np.uint8))
    (frame,) = open_source(f"{server}/größe 1.png").frames()
    assert frame.image.max() == 7


def test_passwords_go_to_the_server_alone(tmp_path: Path, server: str) -> None:
    write_image(tmp_path / "a.png", 9)
    (frame,) = open_source(server.replace("http://", "http://me:secret@") + "/private/a.png").frames()
    assert frame.path == f"{server}/private/a.png"
    for address in (f"{server}/private/a.png", server.replace("http://", "http://me:secret@") + "/moved/a.png"):
        with pytest.raises(DataError, match="401"):  # not sent on to where it was pointed
            paths(address)


def test_passwords_are_not_shown(server: str) -> None:
    address = server.replace("http://", "http://me:secret@")
    with pytest.raises(DataError) as error:
        paths(f"{address}/gone.png")
    assert "secret" not in str(error.value)
    with pytest.raises(DataError) as error:
        paths("rtsp://me:secret@127.0.0.1:1/cam")
    assert "secret" not in str(error.value) and "cannot be opened" in str(error.value)


class Camera(http.server.BaseHTTPRequestHandler):
    """A network camera: frames of one grey each, that ends the first connection after some of them."""

    connections = 0

    def do_GET(self) -> None:  # noqa: N802
        type(self).connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(30 if type(self).connections == 1 else 10_000):
            content = cv2.imencode(".jpg", np.full((48, 64, 3), index % 6 * 40, np.uint8))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + content + b"\r\n")
            except OSError:
                return
            threading.Event().wait(0.01)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.slow
def test_a_stream_is_opened_again_and_late_frames_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("utils.data.streams.FIRST_PAUSE", 0.1)
    monkeypatch.setattr(Camera, "connections", 0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        (tmp_path / "cams.streams").write_text(f"http://u:pw@127.0.0.1:{serving.server_port}/live\n")
        source = open_source(str(tmp_path / "cams.streams"))
        assert isinstance(source, Streams) and source.live
        frames = source.frames()
        seen = []
        while Camera.connections < 2 or len(seen) < 12:
            seen.append(next(frames))
            threading.Event().wait(0.1)  # slower than the camera
        frames.close()  # type: ignore[attr-defined]
        serving.shutdown()
    indices = [frame.index for frame in seen]
    assert indices == sorted(set(indices)) and source.dropped > 20
    assert seen[0].path == f"http://127.0.0.1:{serving.server_port}/live" and seen[0].image.shape == (48, 64, 3)
    assert "is back" in capfd.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


def test_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image, ImageGrab

    def grab(region: tuple[int, int, int, int]) -> Image.Image:
        assert region == (10, 20, 40, 60)
        return Image.new("RGBA", (30, 40), (255, 0, 0, 255))

    monkeypatch.setattr(ImageGrab, "grab", grab)
    frames = open_source("screen:10,20,30,40").frames()
    assert next(frames).image[0, 0].tolist() == [0, 0, 255] and next(frames).index == 1


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a[1].png", 9)
    assert paths(str(path)) == [str(path)]


def test_unreadable_file_is_named_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes(b"junk")
    (tmp_path / "c.mp4").write_bytes(b"junk" * 50)
    source = open_source(str(tmp_path))
    assert [Path(frame.path).name for frame in source.frames()] == ["a.png"]
    assert source.problems == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "b.png" in lines[0] and "c.mp4" in lines[1]
    assert source.length is None  # the broken video does not say


def test_nothing_readable(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(DataError, match="none of 2 files can be read"):
        list(open_source(str(tmp_path)).frames())
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        list(open_source(str(tmp_path / "a.png")).frames())


def test_nothing_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("# nothing\n")
    (tmp_path / "both.txt").write_text("rtsp://10.0.0.1/a\nb.jpg\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for source, message in (
        (str(tmp_path / "empty"), "no image or video in this folder"),
        (str(tmp_path / "gone.jpg"), "no such file or folder"),
        (str(tmp_path / "*.jpg"), "no image or video matches this pattern"),
        (str(tmp_path / "none.txt"), "expected paths or streams, one a line, got none"),
        (str(tmp_path / "both.txt"), "expected files or streams, got both"),
        (str(tmp_path / "binary.txt"), "binary.txt:1: expected text in UTF-8"),
        ("-", "-: expected paths of images or videos, got none"),
        ("screen:1,2,3", "expected screen or screen:x,y,w,h in pixels"),
        ("screen:1,2,0,3", "expected a width and a height above 0"),
        ("77", "camera 77: no such camera, or it cannot be opened"),
        ("9999", "9999: no such file or folder"),
        ("http://[bad/x.jpg", "not an address"),
        ("~nobody-of-this-name/x.jpg", "no such file or folder"),
        ("a\0b.jpg", "no such file or folder"),
    ):
        with pytest.raises(DataError, match=message.replace("(", r"\(")):
            list(open_source(source).frames())
