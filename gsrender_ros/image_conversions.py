"""Image and CameraInfo messages, of rclpy or of rosbags, to arrays. Needs no ROS."""

from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from gsrender_ros.lens import Distortion, distortion_of
from gsrender_ros.standins import CvBridge, CvBridgeError
from gsrender_ros.standins import cv_bridge as own
from gsrender_ros.statistics import FrameDropped

_BRIDGE, _OWN_BRIDGE = CvBridge(), own.CvBridge()
_ERRORS = (CvBridgeError, own.CvBridgeError, ValueError, RuntimeError)
# Encodings that are arrays of colours already: nothing to convert, at most to reorder.
_PACKED = ("rgb8", "bgr8")
_JPEG_START = b"\xff\xd8\xff"  # simplejpeg.is_jpeg also wants the end mark last, which a truncated or padded file lacks


@dataclass(frozen=True)
class Intrinsics:
    """``K`` float64 [3, 3] px, the ``size`` (width, height) of the images it belongs to, and their camera's name.

    ``distortion`` is the lens that is to be taken out of the images; None where nothing is.
    """

    K: np.ndarray
    size: tuple[int, int]
    camera: str = "a camera"
    distortion: Distortion | None = None

    def same_as(self, other: "Intrinsics") -> bool:
        """Whether images of the one are images of the other."""
        return (self.size, self.distortion) == (other.size, other.distortion) and np.array_equal(self.K, other.K)


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
            if data.startswith(_JPEG_START):
                return simplejpeg.decode_jpeg(data, colorspace="RGB")
            if "compressedDepth" in message.format:
                raise CvBridgeError(f"format {message.format!r} is a depth image; name a colour topic")
            # Not the genuine bridge: it takes alpha and grey for blue, green and red.
            image = _OWN_BRIDGE.compressed_imgmsg_to_cv2(message, "rgb8")
        elif message.encoding[:1].isdigit():  # 8UC3: cv_bridge would take any three numbers for red, green and blue
            raise CvBridgeError(f"encoding {message.encoding!r} does not say which colours its channels are")
        else:
            image = _convert(message, "rgb8")
    except _ERRORS as error:
        raise _not_readable(message, error) from error
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        encoding = getattr(message, "encoding", "") or message.format
        raise FrameDropped("decode", f"encoding {encoding!r} gives {image.dtype} {image.shape}, expected uint8 RGB")
    return np.ascontiguousarray(image)


def _convert(message, encoding: str) -> np.ndarray:
    """As cv_bridge converts, without what genuine ones get wrong: padded rows, the other byte order.

    Encodings that the installed one does not know, or that hold their chroma apart, are converted by our own.
    """
    packed = own.PackedImage(message)
    if not packed.chroma_below:
        try:
            return _BRIDGE.imgmsg_to_cv2(packed, encoding)
        except CvBridgeError:
            if isinstance(_BRIDGE, own.CvBridge):
                raise
    return _OWN_BRIDGE.imgmsg_to_cv2(packed, encoding)


def decode_label_image(message) -> np.ndarray:
    """Class ids [H, W] of an Image (mono8, 8UC1, mono16, 16UC1) or CompressedImage (png), uint8 or uint16.

    Raises:
        FrameDropped: reason decode; jpeg, which changes ids, and colours included.
    """
    data = bytes(message.data)
    if hasattr(message, "format") and simplejpeg.is_jpeg(data):
        raise _not_readable(message, ValueError("class ids do not survive jpeg; publish them raw or as png"))
    if hasattr(message, "format"):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    else:
        try:
            image = _convert(message, "passthrough")
        except _ERRORS as error:
            raise _not_readable(message, error) from error
    if image is None or image.squeeze().ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        found = "nothing" if image is None else f"{image.dtype} {image.shape}"
        raise _not_readable(message, ValueError(f"a label image has one channel of 8 or 16 bits, got {found}"))
    return image.reshape(image.shape[:2])


def read_pixels(message, shrink: int = 1, check_size=lambda size: None) -> tuple[np.ndarray, bool]:
    """Pixels uint8 [H / shrink, W / shrink, 3] of a message, and whether they are BGR instead of RGB.

    What ``decode_image`` gives, averaged over squares of ``shrink`` (1, 2, 4 or 8) pixels, with less work: a jpeg is
    scaled while it is decoded, packed colours are read where they lie, in their own order.

    Args:
        message: an Image or CompressedImage whose width and height are multiples of ``shrink``.
        shrink: how many pixels become one.
        check_size: called with the full (width, height), before the work where that can be; may raise.

    Raises:
        FrameDropped: reason decode, as ``decode_image``.
    """
    if hasattr(message, "format") and (data := bytes(message.data)).startswith(_JPEG_START):
        try:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            check_size((width, height))
            return simplejpeg.decode_jpeg(data, "RGB", min_height=height // shrink, min_width=width // shrink), False
        except ValueError as error:
            raise _not_readable(message, error) from error
    image = _packed_pixels(message)
    is_bgr = image is not None and message.encoding == "bgr8"
    if image is None:
        image = decode_image(message)
    size = (image.shape[1], image.shape[0])
    check_size(size)
    if shrink > 1:
        image = cv2.resize(image, (size[0] // shrink, size[1] // shrink), interpolation=cv2.INTER_AREA)
    return image, is_bgr


def _packed_pixels(message) -> np.ndarray | None:
    """The message's own memory as [H, W, 3], padding of rows left out; None where it must be converted or refused."""
    if getattr(message, "encoding", None) not in _PACKED:
        return None
    width, height, step = message.width, message.height, message.step or 3 * message.width
    data = np.frombuffer(message.data, np.uint8)
    if min(width, height) < 1 or step < 3 * width or data.size < step * height:
        return None  # decode_image says what is wrong
    return data[: step * height].reshape(height, step)[:, : 3 * width].reshape(height, width, 3)


def _not_readable(message, error: Exception) -> FrameDropped:
    return FrameDropped("decode", f"image of {message.header.frame_id or 'a camera'} is not readable: {error}")


def intrinsics_from_camera_info(message, distortion: str = "undistort", camera: str = "") -> Intrinsics:
    """Intrinsics of a CameraInfo, for the images as they are published: binning and region of interest applied.

    ``R`` is not read: published recordings carry wrong ones. ``distortion`` as the parameter of that name: take the
    distortion out, refuse a distorted lens, ignore its distortion, or take P for images that are rectified. ``camera``
    is its name in the topics; empty: the message's frame_id.

    Raises:
        FrameDropped: reason calibration; not calibrated, not finite, a lens that is unknown, or distorted and refused.
    """
    name = camera or message.header.frame_id or "a camera"
    K = np.array(message.k, dtype=np.float64).reshape(3, 3)
    if distortion == "rectified":
        K = np.array(message.p, dtype=np.float64).reshape(3, 4)[:, :3].copy()
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        matrix = "P" if distortion == "rectified" else "K"
        raise FrameDropped(
            "calibration",
            f"CameraInfo of {name} is not calibrated: {matrix} = {K.reshape(-1).tolist()}; calibrate the camera, or "
            "give its intrinsics in calibration_file",
        )
    try:
        lens = distortion_of(message.distortion_model, message.d) if distortion in ("undistort", "refuse") else None
    except ValueError as error:
        raise FrameDropped(
            "calibration",
            f"CameraInfo of {name}: {error}; correct it, or set distortion:=rectified for images that are rectified "
            "(ignore accepts the error)",
        ) from error
    if distortion == "refuse" and lens is not None:
        raise FrameDropped(
            "calibration",
            f"CameraInfo of {name} has lens distortion ({lens.model} {np.round(lens.coefficients, 4).tolist()}), and "
            "distortion is 'refuse': set it to undistort, or to rectified for images that are rectified",
        )
    K, size = _as_published(K, message)
    return Intrinsics(K, size, name, lens)


def intrinsics_from_calibration(camera, distortion: str = "undistort") -> Intrinsics:
    """Intrinsics of a ``calibration.CameraCalibration`` that has a ``K``; ``distortion`` as above.

    Raises:
        FrameDropped: reason calibration; distorted and refused.
    """
    lens = camera.distortion
    if lens is not None and distortion == "refuse":
        raise FrameDropped(
            "calibration",
            f"calibration_file gives {camera.camera} lens distortion ({lens.model}), and distortion is 'refuse': set "
            "it to undistort, or to rectified for images that are rectified",
        )
    size = (camera.width, camera.height)
    return Intrinsics(camera.K, size, camera.camera, lens if distortion == "undistort" else None)


def _as_published(K: np.ndarray, info) -> tuple[np.ndarray, tuple[int, int]]:
    """K and size of the images that a driver cut out (roi) and binned; CameraInfo speaks of the whole sensor."""
    roi, bins = info.roi, (max(1, info.binning_x), max(1, info.binning_y))
    size = (roi.width or info.width, roi.height or info.height)
    K[:2, 2] -= (roi.x_offset, roi.y_offset)
    K[:2] /= np.array(bins)[:, None]
    return K, (size[0] // bins[0], size[1] // bins[1])
