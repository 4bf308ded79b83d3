"""``OccupancyGrid`` to PointCloud2."""

import array

import numba
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from gsrender_core.classes import CLASS_COLORS
from gsrender_core.voxel_grid import OccupancyGrid
from gsrender_ros.image_conversions import set_stamp
from gsrender_ros.occupied_voxels import occupied_index

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
    points = cloud_points(occupancy)
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
    message.data = array.array("B")  # any other type is checked byte by byte
    message.data.frombytes(points.view(np.uint8))
    return message


def cloud_points(occupancy: OccupancyGrid) -> np.ndarray:
    """CLOUD_DTYPE [N] of the occupied voxels, x slowest; what ``OccupancyGrid.occupied`` lists, with less work."""
    index = occupied_index(occupancy.semantics)
    labels = occupancy.semantics.reshape(-1)[index]
    points = np.empty(len(index), CLOUD_DTYPE)
    _fill_positions(index, occupancy.grid.axis_centers(), points.view(np.float32).reshape(-1, len(CLOUD_DTYPE)))
    points["rgb"], points["label"] = _RGB_OF_CLASS[labels], labels
    points["confidence"] = 1.0 if occupancy.confidence is None else occupancy.confidence.reshape(-1)[index]
    return points


@numba.njit(nogil=True, cache=True)
def _fill_positions(index, axis_centers, points):
    """x, y, z of voxels by flat index into the first three columns of float32 [N, ...]."""
    xs, ys, zs = axis_centers
    for n in range(len(index)):
        column, k = divmod(index[n], len(zs))
        i, j = divmod(column, len(ys))
        points[n, 0], points[n, 1], points[n, 2] = xs[i], ys[j], zs[k]
