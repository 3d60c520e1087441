"""Training augmentation of uint8 BGR pictures and their boxes: mosaic, affine and perspective, colour, flips, mixing.

Boxes are (N, 5) float32: class, x1, y1, x2, y2 in pixels of the picture. Objects too small to be learnt, and what is
left of those that are cut too far, have the class IGNORED: they are there, so they are no background either. Geometry
is done once: every tile of a mosaic is warped straight from its picture to its place in the result. Free of torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.letterbox import GREY

Picture = tuple[np.ndarray, np.ndarray]
"""(H, W, 3) uint8 BGR and its (N, 5) boxes."""

IGNORED = -1.0  # the class of boxes that are neither learnt nor background
MIN_SIDE = 2  # pixels of the input; thinner boxes are ignored
MIN_LEFT = 0.1  # boxes that are cut to less of their area are ignored,
MAX_ASPECT = 50  # and those that cutting makes thinner than 1 to this
HUES = 180  # OpenCV's hue circle
MAX_HIDDEN = 0.7  # the share of a box that a CutMix patch may cover before the box is dropped
MIXUP_BETA = 32.0  # mixing ratios ~ Beta(32, 32): close to one half


@dataclass(frozen=True)
class Augmentation:
    """How strongly pictures are varied. Chances are 0..1; strengths are explained where they are used."""

    mosaic: float = 1.0  # chance of four pictures in one
    mixup: float = 0.0  # chance of blending with a second such picture
    cutmix: float = 0.0  # chance of pasting a rectangle of a second such picture
    scale: float = 0.5  # size times 1-scale .. 1+scale
    translate: float = 0.1  # shift, as a share of the size
    degrees: float = 0.0  # rotation, +- degrees
    perspective: float = 0.0  # +- change of depth across the picture, as a share (0.1 is much)
    hue: float = 0.015  # +- share of the circle
    saturation: float = 0.7  # +- share
    value: float = 0.4  # +- share
    flip_lr: float = 0.5  # chance of left-right
    flip_ud: float = 0.0  # chance of upside down


def fit(picture: Picture, width: int, height: int) -> Picture:
    """Scale a picture with its boxes so that it just fits (width, height); aspect ratio kept, no bars."""
    image, boxes = picture
    ratio = min(width / image.shape[1], height / image.shape[0])
    new_width, new_height = max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio))
    scale = np.array([1, *(new_width / image.shape[1], new_height / image.shape[0]) * 2], np.float32)
    if (new_width, new_height) != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return image, boxes * scale


def arrange(pictures: Sequence[Picture], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Where each picture's top left corner lies, in pixels around (0, 0), the middle of what will be shown.

    One picture is centred. Four meet in a corner that lies up to half a picture off the middle (mosaic).
    """
    (image, _), *others = pictures
    if not others:
        return [(-image.shape[1] / 2, -image.shape[0] / 2)]
    corner_x, corner_y = rng.uniform(-0.5, 0.5, 2) * (image.shape[1], image.shape[0])
    return [
        (corner_x - (tile.shape[1] if i % 2 == 0 else 0), corner_y - (tile.shape[0] if i < 2 else 0))
        for i, (tile, _) in enumerate(pictures)
    ]


def camera(width: int, height: int, how: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """A random (3, 3) map from coordinates around (0, 0) to pixels of a (height, width) picture."""
    angle = rng.uniform(-how.degrees, how.degrees)
    scale = rng.uniform(1 - how.scale, 1 + how.scale)
    shift = rng.uniform(-how.translate, how.translate, 2) + 0.5
    matrix = np.eye(3)
    matrix[:2, :2] = cv2.getRotationMatrix2D((0, 0), angle, scale)[:, :2]
    matrix[2, :2] = rng.uniform(-how.perspective, how.perspective, 2) / (width, height)
    place = np.array([[1, 0, shift[0] * width], [0, 1, shift[1] * height], [0, 0, 1]])
    return place @ matrix


def compose(
    pictures: Sequence[Picture], width: int, height: int, how: Augmentation, rng: np.random.Generator
) -> Picture:
    """One picture, or four as a mosaic, seen by a random camera, on grey; (height, width)."""
    view = camera(width, height, how, rng)
    canvas = np.full((height, width, 3), GREY, np.uint8)
    moved = []
    for (image, boxes), (left, top) in zip(pictures, arrange(pictures, rng), strict=True):
        matrix = view @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
        warp_onto(canvas, image, matrix)
        moved.append(move_boxes(boxes, matrix, width, height))
    return canvas, np.concatenate(moved)


def warp_onto(canvas: np.ndarray, image: np.ndarray, matrix: np.ndarray) -> None:
    """Draw an image under a (3, 3) map into the canvas, in place; only the part of the canvas that it can reach."""
    height, width = canvas.shape[:2]
    corners = map_points(
        np.array([[0, 0], [image.shape[1], 0], [image.shape[1], image.shape[0]], [0, image.shape[0]]]), matrix
    )
    low = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)), 0, (width, height)).astype(int)
    if (high <= low).any():
        return
    # Pixel centres lie at half numbers: OpenCV's warp counts them as whole ones.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    shifted = np.array([[1, 0, -0.5 - low[0]], [0, 1, -0.5 - low[1]], [0, 0, 1]]) @ matrix @ half
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    part = np.ascontiguousarray(canvas[low[1] : high[1], low[0] : high[0]])
    how = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_TRANSPARENT}
    if tuple(matrix[2]) == (0, 0, 1):
        part = cv2.warpAffine(image, shifted[:2], size, part, **how)
    else:
        part = cv2.warpPerspective(image, shifted, size, part, **how)
    canvas[low[1] : high[1], low[0] : high[0]] = part


def map_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(..., 2) points under a (3, 3) map."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes under a (3, 3) map, as the upright boxes around their corners, as `clip_boxes` leaves them."""
    if not len(boxes):
        return boxes
    corners = map_points(boxes[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 4, 2), matrix)  # (N, 4, 2)
    moved = np.concatenate((boxes[:, :1], corners.min(axis=1), corners.max(axis=1)), axis=1)
    return clip_boxes(moved, width, height)


def clip_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes cut to (width, height); IGNORED where too little is left, dropped where nothing is.

    Too little is a side below 2 pixels, less than a tenth of the area, or a shape beyond 1:50 that comes of the cut.
    """
    low, high = (np.clip(boxes[:, first : first + 2], 0, (width, height)) for first in (1, 3))
    side, whole = high - low, boxes[:, 3:5] - boxes[:, 1:3]
    area_left = side.prod(axis=1) / np.maximum(whole.prod(axis=1), 1e-9)
    thin, thin_before = (each.max(axis=1) / np.maximum(each.min(axis=1), 1e-9) for each in (side, whole))
    shaped = thin < np.maximum(MAX_ASPECT, thin_before * 1.001)
    learnt = (side.min(axis=1) >= MIN_SIDE) & (area_left > MIN_LEFT) & shaped
    label = np.where(learnt, boxes[:, 0], IGNORED)
    shown = side.min(axis=1) > 0
    return np.concatenate((label[:, None], low, high), axis=1)[shown].astype(np.float32)


def colour(image: np.ndarray, how: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) BGR with the hue turned by a share of the circle, random gains of saturation and value."""
    if how.hue == how.saturation == how.value == 0:
        return image
    turn, *gains = rng.uniform(-1, 1, 3) * (how.hue, how.saturation, how.value)
    levels = np.arange(256)
    scaled = [np.clip(levels * (1 + gain), 0, 255) for gain in gains]
    tables = ((levels + round(turn * HUES)) % HUES, *scaled)
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    changed = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR)


def flip(picture: Picture, left_right: bool, up_down: bool) -> Picture:
    """Mirrored left-right, upside down, both or neither."""
    image, boxes = picture
    if not (left_right or up_down):
        return picture
    image = cv2.flip(image, -1 if left_right and up_down else int(left_right))
    boxes = boxes.copy()
    if left_right:
        boxes[:, [1, 3]] = image.shape[1] - boxes[:, [3, 1]]
    if up_down:
        boxes[:, [2, 4]] = image.shape[0] - boxes[:, [4, 2]]
    return image, boxes


def mixup(a: Picture, b: Picture, rng: np.random.Generator) -> Picture:
    """Two pictures of one size blended, with the boxes of both (Zhang et al., ICLR 2018)."""
    ratio = rng.beta(MIXUP_BETA, MIXUP_BETA)
    return cv2.addWeighted(a[0], ratio, b[0], 1 - ratio, 0), np.concatenate((a[1], b[1]))


def cutmix(a: Picture, b: Picture, rng: np.random.Generator) -> Picture:
    """A random rectangle of b in place of a's (Yun et al., ICCV 2019); covered boxes of a go, b's are cut to it."""
    image = a[0].copy()
    height, width = image.shape[:2]
    share = math.sqrt(rng.uniform(0.1, 0.5))  # of each side
    cut_width, cut_height = max(1, int(width * share)), max(1, int(height * share))
    x, y = int(rng.integers(width - cut_width + 1)), int(rng.integers(height - cut_height + 1))
    image[y : y + cut_height, x : x + cut_width] = b[0][y : y + cut_height, x : x + cut_width]
    low, high = np.array([x, y]), np.array([x + cut_width, y + cut_height])
    covered = (np.minimum(a[1][:, 3:5], high) - np.maximum(a[1][:, 1:3], low)).clip(0).prod(axis=1)
    stay = covered < MAX_HIDDEN * (a[1][:, 3:5] - a[1][:, 1:3]).prod(axis=1)
    offset = np.array([0, x, y, x, y], np.float32)
    pasted = clip_boxes(b[1] - offset, cut_width, cut_height) + offset
    return image, np.concatenate((a[1][stay], pasted)).astype(np.float32)
