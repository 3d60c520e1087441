"""How an image of any size sits in the network's input: letterboxed (grey bars) or stretched, and the way back.

This is the only place that knows the geometry; training, validation and inference all use it. Free of torch.
"""

from dataclasses import dataclass

import cv2
import numpy as np

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of R, G, B in 0..1: classifiers see (image - mean) / std, detectors the image."""
GREY = 114  # the fill that PyTorch YOLOs share; Darknet's own letterbox fills with 127.5


@dataclass(frozen=True)
class Placement:
    """An affine map per axis: network pixel = image pixel * scale + offset. All in pixels."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    image_width: int
    image_height: int

    def to_network(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Image-pixel boxes (N, 4) -> network-pixel boxes (N, 4), float32."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        return boxes_xyxy * scale + offset

    def to_image(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Network-pixel boxes (N, 4) -> image-pixel boxes (N, 4), clipped to the image, float32."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        boxes = (boxes_xyxy - offset) / scale
        return np.clip(boxes, 0, np.array([self.image_width, self.image_height] * 2, np.float32))


def letterbox(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, Placement]:
    """Scale an (h, w, 3) uint8 image to fit (height, width), centred on grey; aspect ratio kept.

    Returns the (height, width, 3) uint8 picture and its `Placement`.
    """
    image_height, image_width = image.shape[:2]
    ratio = min(width / image_width, height / image_height)
    new_width, new_height = max(1, round(image_width * ratio)), max(1, round(image_height * ratio))
    if (new_width, new_height) != (image_width, image_height):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    canvas = np.full((height, width, 3), GREY, np.uint8)
    canvas[top : top + new_height, left : left + new_width] = image
    scale_x, scale_y = new_width / image_width, new_height / image_height
    return canvas, Placement(scale_x, scale_y, left, top, image_width, image_height)


def stretch(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, Placement]:
    """Resize to (height, width) as Darknet does: bilinear, corners aligned, aspect ratio lost.

    Source: darknet src/image.c, resize_image. Returns float32 in 0..255, unrounded as in Darknet, and its `Placement`.
    """
    image_height, image_width = image.shape[:2]
    pixels = image.astype(np.float32)
    pixels = _blend(pixels, width, axis=1)
    pixels = _blend(pixels, height, axis=0)
    placement = Placement(width / image_width, height / image_height, 0.0, 0.0, image_width, image_height)
    return pixels, placement


def _blend(pixels: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis, first and last samples kept."""
    length = pixels.shape[axis]
    position = np.linspace(0, length - 1, size, dtype=np.float32)
    low = np.minimum(position.astype(np.int64), max(length - 2, 0))
    high = np.minimum(low + 1, length - 1)
    shape = [1] * pixels.ndim
    shape[axis] = size
    weight = (position - low).astype(np.float32).reshape(shape)
    return pixels.take(low, axis) * (1 - weight) + pixels.take(high, axis) * weight


def to_rgb(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) BGR -> RGB of the same type, contiguous."""
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, 3) BGR -> what a network of 3 or 1 input channels takes: (H, W, 3) RGB or (H, W, 1) grey, same type.

    Grey is OpenCV's .299 R + .587 G + .114 B, as Darknet reads images where [net] says channels=1.
    """
    return to_rgb(image) if channels == 3 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]


def to_bgr(image: np.ndarray) -> np.ndarray:
    """What `to_channels` made, (H, W, 3) RGB or (H, W, 1) grey -> (H, W, 3) BGR, to be drawn on."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_GRAY2BGR)


def to_input(image: np.ndarray, channels: int = 3) -> np.ndarray:
    """(H, W, 3) BGR in 0..255 -> (channels, H, W) RGB or grey, float32 in 0..1, contiguous."""
    return np.ascontiguousarray(to_channels(image, channels).transpose(2, 0, 1), dtype=np.float32) / 255
