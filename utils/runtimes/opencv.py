"""Darknet .cfg and .weights in OpenCV's own importer, on the CPU: no other package is needed."""

import threading
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from utils.errors import InputError
from utils.runtimes.runtime import NetworkInfo, Runtime, planes

LEAST = 0.00001  # score below which OpenCV gives 0; its own default, 0.2, is for demos


class OpenCv(Runtime):
    """NAME.cfg with NAME.weights beside it and its metadata in NAME.json, as export.py wrote them.

    Raises InputError for one that cannot be loaded.
    """

    kind: ClassVar[str] = "OpenCV DNN"

    def __init__(self, cfg: Path, threads: int | None = None) -> None:
        weights, metadata = cfg.with_suffix(".weights"), cfg.with_suffix(".json")
        for file in (weights, metadata):
            if not file.is_file():
                raise InputError(f"{cfg}: expected {file.name} beside it, which export.py writes")
        if not hasattr(cv2.dnn, "readNetFromDarknet"):
            raise InputError(f"{cfg}: expected OpenCV 4, this is {cv2.__version__}, which cannot read Darknet's files")
        if threads is not None:
            cv2.setNumThreads(threads)
        info = NetworkInfo.of_file(metadata)
        try:
            written = cfg.read_text(encoding="utf-8", errors="replace")  # comments may be in any encoding
            self.normalises = "batch_normalize=1" in written  # by itself, with another epsilon
            text = written.replace("[yolo]", f"[yolo]\nthresh={LEAST}")
            self.net = cv2.dnn.readNetFromDarknet(
                np.frombuffer(text.encode(), np.uint8), np.fromfile(weights, np.uint8)
            )
        except cv2.error as error:
            raise InputError(f"{cfg}: cannot be loaded by OpenCV ({' '.join(str(error).split())})") from None
        self.outputs = self.net.getUnconnectedOutLayersNames()
        if len(self.outputs) != len(info.anchors):
            raise InputError(f"{metadata}: expected anchors of {len(self.outputs)} heads, got {len(info.anchors)}")
        self.lock = threading.Lock()  # the network holds its input and maps
        super().__init__(info)

    def run(self, images: np.ndarray) -> np.ndarray:
        """One pass. Its heads give boxes as shares of the input, and scores instead of class probabilities."""
        height, width = images.shape[1:3]
        batch, heads = planes(images), []
        try:
            with self.lock:
                self.net.setInput(batch)
                maps = self.net.forward(self.outputs)
        except cv2.error as error:
            raise InputError(f"OpenCV could not compute the network ({' '.join(str(error).split())})") from None
        for head, anchors in zip(maps, self.info.anchors, strict=True):
            cells = head.reshape(len(images), -1, len(anchors), head.shape[-1])  # (B, H*W, A, 5+C)
            heads.append(cells.transpose(0, 2, 1, 3).reshape(len(images), -1, head.shape[-1]))
        predictions = np.concatenate(heads, axis=1)
        predictions[..., :4] *= np.array([width, height, width, height], np.float32)
        np.divide(
            predictions[..., 5:], predictions[..., 4:5], out=predictions[..., 5:], where=predictions[..., 4:5] > 0
        )
        return predictions
