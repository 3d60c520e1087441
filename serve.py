"""Try a network in the browser, or ask it over HTTP: `python serve.py --weights runs/train/exp/best.pt`."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detect import Detector
from utils.data.datafile import load_data
from utils.data.labels import spread
from utils.errors import InputError
from utils.log import say
from utils.options import OnOff, run_command
from utils.precision import ComputePrecision
from utils.runtimes.runtime import need

SAMPLES = 8  # pictures that the page offers
SHOWN_BY_BROWSERS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
LAST_SECONDS = 3  # that requests have to end when the server does
INSTALL = "pip install -r requirements-serve.txt"
MOST_MEGABYTES = 1000
MOST_MEGAPIXELS = 170  # Pillow refuses a little more
WAITING = 64  # connections; more are told to come again (status 503)


@dataclass(frozen=True)
class ServeOptions:
    """Options of serve.py."""

    weights: str
    """Weights, .weights or .pt, or a network that export.py wrote; a bare name is found in weights/."""
    cfg: str | None = None
    """Network, a Darknet .cfg (default: the one inside the .pt)."""
    names: str | None = None
    """File with class names, one a line."""
    data: str | None = None
    """Data set whose class names are shown and whose validation images are offered as samples (default: the embedded
    shapes)."""
    conf: float = 0.25
    """Least score of a box, where a request names none."""
    iou: float = 0.45
    """IoU over which NMS takes two boxes for the same object, where a request names none."""
    vote: OnOff = True
    """Box voting: each box that NMS keeps becomes the score-weighted mean of those that overlap it (off: NMS alone)."""
    img_size: str | int | None = None
    """Input size in pixels, N or W,H (default: the cfg's)."""
    stretch: bool = False
    """Stretch images to the network's size, as Darknet does by default, instead of letterboxing."""
    precision: ComputePrecision = "auto"
    """Compute in f32 or bf16; auto: float32, or with OpenVINO bfloat16 where export.py found it near enough."""
    half: bool = False
    """Compute in bfloat16 or float16, where the device has it natively."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """Threads that compute the network on a CPU (default: one for each core)."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    max_megabytes: float = 20
    """Largest file that is taken."""
    max_megapixels: float = 50
    """Largest image that is taken."""


def serve(options: ServeOptions) -> None:
    """Answer until Ctrl-C. Raises InputError for bad input, before anything is answered."""
    for module in ("uvicorn", "fastapi", "python_multipart"):
        need(module, "serve.py", INSTALL)
    from utils.serving.app import Limits, make_app

    for flag, value, most in (
        ("--max-megabytes", options.max_megabytes, MOST_MEGABYTES),
        ("--max-megapixels", options.max_megapixels, MOST_MEGAPIXELS),
    ):
        if not 0 < value <= most:
            raise InputError(f"{flag} {value:g}: expected more than 0, and at most {most}")
    detector = Detector(
        options.cfg,
        options.weights,
        names=options.names,
        data=options.data,
        conf=options.conf,
        iou=options.iou,
        vote=options.vote,
        img_size=options.img_size,
        stretch=options.stretch,
        precision=options.precision,
        half=options.half,
        device=options.device,
        threads=options.threads,
    )
    width, height = detector.predictor.size
    detector(np.zeros((height, width, 3), np.uint8))  # the first run is slow; nobody waits for it
    limits = Limits(options.max_megabytes, options.max_megapixels)
    with listen(options.host, options.port) as sock:
        samples = sample_images(options.data or "shapes.data")
        host, port = sock.getsockname()[:2]
        open_to_all = not host.startswith("127.") and host != "::1"
        hosts = ["*"] if open_to_all else [host, "localhost", "127.0.0.1", "[::1]"]
        app = make_app(detector.predictor, Path(options.weights).name, samples, limits, hosts)
        whom = "for every machine that reaches this one" if open_to_all else "for this machine alone"
        runtime = detector.predictor.runtime
        say(f"{options.weights}: {runtime.kind} in {runtime.precision}")
        say(f"open http://{f'[{host}]' if ':' in host else host}:{port} in a browser ({whom}); Ctrl-C ends it")
        make_server(app).run(sockets=[sock])


def make_server(app: Any) -> Any:
    """A uvicorn.Server for the application, with limits on connections and on the time that its end takes."""
    uvicorn = need("uvicorn", "serve.py", INSTALL)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            limit_concurrency=WAITING,
            timeout_graceful_shutdown=LAST_SECONDS,
            server_header=False,
        )
    )


def sample_images(data: str) -> Sequence[Path]:
    """Validation images that browsers show, spread over all of them. Raises DataError."""
    spec = load_data(data)
    return spread([path for path in map(Path, spec.valid) if path.suffix.lower() in SHOWN_BY_BROWSERS], SAMPLES)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises InputError for an address that cannot be had."""
    if not 0 <= port < 65536:
        raise InputError(f"--port {port}: expected 0 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {(error.strerror or str(error)).lower()}") from None


if __name__ == "__main__":
    run_command(serve, ServeOptions, "Try a network in the browser, or ask it over HTTP.")
