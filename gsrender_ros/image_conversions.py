"""Image and CameraInfo messages, of rclpy or of rosbags, to arrays. Needs no ROS."""

from dataclasses import dataclass

import numpy as np
import simplejpeg

from gsrender_ros.standins import CvBridge, CvBridgeError
from gsrender_ros.statistics import FrameDropped

_BRIDGE = CvBridge()


@dataclass(frozen=True)
class Intrinsics:
    """``K`` float64 [3, 3] px, the ``size`` (width, height) of the images it belongs to, and their camera's name."""

    K: np.ndarray
    size: tuple[int, int]
    camera: str = "a camera"


def stamp_to_ns(stamp) -> int:
    """Nanoseconds of a builtin_interfaces Time."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def set_stamp(stamp, stamp_ns: int) -> None:
    """Write nanoseconds into a builtin_interfaces Time."""
    stamp.sec, stamp.nanosec = divmod(int(stamp_ns), 1_000_000_000)


def decode_image(message) -> np.ndarray:
    """RGB uint8 [H, W, 3] of an Image or CompressedImage.

    Raises:
        FrameDropped: reason decode; names the encoding and what is wrong.
    """
    try:
        if hasattr(message, "format"):
            data = bytes(message.data)
            if simplejpeg.is_jpeg(data):
                return simplejpeg.decode_jpeg(data, colorspace="RGB")
            if "compressedDepth" in message.format:
                raise CvBridgeError(f"format {message.format!r} is a depth image; name a colour topic")
            image = _BRIDGE.compressed_imgmsg_to_cv2(message, "rgb8")
        else:
            image = _BRIDGE.imgmsg_to_cv2(message, "rgb8")
    except (CvBridgeError, ValueError, RuntimeError) as error:
        name = message.header.frame_id or "a camera"
        raise FrameDropped("decode", f"image of {name} is not readable: {error}") from error
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        encoding = getattr(message, "encoding", "") or message.format
        raise FrameDropped("decode", f"encoding {encoding!r} gives {image.dtype} {image.shape}, expected uint8 RGB")
    return np.ascontiguousarray(image)


def intrinsics_from_camera_info(message, distortion: str = "refuse", camera: str = "") -> Intrinsics:
    """Intrinsics of a CameraInfo.

    ``R`` is not read: published recordings carry wrong ones. ``distortion`` as the parameter of that
    name: refuse a distorted lens, ignore its distortion, or take P for images that are rectified. ``camera``
    is its name in the topics; empty: the message's frame_id.

    Raises:
        FrameDropped: reason calibration; not calibrated, not finite, or distorted and refused.
    """
    name = camera or message.header.frame_id or "a camera"
    K = np.array(message.k, dtype=np.float64).reshape(3, 3)
    if distortion == "rectified":
        K = np.array(message.p, dtype=np.float64).reshape(3, 4)[:, :3].copy()
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise FrameDropped("calibration", f"CameraInfo of {name} is not calibrated: K = {K.reshape(-1).tolist()}")
    D = np.array(message.d, dtype=np.float64)
    if distortion == "refuse" and np.any(D != 0):
        raise FrameDropped(
            "calibration",
            f"CameraInfo of {name} has lens distortion ({message.distortion_model} {D.round(4).tolist()}), and images "
            "are not undistorted here: rectify them (image_proc) and set distortion:=rectified, or accept the error "
            "with distortion:=ignore",
        )
    return Intrinsics(K, (message.width, message.height), name)
