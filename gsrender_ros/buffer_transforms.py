"""A tf2 buffer with the calls of a ``TransformTree``: what is made from bags can be made from topics."""

import numpy as np
from rclpy.time import Time

from gsrender_ros import transform_history
from gsrender_ros.standins import TransformException
from gsrender_ros.tf_lookup import known_frames, matrix_from_message


class BufferTransforms:
    """Looks transforms up in a buffer, without waiting.

    Args:
        buffer: tf2_ros Buffer or its stand-in.
    """

    def __init__(self, buffer):
        self._buffer = buffer

    def look_up_full(self, target: tuple[str, int], source: tuple[str, int], fixed: str) -> np.ndarray:
        """``T_target_source`` float64 [4, 4] between (frame, stamp in ns) pairs, through a frame that stands still.

        Raises:
            transform_history.TransformException: as tf2.
        """
        (target, target_ns), (source, source_ns) = target, source
        times = Time(nanoseconds=target_ns), Time(nanoseconds=source_ns)
        try:
            message = self._buffer.lookup_transform_full(target, times[0], source, times[1], fixed)
        except TransformException as error:
            if isinstance(error, transform_history.TransformException):
                raise
            raise transform_history.TransformException(str(error)) from error
        return matrix_from_message(message)

    def frames(self) -> list[str]:
        """Names of all frames."""
        return known_frames(self._buffer)
