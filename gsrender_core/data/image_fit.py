"""How a camera's image becomes the network's input: one resize, one crop, intrinsics that follow."""

from dataclasses import dataclass

import cv2
import numpy as np

from gsrender_core.geometry import resize_crop_intrinsics

# Row of the principal point in the network's image as a fraction of its height. 0.3 turns nuScenes'
# 1600x900 into the usual 704x256 crop (scale 0.44, top 140) and keeps the road of any other lens.
HORIZON_FRACTION = 0.3


@dataclass(frozen=True)
class ImageFit:
    """Resize by ``scale`` to ``resized`` (width, height), then crop ``target`` at ``left``, ``top``."""

    resized: tuple[int, int]
    left: int
    top: int
    target: tuple[int, int]
    K: np.ndarray

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Fit one image uint8 [H, W, 3] to uint8 [target height, target width, 3]."""
        if image.shape[1::-1] != self.resized:
            shrinks = image.shape[1] > self.resized[0]
            image = cv2.resize(image, self.resized, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        width, height = self.target
        return image[self.top : self.top + height, self.left : self.left + width]


def fit_image(source: tuple[int, int], K: np.ndarray, target: tuple[int, int]) -> ImageFit:
    """Plan how an image of ``source`` (width, height) with intrinsics ``K`` [3, 3] fills ``target``.

    The image is scaled until it covers the target in both directions. What is too much is cut:
    sideways around the principal point, vertically so that the principal point lands at
    ``HORIZON_FRACTION`` of the height (sky goes, road stays).

    Raises:
        ValueError: a size that is not positive.
    """
    (ws, hs), (wt, ht) = source, target
    if min(ws, hs, wt, ht) < 1:
        raise ValueError(f"image sizes must be positive, got source {source}, target {target}")
    scale = max(wt / ws, ht / hs)
    resized = (max(wt, round(ws * scale)), max(ht, round(hs * scale)))
    sx, sy = resized[0] / ws, resized[1] / hs
    left = int(np.clip(round(K[0, 2] * sx - wt / 2), 0, resized[0] - wt))
    top = int(np.clip(round(K[1, 2] * sy - HORIZON_FRACTION * ht), 0, resized[1] - ht))
    return ImageFit(resized, left, top, (wt, ht), resize_crop_intrinsics(K, (sx, sy), (left, top)))
