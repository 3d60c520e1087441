"""serve.py as its users meet it: over HTTP, in a browser, and many at once."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from detect import DetectOptions, detect
from models import load_model, save_weights
from tests.commands import assert_refused, run
from tests.conftest import PROJECT, randomise
from utils.data.images import EXIF_ORIENTATION

CLIENTS, SECONDS = 8, 5
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
START = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
CAMERA = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that sees something everywhere."""
    model = load_model(data / "x.cfg", num_classes=3)
    randomise(model)
    path = tmp_path_factory.mktemp("served") / "best.pt"
    save_weights(model, path)
    return path


@pytest.fixture(scope="module")
def server(data: Path, weights: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running serve.py: its address and its process. It ends by Ctrl-C with exit code 130."""
    command = [sys.executable, str(PROJECT / "serve.py"), "--weights", str(weights), "--port", "0"]
    command += ["--data", "s.data", "--conf", "0.3", "--max-megabytes", "1", "--max-megapixels", "1"]

    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background jobs deaf to it

    process = subprocess.Popen(
        command, cwd=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    assert process.stdout is not None
    precision, address = process.stdout.readline(), process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", address)
    if found is None or precision != f"{weights}: PyTorch in float32\n":
        process.kill()
        pytest.fail(precision + address + process.communicate()[1])
    yield found[0], process
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors, errors


@pytest.fixture(scope="module")
def picture(data: Path) -> Path:
    return sorted((data / "shapes" / "images" / "valid").iterdir())[0]


def post(server: tuple[str, subprocess.Popen[str]], content: bytes, **query: object) -> httpx.Response:
    return httpx.post(f"{server[0]}/predict", files={"image": ("photo.jpg", content)}, params=query, timeout=30)


def test_predict_gives_what_detect_finds(
    server: tuple[str, subprocess.Popen[str]], data: Path, weights: Path, picture: Path
) -> None:
    for confidence, iou in ((0.3, 0.45), (0.1, 0.9)):
        answer = post(server, picture.read_bytes(), conf=confidence, iou=iou)
        assert answer.status_code == 200
        (own,) = detect(DetectOptions(str(weights), str(picture), data=str(data / "s.data"), conf=confidence, iou=iou))
        said, expected = answer.json(), own.to_dict()
        assert len(said["boxes"]) == len(expected["boxes"]) > 0
        for box, other in zip(said["boxes"], expected["boxes"], strict=True):
            assert box == pytest.approx(other, abs=0.02)
        assert (said["width"], said["height"], said["path"]) == (96, 96, "photo.jpg")
        assert set(said["milliseconds"]) == {"read", "preprocess", "inference", "nms"}


def png(width: int, height: int) -> bytes:
    """A PNG whose header says so; there are no pixels behind it."""
    sizes = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    chunks = [(b"IHDR", sizes), (b"IDAT", b""), (b"IEND", b"")]
    whole = [len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def turned(text: bytes) -> bytes:
    """A JPEG whose EXIF orientation is a text of four characters, where it should be a number."""
    entry = EXIF_ORIENTATION.to_bytes(2, "little") + bytes([2, 0, 4, 0, 0, 0]) + text  # 2: text, of 4 characters
    file = io.BytesIO()
    exif = b"Exif\0\0II*\0" + bytes([8, 0, 0, 0, 1, 0]) + entry + bytes(4)
    Image.new("RGB", (32, 16)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_bad_requests_are_told_why(server: tuple[str, subprocess.Popen[str]], picture: Path) -> None:
    address, whole = server[0], picture.read_bytes()
    cases = [
        (post(server, b"no image"), 400, "photo.jpg: not an image, or a damaged one"),
        (post(server, b""), 400, "photo.jpg: not an image"),
        (post(server, whole[:300]), 400, "photo.jpg: not an image, or a damaged one"),
        (post(server, png(1001, 1000)), 413, "photo.jpg: expected at most 1 megapixels, got 1001 x 1000"),
        (post(server, png(60000, 60000)), 400, "photo.jpg: far more pixels than a photo has"),
        (post(server, turned(b"abc\0")), 200, ""),
        (post(server, bytes(1_010_000)), 413, "expected an upload of at most 1 MB"),
        (post(server, whole, conf=1.5), 422, "conf: input should be less than or equal to 1"),
        (post(server, whole, iou="nan"), 422, "iou: input should be"),
        (post(server, whole, conf="much"), 422, "conf: input should be a valid number"),
        (httpx.post(f"{address}/predict", content=whole), 422, "image: field required"),
        (httpx.post(f"{address}/predict", data={"image": "/etc/passwd"}), 422, "image: "),
        (httpx.post(f"{address}/predict", data={"image": f"{address}/samples/0"}), 422, "image: "),
        (
            httpx.post(f"{address}/predict", content=iter([START, *[bytes(70_000)] * 20]), headers=FORM),
            413,
            "at most 1 MB",
        ),
        (httpx.get(f"{address}/samples/8"), 404, "expected a sample from 0 to 7, got 8"),
        (httpx.get(f"{address}/samples/-1"), 404, "expected a sample from 0 to 7, got -1"),
        (httpx.get(f"{address}/samples/..%2F..%2Fs.data"), 404, "Not Found"),
        (httpx.get(f"{address}/predict"), 405, "Method Not Allowed"),
    ]
    for number, (answer, status, detail) in enumerate(cases):
        assert answer.status_code == status and detail in answer.json().get("detail", ""), (number, answer.text)
    assert httpx.get(address, headers={"Host": "elsewhere.example"}).status_code == 400
    assert post(server, whole).status_code == 200  # and it goes on


def test_openapi_describes_what_is_answered(server: tuple[str, subprocess.Popen[str]], picture: Path) -> None:
    described = httpx.get(f"{server[0]}/openapi.json").json()
    assert set(described["paths"]) == {"/predict", "/network", "/samples/{number}"}
    post_of = described["paths"]["/predict"]["post"]
    assert set(post_of["responses"]) == {"200", "400", "413", "422", "503"}
    assert [each["name"] for each in post_of["parameters"]] == ["conf", "iou"]
    schemas = described["components"]["schemas"]
    said = post(server, picture.read_bytes()).json()
    assert set(said) == set(schemas["Prediction"]["required"])
    assert set(said["boxes"][0]) == set(schemas["Box"]["required"])
    network = httpx.get(f"{server[0]}/network").json()
    assert set(network) == set(schemas["Network"]["required"])
    assert (network["conf"], network["iou"], network["vote"]) == (0.3, 0.45, True)


def test_many_at_once_lose_nothing_and_memory_stays(server: tuple[str, subprocess.Popen[str]], picture: Path) -> None:
    process, content = psutil.Process(server[1].pid), picture.read_bytes()
    expected = post(server, content).json()["boxes"]
    answers: list[bool] = []
    end = time.monotonic() + SECONDS

    def client() -> None:
        with httpx.Client(timeout=30) as connection:
            while time.monotonic() < end:
                answer = connection.post(f"{server[0]}/predict", files={"image": ("photo.jpg", content)})
                answers.append(answer.status_code == 200 and answer.json()["boxes"] == expected)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS / 3)
    early = process.memory_info().rss
    for thread in threads:
        thread.join()
    assert len(answers) > 5 * CLIENTS and all(answers)
    assert process.memory_info().rss - early < 20e6


def pick(page: Page, name: str, value: float) -> None:
    """Move a slider, as fingers do."""
    page.locator(f"#{name}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value
    )


def test_page_in_a_browser(server: tuple[str, subprocess.Popen[str]], picture: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=f"{QUIET} {CAMERA}".split())
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(server[0])
        page.wait_for_selector("#samples img")
        assert "best.pt" in page.inner_text("h1") and "circle, square, triangle" in page.inner_text("#about")
        assert page.locator("#samples img").count() == 8

        page.set_input_files("#file", picture)
        page.wait_for_selector("#download:enabled")
        expected = post(server, picture.read_bytes()).json()["boxes"]
        assert page.locator("#boxes tr").count() == len(expected) > 0
        assert sum(int(count) for count in page.locator("#counts b").all_inner_texts()) == len(expected)
        with page.expect_download() as saved:
            page.click("#download")
        saved.value.save_as(tmp_path / "page.json")
        assert json.loads((tmp_path / "page.json").read_text())["boxes"] == expected
        assert saved.value.suggested_filename == f"{picture.stem}.json"

        pick(page, "conf", 0.99)
        expect(page.locator("#boxes tr")).to_have_count(0)
        assert page.inner_text("#counts") == "nothing"
        pick(page, "conf", 0.01)
        expect(page.locator("#boxes tr").nth(len(expected))).to_be_attached()

        with page.expect_response(re.compile("/predict")):
            page.locator("#samples button").nth(3).click()
        expect(page.locator("#picture")).to_have_attribute("width", "96")
        assert page.evaluate("new Set(pen.getImageData(0, 0, 96, 96).data).size") > 20  # it is drawn

        content = list(picture.read_bytes())
        transfer = page.evaluate_handle(
            "bytes => { const it = new DataTransfer(); it.items.add(new File([new Uint8Array(bytes)], 'other.jpg',"
            " { type: 'image/jpeg' })); return it; }",
            content,
        )
        with page.expect_response(re.compile("/predict")) as dropped:
            page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
        assert dropped.value.json()["path"] == "other.jpg"
        with page.expect_response(re.compile("/predict")):
            page.evaluate("it => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: it }))", transfer)

        page.click("#camera")
        expect(page.locator("#picture")).not_to_have_attribute("width", "96")
        for value in (0.02, 0.01, 0.02, 0.01):  # a moved slider does not stop what the camera shows
            pick(page, "conf", value)
            with page.expect_response(re.compile("conf=0.0")):
                pass
        with page.expect_response(re.compile("/predict")) as seen:
            pass
        assert seen.value.json()["path"] == "camera.jpg" and page.get_attribute("#camera", "aria-pressed") == "true"
        page.click("#camera")
        assert page.get_attribute("#camera", "aria-pressed") == "false"

        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
        page.wait_for_selector("#message:visible")
        assert page.inner_text("#message") == "x.png: not an image that this browser can show"
        page.set_input_files("#file", {"name": "big.png", "mimeType": "image/png", "buffer": bytes(1_100_000)})
        expect(page.locator("#message")).to_contain_text("at most 1 MB")
        assert wrong == []
        browser.close()


def test_bad_input(data: Path, weights: Path, tmp_path: Path) -> None:
    good = str(data / "s.data")
    cases = [
        (["--weights", tmp_path / "no.pt"], "no.pt: no such file"),
        (["--weights", weights, "--port", "70000"], "--port 70000: expected 0 to 65535"),
        (["--weights", weights, "--data", good, "--host", "203.0.113.1"], "--host 203.0.113.1 --port 8000: "),
        (["--weights", weights, "--conf", "2"], "--conf 2.0: expected 0 to 1"),
        (["--weights", weights, "--max-megabytes", "0"], "--max-megabytes 0: expected more than 0, and at most 1000"),
        (
            ["--weights", weights, "--max-megapixels", "nan"],
            "--max-megapixels nan: expected more than 0, and at most 170",
        ),
    ]
    for arguments, message in cases:
        assert_refused(run("serve.py", *arguments, folder=tmp_path), message, tmp_path)
