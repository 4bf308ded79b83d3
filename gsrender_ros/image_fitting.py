"""From one image message to one camera's planes of the network's input, by the shortest way. No ROS.

``CameraFit`` is the node's fast path: a jpeg is decoded at half, a quarter or an eighth of its size (its blocks are
scaled before they become pixels), other images are averaged down as far; a bilinear step, which also takes the
distortion of the lens out, makes up the rest. ``AreaFit`` is what it is compared with, and how images are trained on,
from bags as from folders: decode at full size, undistort, average down to the network's size.
"""

from functools import cached_property

import cv2
import numpy as np

from gsrender_core.data.image_fit import ImageFit, fit_image
from gsrender_core.geometry import resize_crop_intrinsics
from gsrender_ros.image_conversions import Intrinsics, decode_image, read_pixels
from gsrender_ros.lens import undistortion_maps
from gsrender_ros.statistics import FrameDropped

# What a jpeg's 8x8 blocks can be scaled by, largest first.
_SHRINKS = (8, 4, 2)


class CameraFit:
    """Fits images of one camera to the network's size; built once for a calibration.

    Args:
        camera: intrinsics of the images as they arrive.
        target: (width, height) of the network's images.

    ``K`` float64 [3, 3] px belongs to the fitted images. They show the undistorted scene: where the lens sees nothing,
    they are black.
    """

    def __init__(self, camera: Intrinsics, target: tuple[int, int]):
        self.camera = camera
        self._plan = fit_image(camera.size, camera.K, target)
        self.K = self._plan.K
        self.shrink = _shrink(camera.size, self._plan)
        self._maps = None
        if camera.distortion is not None:
            K_shrunk = resize_crop_intrinsics(camera.K, (1 / self.shrink, 1 / self.shrink), (0, 0))
            maps = undistortion_maps(camera.distortion, K_shrunk, self.K, target)
            self._maps = cv2.convertMaps(*maps, cv2.CV_16SC2)  # fixed point: twice as fast

    def __call__(self, message) -> np.ndarray:
        """Planes uint8 [3, H, W], RGB, of one Image or CompressedImage.

        Raises:
            FrameDropped: decode (not readable), calibration (another size than its calibration's).
        """
        image, is_bgr = read_pixels(message, self.shrink, lambda size: _check_size(size, self.camera))
        if self._maps is not None:
            image = cv2.remap(image, *self._maps, cv2.INTER_LINEAR)
        else:
            plan, (width, height) = self._plan, self._plan.target
            if image.shape[1::-1] != plan.resized:
                image = cv2.resize(image, plan.resized, interpolation=cv2.INTER_LINEAR)
            image = image[plan.top : plan.top + height, plan.left : plan.left + width]
        planes = np.empty((3, *image.shape[:2]), np.uint8)
        cv2.split(image, list(planes[::-1] if is_bgr else planes))
        return planes


class AreaFit:
    """Fits images as training reads them, step by step at full size; what ``CameraFit`` must come near to.

    Without lens distortion the planes are those that ``data.nuscenes.NuScenes`` reads of the same jpeg.

    Args and ``K`` as of ``CameraFit``.
    """

    def __init__(self, camera: Intrinsics, target: tuple[int, int]):
        self.camera = camera
        self._plan = fit_image(camera.size, camera.K, target)
        self.K = self._plan.K

    def __call__(self, message) -> np.ndarray:
        """Planes uint8 [3, H, W], RGB; raises as ``CameraFit``."""
        image = decode_image(message)
        _check_size((image.shape[1], image.shape[0]), self.camera)
        if self.camera.distortion is not None:
            image = cv2.remap(image, *self._maps, cv2.INTER_LINEAR)
        return self._plan(image).transpose(2, 0, 1)

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        """For ``cv2.remap`` at full size; made with the first image, for labels alone need none."""
        camera = self.camera
        maps = undistortion_maps(camera.distortion, camera.K, camera.K, camera.size)
        return cv2.convertMaps(*maps, cv2.CV_16SC2)

    def source_of(self, uv: np.ndarray) -> np.ndarray:
        """Where pixels uv [M, 2] of the fitted images lie in the images as they arrive, float64 [M, 2] px.

        With lens distortion to the pixel; places that the lens does not see are negative.
        """
        plan, camera = self._plan, self.camera
        uv = np.asarray(uv, np.float64)
        if camera.distortion is None:
            return (uv + (plan.left, plan.top)) * camera.size / plan.resized
        column, row = np.floor(uv).astype(np.int64).T
        x, y = undistortion_maps(camera.distortion, camera.K, self.K, plan.target)
        return np.stack((x[row, column], y[row, column]), axis=1).astype(np.float64) + 0.5


def _shrink(size: tuple[int, int], plan: ImageFit) -> int:
    """Largest factor by which images may be scaled down before the rest of the way, without a rest at their edges."""
    for shrink in _SHRINKS:
        exact = size[0] % shrink == 0 and size[1] % shrink == 0  # else K would not follow exactly
        if exact and size[0] // shrink >= plan.resized[0] and size[1] // shrink >= plan.resized[1]:
            return shrink
    return 1


def _check_size(size: tuple[int, int], camera: Intrinsics) -> None:
    if size != camera.size:
        raise FrameDropped(
            "calibration",
            f"images of {camera.camera} are {size[0]}x{size[1]}, their calibration is for "
            f"{camera.size[0]}x{camera.size[1]}: calibrate at the size that is published",
        )
