import time

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_processes import PATIENCE_S, own_domain
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from gsrender_core.classes import FREE
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros import outputs
from gsrender_ros.outputs import LATCHED, OccupancyOutputs

GRID = VoxelGrid((0.0, 0.0, 0.0), 1.0, (2, 2, 1))


def occupancy(stamp_ns: int) -> OccupancyGrid:
    semantics = np.full(GRID.shape, FREE, np.uint8)
    semantics[0, 0, 0] = 4
    return OccupancyGrid(semantics, None, GRID, stamp_ns)


@pytest.fixture
def node():
    context = Context()
    rclpy.init(context=context, domain_id=own_domain(8))
    node = Node("outputs", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_nothing_is_built_without_subscribers_and_late_ones_get_the_newest(node, monkeypatch):
    built = []
    build_cloud = outputs.cloud_from_occupancy

    def counted(grid, frame_id):
        built.append(grid)
        return build_cloud(grid, frame_id)

    monkeypatch.setattr(outputs, "cloud_from_occupancy", counted)
    published = OccupancyOutputs(node, "base_link", markers_max_rate_hz=1.0)
    for stamp_ns in (1, 2, 3):
        published.publish(occupancy(stamp_ns))
    assert built == []

    clouds, markers = [], []
    node.create_subscription(PointCloud2, "~/occupancy", clouds.append, LATCHED)
    node.create_subscription(MarkerArray, "~/occupancy/markers", markers.append, LATCHED)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def spin_until(condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, "timed out"
            executor.spin_once(timeout_sec=0.05)

    spin_until(lambda: clouds and markers)
    assert [cloud.header.stamp.nanosec for cloud in clouds] == [3] and len(built) == 1

    # markers are held back by their rate, the last one follows; clouds are not
    for stamp_ns in (4, 5, 6):
        published.publish(occupancy(stamp_ns))
    spin_until(lambda: markers[-1].markers[1].header.stamp.nanosec == 6)
    assert len(markers) <= 3  # of four grids
    assert len(built) == 4

    published.clear()
    spin_until(lambda: len(markers[-1].markers) == 1)  # DELETEALL alone
    executor.shutdown()
