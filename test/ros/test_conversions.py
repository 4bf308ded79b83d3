import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import PointField

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.geometry import transform
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.conversions import cloud_from_occupancy, cloud_points
from gsrender_ros.tf_lookup import matrix_from_message, message_from_matrix

RNG = np.random.default_rng(2)


def test_cloud_of_known_voxels_read_back_field_by_field():
    semantics = np.full((3, 2, 2), FREE, np.uint8)
    semantics[2, 0, 1], semantics[0, 1, 0] = 7, 15
    confidence = RNG.random(semantics.shape, dtype=np.float32)
    grid = VoxelGrid((-1.5, 0.0, 2.0), 1.0, (3, 2, 2))
    message = cloud_from_occupancy(OccupancyGrid(semantics, confidence, grid, 12_345_678_901), "base_link")
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 345_678_901)
    assert (message.header.frame_id, message.height, message.width, message.row_step) == ("base_link", 1, 2, 48)
    types = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}
    dtype = np.dtype(
        {
            "names": [f.name for f in message.fields],
            "formats": [types[f.datatype] for f in message.fields],
            "offsets": [f.offset for f in message.fields],
            "itemsize": message.point_step,
        }
    )
    assert [f.name for f in message.fields] == ["x", "y", "z", "rgb", "label", "confidence"]
    assert dtype["rgb"] == np.float32 and dtype["label"] == np.uint32
    points = {int(p["label"]): p for p in np.frombuffer(bytes(message.data), dtype)}
    assert [float(points[7][axis]) for axis in "xyz"] == [1.0, 0.5, 3.5]
    assert [float(points[15][axis]) for axis in "xyz"] == [-1.0, 1.5, 2.5]
    assert points[7]["confidence"] == confidence[2, 0, 1]
    packed = int(np.float32(points[7]["rgb"]).view(np.uint32))
    assert [packed >> 16 & 255, packed >> 8 & 255, packed & 255] == CLASS_COLORS[7].tolist()


@pytest.mark.parametrize("has_confidence", [False, True])
def test_cloud_agrees_with_the_grids_own_list_of_voxels(has_confidence):
    shape = (7, 5, 3)
    semantics = RNG.integers(0, FREE + 1, shape).astype(np.uint8)
    given = RNG.random(shape, dtype=np.float32) if has_confidence else None
    occupancy = OccupancyGrid(semantics, given, VoxelGrid((-3.0, 1.0, -1.0), 0.4, shape), 1)
    centers, labels, confidence = occupancy.occupied()
    data = np.frombuffer(bytes(cloud_from_occupancy(occupancy, "a").data), np.float32).reshape(-1, 6)
    assert np.array_equal(data[:, :3], centers)
    assert np.array_equal(data[:, 4].view(np.uint32), labels)
    assert np.array_equal(data[:, 5], confidence)
    colors = data[:, 3].view(np.uint32)[:, None] >> np.array([16, 8, 0], np.uint32) & 255
    assert np.array_equal(colors, CLASS_COLORS[labels])


def test_cloud_of_a_grid_that_is_not_contiguous():
    semantics = RNG.integers(0, FREE + 1, (3, 5, 7)).astype(np.uint8)
    grid = VoxelGrid((-3.0, 1.0, -1.0), 0.4, (7, 5, 3))
    confidence = RNG.random((3, 5, 7))  # of another type, too
    turned = OccupancyGrid(semantics.T, confidence.T, grid, 1)
    plain = OccupancyGrid(semantics.T.copy(), confidence.T.astype(np.float32), grid, 1)
    assert np.array_equal(cloud_points(turned), cloud_points(plain)) and len(cloud_points(plain)) > 50


def test_empty_cloud():
    occupancy = OccupancyGrid(np.full((2, 2, 2), FREE, np.uint8), None, VoxelGrid((0, 0, 0), 1.0, (2, 2, 2)), 1)
    message = cloud_from_occupancy(occupancy, "base_link")
    assert (message.width, len(message.data), message.point_step) == (0, 0, 24)


def test_transforms_survive_their_messages():
    T = transform(RNG.normal(size=4), RNG.normal(size=3))
    message = message_from_matrix(T, "base_link", "cam", 3_000_000_004)
    assert isinstance(message, TransformStamped)
    assert (message.header.frame_id, message.child_frame_id) == ("base_link", "cam")
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (3, 4)
    np.testing.assert_allclose(matrix_from_message(message), T, atol=1e-9)
