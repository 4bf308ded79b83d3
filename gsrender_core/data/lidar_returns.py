"""``LidarReturns``: what the LiDARs of one frame measured, and what a frame with them weighs."""

from dataclasses import dataclass

import numpy as np

from gsrender_core.data.frame import Frame


@dataclass(frozen=True)
class LidarReturns:
    """What the LiDARs of a frame measured, in its ego frame.

    Attributes:
        origins_ego: float32 [N, 3] m, where the sensor stood when it measured each.
        points_ego: float32 [N, 3] m.
        classes: uint8 [N], 0..16 or ``IGNORE``; None where nothing gives points a class.
    """

    origins_ego: np.ndarray
    points_ego: np.ndarray
    classes: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return sum(array.nbytes for array in vars(self).values() if array is not None)


def frame_bytes(frame: Frame, returns: LidarReturns | None = None) -> int:
    """Memory of a frame's images and labels, and of its returns, bytes."""
    labels = frame.labels
    arrays = [frame.images] + ([] if labels is None else list(vars(labels).values()))
    return sum(array.nbytes for array in arrays) + (0 if returns is None else returns.nbytes)
