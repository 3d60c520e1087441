"""Networks for `torch.hub.load(REPOSITORY, NAME, source="local")`: one for each shipped cfg, and `custom`.

    model = torch.hub.load(".", "custom", "runs/train/exp/best.pt", source="local")
    model("photo.jpg")[0].boxes_xyxy_px

A model takes a path, a URL, a PIL image, an (H, W, 3) uint8 array in BGR as OpenCV reads it, or a list of those, and
gives a list of Results, one for each picture (of a video, one for each frame).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detect import Detector

dependencies = ["cv2", "matplotlib", "numpy", "PIL", "torch", "torchvision", "tqdm", "tyro", "yaml"]

CFG = Path(__file__).resolve().parent / "cfg"


def custom(weights: str, cfg: str | None = None, **options: Any) -> "Detector":
    """Any weights, .pt or .weights (these with their cfg). `options` are DetectOptions' fields, such as conf=0.4."""
    from detect import Detector

    return Detector(cfg, weights, **options)


def _entry(cfg: Path) -> "Callable[..., Detector]":
    def build(weights: str | None = None, **options: Any) -> "Detector":
        from detect import Detector

        return Detector(str(cfg), weights, **options)

    build.__name__ = build.__qualname__ = cfg.stem.replace("-", "_")
    build.__doc__ = (
        f"{cfg.name} with these weights, .pt or .weights; without them it is untrained. "
        "`options` are DetectOptions' fields, such as conf=0.4."
    )
    return build


for _cfg in sorted(CFG.glob("*.cfg")):
    globals()[_cfg.stem.replace("-", "_")] = _entry(_cfg)
