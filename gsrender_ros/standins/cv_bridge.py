"""Stand-in for ``cv_bridge``: image messages to arrays, through ``rosbags.image`` and OpenCV."""

import cv2
import numpy as np
from rosbags.image import ImageError, image_to_cvimage
from rosbags.image.image import convert_color, to_cvtype

# Encodings whose colours follow the brightness in half as many rows again; height is the image's.
_CHROMA_BELOW = ("nv12", "nv21")


class CvBridgeError(TypeError):
    """The image cannot be converted; the text names encoding and sizes."""


class PackedImage:
    """An Image whose rows follow each other without padding, in this machine's byte order.

    What ``rosbags.image`` takes for granted, and cv_bridge as well where padding is no multiple of a pixel. Chroma that
    follows the brightness counts as rows.

    Raises:
        CvBridgeError: unknown encoding, or data that do not fill the stated size.
    """

    def __init__(self, img_msg):
        self.encoding, self.width, self.is_bigendian = img_msg.encoding, img_msg.width, False
        try:
            _, _, typestr, channels = to_cvtype(self.encoding)
        except ImageError as error:
            raise CvBridgeError(str(error)) from error
        dtype = np.dtype(typestr)
        self.step = img_msg.width * channels * dtype.itemsize
        self.chroma_below = self.encoding in _CHROMA_BELOW
        self.height = img_msg.height + (img_msg.height // 2 if self.chroma_below else 0)
        step = img_msg.step or self.step
        data = np.frombuffer(img_msg.data, np.uint8)
        if step < self.step or data.size < step * self.height or min(img_msg.width, img_msg.height) < 1:
            raise CvBridgeError(
                f"{self.encoding} image {img_msg.width}x{img_msg.height} with step {step} needs at least "
                f"{max(step, self.step) * self.height} bytes (row of {self.step}), got {data.size}"
            )
        data = data[: step * self.height].reshape(self.height, step)[:, : self.step]
        self.data = np.ascontiguousarray(data)
        if img_msg.is_bigendian and dtype.itemsize > 1:
            self.data = self.data.view(dtype.newbyteorder(">")).astype(dtype)


class CvBridge:
    """Converts ``sensor_msgs`` images to numpy arrays [H, W] or [H, W, channels]."""

    def imgmsg_to_cv2(self, img_msg, desired_encoding="passthrough") -> np.ndarray:
        """Array of an Image message, or a ``PackedImage``, in ``desired_encoding`` ("passthrough": as it is).

        Raises:
            CvBridgeError: unknown encoding, impossible conversion, or data that do not fill the stated size.
        """
        image = img_msg if isinstance(img_msg, PackedImage) else PackedImage(img_msg)
        target = None if desired_encoding == "passthrough" else desired_encoding
        try:
            return image_to_cvimage(image, target)
        except (ImageError, cv2.error) as error:
            raise CvBridgeError(f"{image.encoding} -> {desired_encoding}: {error}") from error

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
