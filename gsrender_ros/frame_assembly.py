"""From image messages to the ``Frame`` that the network takes: decode and fit, side by side. Needs no ROS.

A set of images is complete when its last image arrives; by then the others can be ready. While the worker waits for
work, every image is therefore decoded as it comes (``expect``), and the last one's arrival starts one decode, not six.
While the network is busy nothing is decoded ahead: most of those images will never be looked at.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from gsrender_core.data.frame import Frame
from gsrender_ros.image_conversions import Intrinsics
from gsrender_ros.image_fitting import AreaFit, CameraFit

# Images of one camera that are decoded ahead before a set has used one: more would be work for nothing when sets do
# not become complete, and memory.
_AHEAD = 2


@dataclass(frozen=True)
class ImageSet:
    """One image message of every camera. ``stamp_ns`` is the reference camera's, ``stamps_ns`` each camera's own."""

    messages: tuple
    stamps_ns: tuple[int, ...]
    frames: tuple[str, ...]
    channels: tuple[str, ...]
    stamp_ns: int


@dataclass(frozen=True)
class RigPose:
    """``T_ego_cam`` float64 [C, 4, 4] and ``T_global_ego`` float64 [4, 4], metres, as ``Frame`` wants them."""

    T_ego_cam: np.ndarray
    T_global_ego: np.ndarray


class FrameAssembler:
    """Builds frames whose images have ``image_size`` (width, height), the network's.

    Decoding and resizing release the interpreter lock, so the threads of ``pool`` work side by side.

    Args:
        image_size: of the network.
        make_fit: how images are fitted: ``CameraFit``, the fast way, or ``AreaFit``, that of training.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        make_fit: Callable[[Intrinsics, tuple[int, int]], CameraFit | AreaFit] = CameraFit,
    ):
        self.image_size = image_size
        self._make_fit = make_fit
        self.pool = ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1)), thread_name_prefix="decode")
        self._lock = threading.Lock()  # expect() and __call__ come from different threads
        self._fits: dict[str, CameraFit | AreaFit] = {}
        self._ahead: dict[str, deque[tuple[object, CameraFit | AreaFit, Future]]] = {}

    def expect(self, message, camera: Intrinsics) -> None:
        """Start on an image that will probably be part of the next frame; never blocks."""
        fit = self.fit(camera)
        with self._lock:
            waiting = self._ahead.setdefault(camera.camera, deque())
            if len(waiting) < _AHEAD:
                waiting.append((message, fit, self.pool.submit(fit, message)))

    def __call__(self, image_set: ImageSet, intrinsics: list[Intrinsics], rig_pose: RigPose) -> Frame:
        """One frame of one set of images; intrinsics of the images as they arrive, in the order of the cameras.

        Raises:
            FrameDropped: decode (an image is not readable), calibration (its size is not its calibration's).
        """
        fits = [self.fit(camera) for camera in intrinsics]
        started = [
            self._started(message, fit) or self.pool.submit(fit, message)
            for message, fit in zip(image_set.messages, fits, strict=True)
        ]
        self._forget_ahead(started)
        return Frame(
            images=np.stack([planes.result() for planes in started]),  # raises what a camera raised
            Ks=np.stack([fit.K for fit in fits]),
            T_ego_cam=rig_pose.T_ego_cam,
            T_global_ego=rig_pose.T_global_ego,
            stamp_ns=image_set.stamp_ns,
            camera_names=image_set.channels,
            token=str(image_set.stamp_ns),
        )

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)

    def fit(self, camera: Intrinsics) -> CameraFit | AreaFit:
        """How images of a camera are fitted: planned once for a calibration and size, anew when either changes."""
        fit = self._fits.get(camera.camera)
        if fit is None or not fit.camera.same_as(camera):
            fit = self._fits[camera.camera] = self._make_fit(camera, self.image_size)
        return fit

    def _started(self, message, fit: CameraFit | AreaFit) -> Future | None:
        with self._lock:
            for known, known_fit, planes in self._ahead.get(fit.camera.camera, ()):
                if known is message and known_fit is fit:  # not where the calibration has changed in between
                    return planes
        return None

    def _forget_ahead(self, used: list[Future]) -> None:
        """Make room for the images of the next frame; what this one did not use was decoded for nothing."""
        with self._lock:
            ahead, self._ahead = self._ahead, {}
        for waiting in ahead.values():
            for _, _, planes in waiting:
                if planes not in used:
                    planes.cancel()
