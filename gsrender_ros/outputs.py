"""What the node publishes: cloud and markers, latched, and only for those who listen."""

import threading
import time

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from gsrender_core.voxel_grid import OccupancyGrid
from gsrender_ros.conversions import cloud_from_occupancy
from gsrender_ros.visualization import MarkerBuilder, empty_markers

# Matches every subscriber, and hands the last grid to one that comes late.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
CATCH_UP_PERIOD_S = 0.25
_OVERRIDABLE = (QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY, QoSPolicyKind.DEPTH)


class _Output:
    """One topic: builds a message of the newest grid when somebody listens, at most ``max_rate_hz``."""

    def __init__(self, publisher, build, max_rate_hz: float = float("inf")):
        self._publisher = publisher
        self._build = build
        self._period_s = 1.0 / max_rate_hz
        self._published_at = -float("inf")
        self._published: OccupancyGrid | None = None

    def update(self, occupancy: OccupancyGrid | None) -> None:
        if occupancy is None or occupancy is self._published or not self._publisher.get_subscription_count():
            return
        now = time.monotonic()
        if now - self._published_at < self._period_s:
            return
        self._publisher.publish(self._build(occupancy))
        self._published, self._published_at = occupancy, now


class OccupancyOutputs:
    """``~/occupancy`` (PointCloud2) and ``~/occupancy/markers`` (MarkerArray) of the newest grid.

    A message is built only for a topic with subscribers. Who subscribes later, or was left out by the
    rate limit of the markers, gets the newest grid within a quarter of a second.

    Args:
        node: owns publishers and timer.
        ego_frame: frame_id of all messages.
        markers_max_rate_hz: rate limit of the markers.
    """

    def __init__(self, node, ego_frame: str, markers_max_rate_hz: float):
        overrides = QoSOverridingOptions(_OVERRIDABLE)
        clouds = node.create_publisher(PointCloud2, "~/occupancy", LATCHED, qos_overriding_options=overrides)
        self._markers = node.create_publisher(
            MarkerArray, "~/occupancy/markers", LATCHED, qos_overriding_options=overrides
        )
        build_markers = MarkerBuilder(node.get_logger())
        self._ego_frame = ego_frame
        self._outputs = (
            _Output(clouds, lambda occupancy: cloud_from_occupancy(occupancy, ego_frame)),
            _Output(self._markers, lambda occupancy: build_markers(occupancy, ego_frame), markers_max_rate_hz),
        )
        self._newest: OccupancyGrid | None = None
        self._lock = threading.Lock()  # the worker publishes, the executor catches up
        # steady: simulated time may stand still
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(CATCH_UP_PERIOD_S, self._catch_up, clock=steady)

    def publish(self, occupancy: OccupancyGrid) -> None:
        """Publish a grid where somebody listens."""
        with self._lock:
            self._newest = occupancy
            for output in self._outputs:
                output.update(occupancy)

    def clear(self) -> None:
        """Forget the newest grid and delete the markers."""
        with self._lock:
            self._newest = None
            self._markers.publish(empty_markers(self._ego_frame))

    def _catch_up(self) -> None:
        with self._lock:
            for output in self._outputs:
                output.update(self._newest)
