"""A window that shows pictures, where there is a display."""

import os
import sys

import cv2
import numpy as np

from utils.errors import InputError

TITLE = "detections"
LARGEST = 1600, 900  # pixels; larger pictures are shown smaller
END_KEYS = {ord("q"), 27}  # q, Esc


class Window:
    """Opens with the first picture. Raises InputError where there is no display."""

    def __init__(self) -> None:
        headless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        if headless:
            raise InputError("--view-img: expected a display; there is none here")

    def show(self, picture: np.ndarray, wait: bool) -> bool:
        """Show an (H, W, 3) BGR picture, with `wait` until a key is pressed; False for the keys that end it all."""
        ratio = min(LARGEST[0] / picture.shape[1], LARGEST[1] / picture.shape[0], 1.0)
        if ratio < 1:
            picture = cv2.resize(picture, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        cv2.imshow(TITLE, picture)
        key = cv2.waitKey(1)
        while wait and key < 0 and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) > 0:
            key = cv2.waitKey(50)  # with a limit, so that Ctrl-C is heard
        return key < 0 or key & 0xFF not in END_KEYS

    def close(self) -> None:
        """Close it."""
        cv2.destroyAllWindows()
