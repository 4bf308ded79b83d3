"""The self-check against clouds that say what the grid says, or do not; every skip has its reason."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_processes import PATIENCE_S, own_domain
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Float32

from gsrender_core.classes import FREE
from gsrender_core.geometry import transform
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.frame_assembly import RigPose
from gsrender_ros.parameters import Settings
from gsrender_ros.self_check import SelfCheck, _class_ids
from gsrender_ros.statistics import FrameDropped

GRID = VoxelGrid((-10.0, -10.0, -1.0), 0.5, (40, 40, 10))
T_EGO_LIDAR = transform((0.5**0.5, 0, 0, 0.5**0.5), (0.0, 4.0, 1.8))  # the LiDAR's x is the ego's y
SECOND_NS = 1_000_000_000


class Lookup:
    """Knows where the frame lidar was; the tests of the real look-up are its own."""

    def __init__(self):
        self.asked = []

    def rig_pose(self, stamp_ns, cameras, cancelled):
        self.asked.append((stamp_ns, cameras))
        if cameras[0][0] != "lidar":
            raise FrameDropped("no_tf", f"No transform base_link <- {cameras[0][0]}")
        return RigPose(T_EGO_LIDAR[None], np.eye(4))


@pytest.fixture
def bench():
    context = Context()
    rclpy.init(context=context, domain_id=own_domain(17))
    node = Node("occupancy_node", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    settings = Settings(self_check_lidar_topic="lidar", self_check_max_offset_s=0.1, self_check_window=2)
    lookup = Lookup()
    check = SelfCheck(node, settings, lookup)

    def wait_until(condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"timed out: {check.summary()}"
            executor.spin_once(timeout_sec=0.01)

    yield SimpleNamespace(node=node, check=check, lookup=lookup, wait_until=wait_until)
    check.stop()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def wall(x_index: int, stamp_ns: int) -> OccupancyGrid:
    """A wall of class 15 across the ego's y axis; ``x_index`` is its voxel row along y."""
    semantics = np.full(GRID.shape, FREE, np.uint8)
    semantics[:, x_index] = 15
    return OccupancyGrid(semantics, None, GRID, stamp_ns)


def cloud(stamp_ns: int, frame: str = "lidar", distance: float = 4.2, labels: bool = False) -> PointCloud2:
    """Returns of a wall ``distance`` ahead of the LiDAR (y = 8.2 m: voxel row 36), and one that is NaN."""
    dtype = np.dtype({"names": ["x", "y", "z", "label"], "formats": ["<f4"] * 3 + ["<u4"], "itemsize": 20,
                      "offsets": [0, 4, 8, 16]})  # fmt: skip
    points = np.zeros(41, dtype)
    points["x"], points["y"] = distance, np.linspace(-2, 2, 41)
    points["label"] = 15
    points["x"][0] = np.nan
    message = PointCloud2(width=41, height=1, point_step=20, row_step=820)
    names = [*"xyz", *(["label"] if labels else [])]
    message.fields = [
        PointField(name=n, offset=dtype.fields[n][1], datatype=6 if n == "label" else 7, count=1) for n in names
    ]
    message.data = points.tobytes()
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, SECOND_NS)
    return message


def test_agreement_by_hand_on_topics_and_in_the_summary(bench):
    figures = []
    bench.node.create_subscription(Float32, "~/self_check/within_1m", figures.append, 10)
    clouds = bench.node.create_publisher(PointCloud2, "lidar", 10)
    bench.wait_until(lambda: clouds.get_subscription_count() and bench.node.count_subscribers("~/self_check/within_1m"))
    for stamp_s in (9.0, 10.05):
        clouds.publish(cloud(int(stamp_s * SECOND_NS), labels=True))
    bench.wait_until(lambda: bench.check.clouds_received == 2)
    bench.check.submit(wall(36, 10 * SECOND_NS))
    bench.wait_until(lambda: figures)
    # The nearer cloud in time, its sensor where it stood at that cloud's stamp.
    assert bench.lookup.asked == [(10 * SECOND_NS, [("lidar", int(10.05 * SECOND_NS))])]
    assert figures[0].data == 1.0
    values = bench.check.summary()
    assert (values["rays"], values["within_1m"], values["missed"], values["lidar_rayiou"]) == (
        "40", "1.0000", "0.0000", "1.0000",
    )  # fmt: skip
    # A wall 3 m nearer: half of the rays of the window agree; then two more, and the window forgets the first.
    bench.check.submit(wall(30, 10 * SECOND_NS))
    bench.wait_until(lambda: bench.check.compared == 2)
    values = bench.check.summary()
    assert (values["rays"], values["within_2m"], values["within_4m"], values["early_2m"]) == (
        "80", "0.5000", "1.0000", "0.5000",
    )  # fmt: skip
    bench.check.submit(wall(30, 10 * SECOND_NS))
    bench.wait_until(lambda: bench.check.compared == 3)
    assert bench.check.summary()["within_2m"] == "0.0000"
    bench.check.reset()
    assert bench.check.summary()["within_2m"] == "" and bench.check.summary()["window_grids"] == "0"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (None, "no_cloud"),
        (cloud(int(10.2 * SECOND_NS)), "no_cloud"),
        (cloud(10 * SECOND_NS, frame="elsewhere"), "no_tf"),
        (cloud(10 * SECOND_NS, frame=""), "bad_cloud"),
        (PointCloud2(header=cloud(10 * SECOND_NS).header), "bad_cloud"),
        (cloud(10 * SECOND_NS, distance=30.0), "no_returns"),
    ],
)
def test_every_skip_has_its_reason_and_the_next_grid_is_compared(bench, message, reason):
    if message is not None:
        bench.check.add_cloud(message)
    bench.check.submit(wall(36, 10 * SECOND_NS))
    bench.wait_until(lambda: bench.check.skipped[reason] == 1)
    assert sum(bench.check.skipped.values()) == 1 and bench.check.compared == 0
    bench.check.add_cloud(cloud(20 * SECOND_NS))
    bench.check.submit(wall(36, 20 * SECOND_NS))
    bench.wait_until(lambda: bench.check.compared == 1)


def test_what_is_overtaken_is_counted_and_nothing_waits(bench):
    for stamp_s in range(50):
        bench.check.submit(wall(36, stamp_s * SECOND_NS))
    bench.check.add_cloud(cloud(49 * SECOND_NS))
    bench.wait_until(lambda: bench.check.compared + sum(bench.check.skipped.values()) == 50)
    assert bench.check.skipped["superseded"] >= 48


def test_an_unexpected_error_is_survived(bench, monkeypatch):
    monkeypatch.setattr(bench.lookup, "rig_pose", lambda *_, **__: 1 / 0)
    bench.check.add_cloud(cloud(10 * SECOND_NS))
    bench.check.submit(wall(36, 10 * SECOND_NS))
    bench.wait_until(lambda: bench.check.skipped["error"] == 1)


def test_labels_that_are_no_class_are_unknown():
    assert _class_ids(np.array([0, 16, 17, 255, 4096])).tolist() == [0, 16, 255, 255, 255]
    assert _class_ids(np.array([-1.0, 3.0, 3.5, np.nan], np.float32)).tolist() == [255, 3, 255, 255]
