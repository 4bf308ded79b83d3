"""``OccupancyGrid`` to PointCloud2."""

import array

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.voxel_grid import OccupancyGrid
from gsrender_ros.image_conversions import set_stamp

# One occupied voxel of the cloud, 24 bytes. ``rgb`` is the packed colour that RViz reads as a float32.
CLOUD_DTYPE = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<u4"),
        ("label", "<u4"),
        ("confidence", "<f4"),
    ]
)
_CLOUD_TYPES = {"label": PointField.UINT32}
_RGB_OF_CLASS = (
    (CLASS_COLORS[:, 0].astype(np.uint32) << 16)
    | (CLASS_COLORS[:, 1].astype(np.uint32) << 8)
    | CLASS_COLORS[:, 2].astype(np.uint32)
)


def cloud_from_occupancy(occupancy: OccupancyGrid, frame_id: str) -> PointCloud2:
    """PointCloud2 of the occupied voxels: x, y, z, rgb, label, confidence; stamp of the grid, ego frame."""
    grid = occupancy.grid
    occupied = np.flatnonzero(occupancy.semantics != FREE)  # as OccupancyGrid.occupied, without its [N, 3] detours
    labels = occupancy.semantics.reshape(-1)[occupied]
    points = np.empty(len(labels), CLOUD_DTYPE)
    for axis, index in enumerate(np.unravel_index(occupied, grid.shape)):
        axis_centers = grid.min_m[axis] + (np.arange(grid.shape[axis]) + 0.5) * grid.voxel_size_m
        points["xyz"[axis]] = axis_centers[index]
    points["rgb"] = _RGB_OF_CLASS[labels]
    points["label"] = labels
    points["confidence"] = 1.0 if occupancy.confidence is None else occupancy.confidence.reshape(-1)[occupied]
    message = PointCloud2()
    set_stamp(message.header.stamp, occupancy.stamp_ns)
    message.header.frame_id = frame_id
    message.height, message.width = 1, len(points)
    message.fields = [
        PointField(name=name, offset=field[1], datatype=_CLOUD_TYPES.get(name, PointField.FLOAT32), count=1)
        for name, field in CLOUD_DTYPE.fields.items()
    ]
    message.is_bigendian, message.is_dense = False, True
    message.point_step = CLOUD_DTYPE.itemsize
    message.row_step = message.point_step * len(points)
    message.data = array.array("B", points.tobytes())  # any other type is checked byte by byte
    return message
