"""From image messages to the ``Frame`` that the network takes: decode and fit, one thread a camera. Needs no ROS."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from gsrender_core.data.frame import Frame
from gsrender_core.data.image_fit import fit_image
from gsrender_ros.image_conversions import Intrinsics, decode_image
from gsrender_ros.statistics import FrameDropped


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

    Decoding and resizing release the interpreter lock, so cameras are worked on side by side.
    """

    def __init__(self, image_size: tuple[int, int]):
        self.image_size = image_size
        self._pool = ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1)), thread_name_prefix="decode")

    def __call__(self, image_set: ImageSet, intrinsics: list[Intrinsics], rig_pose: RigPose) -> Frame:
        """One frame of one set of images; intrinsics of the images as they arrive, in the order of the cameras.

        Raises:
            FrameDropped: decode (an image is not readable), calibration (its size is not its calibration's).
        """
        count = len(image_set.messages)
        images = np.empty((count, 3, self.image_size[1], self.image_size[0]), np.uint8)
        Ks = np.empty((count, 3, 3))

        def work(index: int) -> None:
            image = decode_image(image_set.messages[index])
            size = (image.shape[1], image.shape[0])
            camera = intrinsics[index]
            if size != camera.size:
                raise FrameDropped(
                    "calibration",
                    f"images of {camera.camera} are {size[0]}x{size[1]}, their calibration is for "
                    f"{camera.size[0]}x{camera.size[1]}: calibrate at the size that is published",
                )
            fit = fit_image(size, camera.K, self.image_size)
            images[index] = fit(image).transpose(2, 0, 1)
            Ks[index] = fit.K

        for _ in self._pool.map(work, range(count)):  # consuming the results raises what a camera raised
            pass
        return Frame(
            images=images,
            Ks=Ks,
            T_ego_cam=rig_pose.T_ego_cam,
            T_global_ego=rig_pose.T_global_ego,
            stamp_ns=image_set.stamp_ns,
            camera_names=image_set.channels,
            token=str(image_set.stamp_ns),
        )

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False)
