"""Training augmentation: mosaic, affine, HSV and flip, on uint8 BGR pictures and their boxes.

Boxes are (N, 5) float32: class, x1, y1, x2, y2 in pixels of the picture. Free of torch.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from utils.letterbox import GREY


@dataclass(frozen=True)
class Augmentation:
    """How strongly pictures are varied; the values are those of the PyTorch YOLO lineage."""

    scale: float = 0.5  # size times 1-scale .. 1+scale
    translate: float = 0.1  # shift, as a share of the size
    degrees: float = 0.0  # rotation, +- degrees
    hue: float = 0.015  # +- share of the circle
    saturation: float = 0.7  # +- share
    value: float = 0.4  # +- share
    flip: float = 0.5  # chance of left-right


Picture = tuple[np.ndarray, np.ndarray]
"""(H, W, 3) uint8 BGR and its (N, 5) boxes."""


def fit(picture: Picture, width: int, height: int) -> Picture:
    """Scale a picture with its boxes so that it just fits (width, height); aspect ratio kept, no bars."""
    image, boxes = picture
    ratio = min(width / image.shape[1], height / image.shape[0])
    new_width, new_height = max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio))
    scale = np.array([1, *(new_width / image.shape[1], new_height / image.shape[0]) * 2], np.float32)
    if (new_width, new_height) != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return image, boxes * scale


def mosaic(pictures: list[Picture], width: int, height: int, rng: np.random.Generator) -> Picture:
    """Four pictures of at most (height, width) around a random centre of a (2*height, 2*width) canvas."""
    canvas = np.full((2 * height, 2 * width, 3), GREY, np.uint8)
    centre_x = int(rng.uniform(0.5, 1.5) * width)
    centre_y = int(rng.uniform(0.5, 1.5) * height)
    moved = []
    for position, (image, boxes) in enumerate(pictures):
        image_height, image_width = image.shape[:2]
        left = centre_x - image_width if position % 2 == 0 else centre_x
        top = centre_y - image_height if position < 2 else centre_y
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + image_width, 2 * width), min(top + image_height, 2 * height)
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
        boxes = boxes + np.array([0, left, top, left, top], np.float32)
        boxes[:, 1::2] = boxes[:, 1::2].clip(x1, x2)
        boxes[:, 2::2] = boxes[:, 2::2].clip(y1, y2)
        moved.append(boxes)
    return canvas, np.concatenate(moved)


def affine(picture: Picture, width: int, height: int, how: Augmentation, rng: np.random.Generator) -> Picture:
    """Rotate, scale and shift the picture about its centre onto a (height, width) one; cut-off boxes are dropped."""
    image, boxes = picture
    image_height, image_width = image.shape[:2]
    angle = rng.uniform(-how.degrees, how.degrees)
    scale = rng.uniform(1 - how.scale, 1 + how.scale)
    matrix = cv2.getRotationMatrix2D((image_width / 2, image_height / 2), angle, scale)  # (2, 3)
    matrix[0, 2] += width * (0.5 + rng.uniform(-how.translate, how.translate)) - image_width / 2
    matrix[1, 2] += height * (0.5 + rng.uniform(-how.translate, how.translate)) - image_height / 2
    image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(GREY,) * 3)
    return image, move_boxes(boxes, matrix, scale, width, height)


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, scale: float, width: int, height: int) -> np.ndarray:
    """Boxes under a (2, 3) affine matrix, clipped to (width, height).

    Dropped: those left with less than 2 pixels a side, a tenth of their (scaled) area, or a shape beyond 1:50.
    """
    if not len(boxes):
        return boxes
    corners = boxes[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 4, 2)  # (N, 4, 2)
    corners = corners @ matrix[:, :2].T + matrix[:, 2]
    low = np.clip(corners.min(axis=1), 0, (width, height))
    high = np.clip(corners.max(axis=1), 0, (width, height))
    side = high - low
    before = (boxes[:, 3:5] - boxes[:, 1:3]) * scale
    area_left = side.prod(axis=1) / np.maximum(before.prod(axis=1), 1e-9)
    aspect = side.max(axis=1) / np.maximum(side.min(axis=1), 1e-9)
    keep = (side.min(axis=1) > 2) & (area_left > 0.1) & (aspect < 50)
    return np.concatenate((boxes[:, :1], low, high), axis=1)[keep].astype(np.float32)


def hsv(image: np.ndarray, how: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Random gains of hue, saturation and value."""
    gains = 1 + rng.uniform(-1, 1, 3) * (how.hue, how.saturation, how.value)
    levels = np.arange(256)
    tables = (
        ((levels * gains[0]) % 180).astype(np.uint8),
        np.clip(levels * gains[1], 0, 255).astype(np.uint8),
        np.clip(levels * gains[2], 0, 255).astype(np.uint8),
    )
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    changed = [cv2.LUT(plane, table) for plane, table in zip(planes, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR)


def flip(picture: Picture) -> Picture:
    """Left-right."""
    image, boxes = picture
    mirrored = boxes.copy()
    mirrored[:, [1, 3]] = image.shape[1] - boxes[:, [3, 1]]
    return np.ascontiguousarray(image[:, ::-1]), mirrored


def vary(picture: Picture, width: int, height: int, how: Augmentation, rng: np.random.Generator) -> Picture:
    """Affine, HSV and flip of a picture, onto (height, width)."""
    image, boxes = affine(picture, width, height, how, rng)
    image = hsv(image, how, rng)
    return flip((image, boxes)) if rng.random() < how.flip else (image, boxes)
