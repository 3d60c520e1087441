"""The web application: a page for trying the network, and `POST /predict`, described in /openapi.json.

What a request says is bytes and two numbers: no path, no address and no code in it is ever opened or run. Uploads have
a limit in bytes, which ends the reading, and one in pixels, which is checked in the header before anything is decoded.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from utils.data.frames import Frame
from utils.data.images import content_size, decode_image
from utils.draw import class_colour
from utils.errors import DataError
from utils.inference.predictor import Predictor

PAGE = Path(__file__).parent / "page"
POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
FORM = 4096  # bytes that multipart/form-data needs beside the image

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What a request may cost."""

    megabytes: float = 20
    """Of an uploaded file."""
    megapixels: float = 50
    """Of the image in it."""

    @property
    def max_bytes(self) -> int:
        """The limit in bytes."""
        return round(self.megabytes * 1e6)


class Box(BaseModel):
    """An object that was found."""

    x1: float = Field(description="Left side, in pixels of the image, as all four.")
    y1: float = Field(description="Top.")
    x2: float = Field(description="Right side.")
    y2: float = Field(description="Bottom.")
    score: float = Field(description="Objectness times class probability, 0 to 1.")
    label: int = Field(alias="class", description="Number of the class, from 0.")
    name: str = Field(description="Name of the class.")


class Prediction(BaseModel):
    """What is in an image, as detect.py writes it to detections.json, and what finding it took."""

    path: str = Field(description="The file's name, as the request gave it.")
    width: int = Field(description="Of the image, turned upright, in pixels.")
    height: int = Field(description="Of the image, turned upright, in pixels.")
    boxes: list[Box] = Field(description="Best first.")
    milliseconds: dict[str, float] = Field(description="Of each step: read, preprocess, inference, nms.")


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class Network(BaseModel):
    """The network behind this server, and what may be asked of it."""

    network: str = Field(description="The file of its weights.")
    runtime: str = Field(description="What computes it.")
    precision: str = Field(description="What it is computed in.")
    size: tuple[int, int] = Field(description="(width, height) in pixels to which images are brought.")
    names: list[str] = Field(description="Of the classes.")
    colours: list[str] = Field(description="In which the classes are drawn, #rrggbb.")
    conf: float = Field(description="Least score of a box, where a request names none.")
    iou: float = Field(description="IoU of NMS, where a request names none.")
    vote: bool = Field(description="Whether box voting follows NMS.")
    nms: tuple[float, float] | None = Field(
        description="Thresholds of an NMS inside the file: no box is below, and no request changes its IoU."
    )
    samples: int = Field(description="Number of sample images.")
    megabytes: float = Field(description="Most of an upload.")
    megapixels: float = Field(description="Most of an image.")


class BodyLimit:
    """Ends a request whose body is larger than allowed, while it is read, and says what is (FastAPI's own does not)."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = f"expected an upload of at most {(self.limit - FORM) / 1e6:g} MB"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self.limit:
            await JSONResponse({"detail": too_large}, 413)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                raise HTTPException(413, too_large)
            return message

        await self.app(scope, counted, send)


def make_app(
    predictor: Predictor,
    network: str,
    samples: Sequence[Path] = (),
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    hosts: Sequence[str] = ("127.0.0.1", "localhost", "[::1]"),
) -> FastAPI:
    """The application. `network` is how the page calls it; `hosts` are the names under which it may be addressed.

    One thread computes, one image after the other; requests wait their turn.
    """
    one = ThreadPoolExecutor(1, "network")

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        one.shutdown(wait=False, cancel_futures=True)  # requests that still wait

    app = FastAPI(
        lifespan=life,
        title="Object detection",
        description=f"Finds {', '.join(predictor.names)} in images, with {network}.",
        docs_url=None,  # its page would load code from elsewhere
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, limit=limits.max_bytes + FORM)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.exception_handler(RequestValidationError)
    async def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        says = {"value_error": "expected an uploaded file"}
        wrong = [
            f"{each['loc'][-1]}: {says.get(each['type'], each['msg'][:1].lower() + each['msg'][1:])}"
            for each in error.errors()
        ]
        return JSONResponse({"detail": "; ".join(wrong)}, 422)

    refused: dict[int | str, dict[str, Any]] = {
        400: {"model": Problem, "description": "Not an image, or not a form with one."},
        413: {"model": Problem, "description": "More bytes or pixels than allowed."},
        422: {"model": Problem, "description": "A threshold outside 0 to 1, or no image."},
        503: {"description": "Too many connections."},
    }

    @app.post("/predict", responses=refused)
    async def predict(
        image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, BMP or TIFF.")],
        conf: Annotated[float, Query(ge=0, le=1, description="Least score of a box.")] = predictor.confidence,
        iou: Annotated[float, Query(ge=0, le=1, description="IoU over which NMS drops a box.")] = predictor.iou,
    ) -> Prediction:
        """Find objects in an image."""
        content, name = await image.read(), image.filename or "image"
        asked = replace(predictor, confidence=conf, iou=iou)
        try:
            return await asyncio.get_running_loop().run_in_executor(one, look, asked, content, name, limits)
        except TooLargeError as error:
            raise HTTPException(413, str(error)) from None
        except DataError as error:
            raise HTTPException(400, str(error)) from None

    @app.get("/network")
    async def describe() -> Network:
        """What is served."""
        runtime = predictor.runtime
        return Network(
            network=network,
            runtime=runtime.kind,
            precision=runtime.precision,
            size=predictor.size,
            names=list(predictor.names),
            colours=["#{:02x}{:02x}{:02x}".format(*class_colour(index)) for index in range(len(predictor.names))],
            conf=predictor.confidence,
            iou=predictor.iou,
            vote=predictor.vote,
            nms=runtime.info.nms,
            samples=len(samples),
            megabytes=limits.megabytes,
            megapixels=limits.megapixels,
        )

    @app.get("/samples/{number}", response_class=FileResponse, responses={404: {"model": Problem}})
    async def sample(number: int) -> FileResponse:
        """A sample image, by number from 0."""
        if not 0 <= number < len(samples):
            raise HTTPException(404, f"expected a sample from 0 to {len(samples) - 1}, got {number}")
        return FileResponse(samples[number], headers=HEADERS)

    def page(name: str) -> Callable[[], Awaitable[FileResponse]]:
        async def send() -> FileResponse:
            return FileResponse(PAGE / name, headers=HEADERS)

        return send

    for address, name in (("/", "index.html"), ("/page.css", "page.css"), ("/page.js", "page.js")):
        app.get(address, include_in_schema=False)(page(name))
    return app


class TooLargeError(DataError):
    """More pixels than allowed."""


def look(predictor: Predictor, content: bytes, name: str, limits: Limits) -> Prediction:
    """Decode and detect. Raises TooLargeError, and DataError for what is no image."""
    width, height = content_size(content, name)
    if width * height > limits.megapixels * 1e6:
        raise TooLargeError(f"{name}: expected at most {limits.megapixels:g} megapixels, got {width} x {height}")
    start = time.perf_counter()
    picture = decode_image(np.frombuffer(content, np.uint8), name)
    (result,) = predictor([Frame(picture, name, read_ms=(time.perf_counter() - start) * 1000)])
    milliseconds = {step: round(spent, 2) for step, spent in result.milliseconds.items()}
    return Prediction.model_validate({**result.to_dict(), "milliseconds": milliseconds})
