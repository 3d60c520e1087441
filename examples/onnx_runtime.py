"""The boxes of a photo, by ONNX Runtime and OpenCV alone: `python examples/onnx_runtime.py best.onnx photo.jpg`.

For a file that export.py wrote with --nms; nothing of this project is imported.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

if len(sys.argv) != 3:
    sys.exit(__doc__)
network = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
known = json.loads(network.get_modelmeta().custom_metadata_map["metadata.json"])
(width, height), names = known["size"], known["names"]
image = cv2.imread(sys.argv[2])
if known["nms"] is None or image is None:
    sys.exit(f"expected a file that export.py wrote with --nms, and a photo; got {sys.argv[1]} and {sys.argv[2]}")

ratio = min(width / image.shape[1], height / image.shape[0])
inside = cv2.resize(image, (max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio))))
scale = [inside.shape[1] / image.shape[1], inside.shape[0] / image.shape[0]] * 2
left, top = (width - inside.shape[1]) // 2, (height - inside.shape[0]) // 2
picture = np.full((height, width, 3), 114, np.uint8)
picture[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
planes = picture[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255  # BGR -> RGB, (1, 3, H, W)

for _, x1, y1, x2, y2, score, label in network.run(None, {"images": planes})[0]:
    box = (np.array([x1, y1, x2, y2]) - [left, top, left, top]) / scale
    box = box.clip(0, [image.shape[1], image.shape[0]] * 2)
    print(f"{names[int(label)]} {score:.3f}", *(f"{side:.1f}" for side in box))
