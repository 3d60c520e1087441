"""What bounds the server: who may load the page's parts, how many may come, how long its end takes, what it leaves."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import serve
from utils.inference.predictor import Predictor
from utils.runtimes.runtime import NetworkInfo, Runtime
from utils.serving.app import make_app

HALF = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
)
PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


class Blank(Runtime):
    """Sees nothing."""

    kind = "blank"

    def run(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 1, 6), np.float32)


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    (tmp_path / "sample.png").write_bytes(PNG)
    predictor = Predictor(Blank(NetworkInfo(("a",), (32, 32), 32, ())), ("a",), (32, 32))
    return make_app(predictor, "x.pt", [tmp_path / "sample.png"], hosts=["*"])


def test_the_page_loads_nothing_from_elsewhere(app: FastAPI) -> None:
    client = TestClient(app)
    for address in ("/", "/page.css", "/page.js", "/samples/0"):
        answer = client.get(address)
        assert answer.status_code == 200
        policy = dict(part.split(maxsplit=1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
        assert policy["img-src"].split() == ["'self'", "blob:", "data:"]
        assert not any("unsafe" in sources or "*" in sources for sources in policy.values())
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_thread_that_computes_ends_with_the_server(app: FastAPI) -> None:
    def workers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("network")]

    assert not workers()
    with TestClient(app) as client:
        assert client.post("/predict", files={"image": ("a.png", PNG)}).status_code == 200
        (worker,) = workers()
    worker.join(5)
    assert not worker.is_alive()


@pytest.fixture
def server(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[tuple[str, int], Callable[[], bool]]]:
    """The address of a server for fewer than four connections, and what ends it: whether it does within 3 seconds."""
    monkeypatch.setattr(serve, "WAITING", 4)
    monkeypatch.setattr(serve, "LAST_SECONDS", 0.3)
    with serve.listen("127.0.0.1", 0) as sock:
        running = serve.make_server(app)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.01)

        def end() -> bool:
            running.should_exit = True
            thread.join(3)
            return not thread.is_alive()

        yield sock.getsockname(), end
        running.force_exit = True
        end()


def test_too_many_connections_are_told_to_come_again(server: tuple[tuple[str, int], Callable[[], bool]]) -> None:
    address, end = server
    url = f"http://{address[0]}:{address[1]}/network"
    assert httpx.get(url).status_code == 200
    idle = [socket.create_connection(address) for _ in range(4)]
    assert httpx.get(url).status_code == 503
    for each in idle:
        each.close()
    deadline = time.monotonic() + 5
    while httpx.get(url).status_code != 200:
        assert time.monotonic() < deadline
    assert end()


def test_a_request_that_hangs_does_not_keep_the_server(server: tuple[tuple[str, int], Callable[[], bool]]) -> None:
    address, end = server
    with socket.create_connection(address) as hanging:
        hanging.sendall(HALF)
        hanging.settimeout(0.2)
        with pytest.raises(TimeoutError):  # no answer: it waits for the rest
            hanging.recv(1)
        assert end()
