"""What one set of images became: the grid, and what it was made of."""

from dataclasses import dataclass

from gsrender_core.data.frame import Frame
from gsrender_core.voxel_grid import OccupancyGrid


@dataclass(frozen=True)
class Prediction:
    """A grid with its frame.

    Attributes:
        occupancy: the prediction, in the ego frame of its stamp.
        frame: images at the network's size, intrinsics and poses.
        stamps_ns: when each camera fired.
        frame_ids: TF frame of each camera.
    """

    occupancy: OccupancyGrid
    frame: Frame
    stamps_ns: tuple[int, ...]
    frame_ids: tuple[str, ...]
