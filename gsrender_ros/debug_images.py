"""Pictures of the published grid as each camera would see it: class colours and depth, for looking at what is wrong.

Every pixel's ray is cast from where the camera stood into the voxels that are published, to the first occupied one.
What is drawn is therefore what a subscriber of the grid gets, not what the network might render.
"""

import array

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from gsrender_core.classes import CLASS_COLORS
from gsrender_core.geometry import resize_crop_intrinsics
from gsrender_core.voxel_walk import first_hits
from gsrender_ros.image_conversions import set_stamp
from gsrender_ros.prediction import Prediction

NOTHING_COLOR = (0, 0, 0)  # RGB where a ray meets no voxel


class CameraView:
    """One camera of a prediction at ``1 / shrink`` of the network's image size; the rays are cast once, when needed.

    Args:
        prediction: grid and frame.
        camera: index.
        shrink: how many of the network's pixels become one, along each side.
    """

    def __init__(self, prediction: Prediction, camera: int, shrink: int):
        self._prediction = prediction
        self._camera = camera
        self._shrink = shrink
        width, height = prediction.frame.image_size
        self.size = max(1, width // shrink), max(1, height // shrink)
        scale = self.size[0] / width, self.size[1] / height
        self.K = resize_crop_intrinsics(prediction.frame.Ks[camera], scale, (0, 0))
        self._hits = None

    @property
    def hits(self):
        """``FirstHits`` of all pixels, rows first; ``enter`` is the depth along the optical axis in metres."""
        if self._hits is None:
            width, height = self.size
            T_ego_cam = self._prediction.frame.T_ego_cam[self._camera]
            u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
            at_camera = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ np.linalg.inv(self.K).T
            occupancy = self._prediction.occupancy
            directions = at_camera @ T_ego_cam[:3, :3].T
            self._hits = first_hits(occupancy.semantics, T_ego_cam[:3, 3], directions, occupancy.grid)
        return self._hits

    def semantic(self, overlay: float) -> np.ndarray:
        """Class colours uint8 [H, W, 3] RGB; ``overlay`` in (0, 1] blends that share of them into the camera image."""
        colors = np.concatenate([CLASS_COLORS, [NOTHING_COLOR]]).astype(np.uint8)
        picture = colors[self.hits.labels].reshape(*self.size[::-1], 3)
        if not overlay:
            return picture
        shrink = self._shrink
        image = self._prediction.frame.images[self._camera]
        image = image[:, ::shrink, ::shrink][:, : self.size[1], : self.size[0]].transpose(1, 2, 0)
        share = np.where(self.hits.hit, np.float32(overlay), np.float32(0)).reshape(*self.size[::-1], 1)
        return np.rint(image + share * (picture.astype(np.float32) - image)).astype(np.uint8)

    def depth(self) -> np.ndarray:
        """Depth along the optical axis (REP-118), float32 [H, W] metres; NaN where the ray meets nothing."""
        return self.hits.enter.astype(np.float32).reshape(self.size[::-1])

    def semantic_message(self, overlay: float) -> Image:
        """``semantic`` as rgb8, at the camera's own stamp, in its frame."""
        return self._image(self.semantic(overlay), "rgb8")

    def depth_message(self) -> Image:
        """``depth`` as 32FC1, at the camera's own stamp, in its frame."""
        return self._image(self.depth(), "32FC1")

    def camera_info(self) -> CameraInfo:
        """Intrinsics of both images; no distortion: the network's images are rectified."""
        message = CameraInfo(distortion_model="plumb_bob", d=[0.0] * 5)
        self._fill_header(message.header)
        message.width, message.height = self.size
        message.k = self.K.reshape(-1).tolist()
        message.r = np.eye(3).reshape(-1).tolist()
        message.p = np.hstack([self.K, np.zeros((3, 1))]).reshape(-1).tolist()
        return message

    def _image(self, pixels: np.ndarray, encoding: str) -> Image:
        message = Image(encoding=encoding, is_bigendian=0)
        self._fill_header(message.header)
        message.height, message.width = pixels.shape[:2]
        message.step = pixels.strides[0]
        message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
        return message

    def _fill_header(self, header) -> None:
        set_stamp(header.stamp, self._prediction.stamps_ns[self._camera])
        header.frame_id = self._prediction.frame_ids[self._camera]
