"""Stand-in for ``cv_bridge``: image messages to arrays, through ``rosbags.image`` and OpenCV."""

import cv2
import numpy as np
from rosbags.image import ImageError, image_to_cvimage
from rosbags.image.image import convert_color, to_cvtype

# Encodings whose colours follow the brightness in half as many rows again; height is the image's.
_CHROMA_BELOW = ("nv12", "nv21")


class CvBridgeError(TypeError):
    """The image cannot be converted; the text names encoding and sizes."""


class _Rows:
    """An Image message whose rows are contiguous: what ``rosbags.image`` takes for granted."""

    def __init__(self, msg, data):
        self.height, self.width, self.encoding, self.is_bigendian = len(data), msg.width, msg.encoding, False
        self.data = data


class CvBridge:
    """Converts ``sensor_msgs`` images to numpy arrays [H, W] or [H, W, channels]."""

    def imgmsg_to_cv2(self, img_msg, desired_encoding="passthrough") -> np.ndarray:
        """Array of an Image message in ``desired_encoding`` ("passthrough": as it is). Padding of rows is removed.

        Raises:
            CvBridgeError: unknown encoding, impossible conversion, or data that do not fill the stated size.
        """
        encoding = img_msg.encoding
        try:
            _, _, typestr, channels = to_cvtype(encoding)
        except ImageError as error:
            raise CvBridgeError(str(error)) from error
        dtype = np.dtype(typestr)
        row_bytes = img_msg.width * channels * dtype.itemsize
        rows = img_msg.height
        if encoding in _CHROMA_BELOW:
            rows += img_msg.height // 2
        step = img_msg.step or row_bytes
        data = np.frombuffer(img_msg.data, np.uint8)
        if step < row_bytes or data.size < step * rows or min(img_msg.width, img_msg.height) < 1:
            raise CvBridgeError(
                f"{encoding} image {img_msg.width}x{img_msg.height} with step {step} needs at least "
                f"{max(step, row_bytes) * rows} bytes (row of {row_bytes}), got {data.size}"
            )
        data = data[: step * rows].reshape(rows, step)[:, :row_bytes]
        data = np.ascontiguousarray(data)
        if img_msg.is_bigendian and dtype.itemsize > 1:
            data = data.view(dtype.newbyteorder(">")).astype(dtype)
        target = None if desired_encoding == "passthrough" else desired_encoding
        try:
            return image_to_cvimage(_Rows(img_msg, data), target)
        except (ImageError, cv2.error) as error:
            raise CvBridgeError(f"{encoding} -> {desired_encoding}: {error}") from error

    def compressed_imgmsg_to_cv2(self, cmprs_img_msg, desired_encoding="passthrough") -> np.ndarray:
        """Array of a CompressedImage (jpeg, png, ...); "passthrough" gives what OpenCV decodes, bgr8 or mono8.

        Raises:
            CvBridgeError: OpenCV cannot decode the bytes, or the conversion does not exist.
        """
        data = np.frombuffer(cmprs_img_msg.data, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR) if data.size else None
        if image is None:
            raise CvBridgeError(f"{data.size} bytes of format {cmprs_img_msg.format!r} are not a readable image")
        if desired_encoding == "passthrough":
            return image
        try:
            return convert_color(image, "mono8" if image.ndim == 2 else "bgr8", desired_encoding)
        except (ImageError, cv2.error) as error:
            raise CvBridgeError(f"{cmprs_img_msg.format} -> {desired_encoding}: {error}") from error
