"""Live self-check: does the published grid agree with what a LiDAR measures at the same moment?

Figures of ``gsrender_core.metrics.lidar_rays`` over the last grids, in /diagnostics and as std_msgs/Float32 on
``~/self_check/<figure>`` for plotting. A thread of its own does the work: neither callbacks nor inference wait for it.
"""

import threading
import time
from collections import Counter, deque

import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float32

from gsrender_core.classes import FREE, IGNORE, NUM_CLASSES
from gsrender_core.data.lidar_labels import on_own_vehicle
from gsrender_core.geometry import apply
from gsrender_core.metrics.lidar_rays import LidarRayAgreement, compare_rays
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.clouds import CloudError, read_cloud
from gsrender_ros.image_conversions import stamp_to_ns
from gsrender_ros.statistics import FrameDropped

# Topics below ~/self_check and the figures they carry.
TOPICS = {
    "within_1m": "within@1",
    "within_2m": "within@2",
    "within_4m": "within@4",
    "early_2m": "early@2",
    "missed": "missed",
    "free_before_return": "free_before_return",
    "occupied_rayiou": "occupied_rayiou",
    "lidar_rayiou": "lidar_rayiou",
}
# Every reason for which a grid is not compared; ``summary`` counts them.
REASONS = (
    "superseded",  # a newer grid came before this one's turn
    "no_cloud",  # no cloud within self_check.max_offset_s of the grid
    "no_tf",  # the LiDAR's pose is not known
    "bad_cloud",  # unreadable, or without a frame
    "no_returns",  # no return inside the grid
    "error",  # anything else, logged with its text
)
_CLOUDS = 16  # kept: more than a second of a 10 Hz LiDAR
_WAIT_S = 0.5  # wall time that a grid waits for the cloud after its stamp; without one, the nearest before it will do
_RAYS = 20_000  # cast for one grid; of larger clouds every n-th point


class SelfCheck:
    """Compares grids with the nearest cloud in time.

    Args:
        node: owns subscription and publishers.
        settings: ``self_check_*``.
        lookup: ``TransformLookup``; its ego frame is the grids'.

    ``submit`` never blocks. ``summary`` is what /diagnostics shows.
    """

    def __init__(self, node, settings, lookup):
        self._logger = node.get_logger()
        self._lookup = lookup
        self._max_offset_ns = round(settings.self_check_max_offset_s * 1e9)
        self._window: deque[LidarRayAgreement] = deque(maxlen=settings.self_check_window)
        self._clouds: deque[PointCloud2] = deque(maxlen=_CLOUDS)
        self._condition = threading.Condition()
        self._grid: OccupancyGrid | None = None
        self._submitted_at = 0.0
        self._stopping = False
        self._generation = 0
        self._result: dict = {}
        self.clouds_received = 0
        self.compared = 0
        self.skipped: Counter = Counter()
        self.topic = node.resolve_topic_name(settings.self_check_lidar_topic)
        self._publishers = {
            figure: node.create_publisher(Float32, f"~/self_check/{topic}", 10) for topic, figure in TOPICS.items()
        }
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)  # matches every publisher
        node.create_subscription(PointCloud2, settings.self_check_lidar_topic, self.add_cloud, qos)
        self._thread = threading.Thread(target=self._run, name="self_check", daemon=True)
        self._thread.start()

    def add_cloud(self, message: PointCloud2) -> None:
        """Take a cloud; only the newest few are kept."""
        with self._condition:
            self.clouds_received += 1
            self._clouds.append(message)
            self._condition.notify()

    def submit(self, occupancy: OccupancyGrid) -> None:
        """Hand over the newest grid; never blocks."""
        with self._condition:
            overtaken = self._grid is not None
            self._grid, self._submitted_at = occupancy, time.monotonic()
            self._condition.notify()
        if overtaken:
            self.skipped["superseded"] += 1

    def reset(self) -> None:
        """Forget clouds, the waiting grid and all figures: time jumped back, or another network is in use."""
        with self._condition:
            self._clouds.clear()
            self._grid = None
            self._window.clear()
            self._result = {}
            self._generation += 1

    def stop(self) -> None:
        """End the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(5.0)

    def summary(self) -> dict[str, str]:
        """Figures and counts as text; figures are empty before the first comparison."""
        with self._condition:
            result, window = self._result, len(self._window)
        values = {"lidar_topic": self.topic, "clouds": self.clouds_received, "grids_compared": self.compared}
        values |= {f"skipped.{reason}": count for reason, count in sorted(self.skipped.items())}
        values |= {"window_grids": window, "rays": result.get("rays", 0)}
        for topic, figure in TOPICS.items():
            value = result.get(figure, np.nan)
            values[topic] = "" if np.isnan(value) else f"{value:.4f}"
        if result:
            values["depth_error_median_m"] = f"{result['depth_error_m']['q50']:.3f}"
        return {key: str(value) for key, value in values.items()}

    def _run(self) -> None:
        # Compiles, where it is the first time on this machine: seconds that the first grid need not wait.
        compare_rays(
            np.full((1, 1, 1), FREE, np.uint8), np.zeros(3), np.full((1, 3), 0.5), VoxelGrid((0, 0, 0), 1, (1, 1, 1))
        )
        while True:
            with self._condition:
                while not self._stopping and not self._may_compare():
                    self._condition.wait(0.1 if self._grid is not None else None)
                if self._stopping:
                    return
                occupancy, self._grid = self._grid, None
                clouds, generation = list(self._clouds), self._generation
            try:
                agreement = self._compare(occupancy, clouds)
            except FrameDropped as dropped:
                self._skip("no_tf", str(dropped))
            except _Skipped as skipped:
                self._skip(skipped.reason, str(skipped))
            except Exception as error:  # the check must never take the node with it
                self._skip("error", f"{type(error).__name__}: {error}")
            else:
                self._add(agreement, generation)

    def _may_compare(self) -> bool:
        """Whether the nearest cloud is known: one is newer than the grid, or none has come for long."""
        if self._grid is None:
            return False
        newer = any(stamp_to_ns(cloud.header.stamp) >= self._grid.stamp_ns for cloud in self._clouds)
        return newer or time.monotonic() - self._submitted_at > _WAIT_S

    def _compare(self, occupancy: OccupancyGrid, clouds: list[PointCloud2]) -> LidarRayAgreement:
        cloud = min(clouds, key=lambda c: abs(stamp_to_ns(c.header.stamp) - occupancy.stamp_ns), default=None)
        if cloud is None:
            raise _Skipped("no_cloud", f"no cloud on {self.topic}; is it published? see self_check.lidar_topic")
        cloud_ns = stamp_to_ns(cloud.header.stamp)
        offset_ns = abs(cloud_ns - occupancy.stamp_ns)
        if offset_ns > self._max_offset_ns:
            raise _Skipped(
                "no_cloud",
                f"the nearest cloud on {self.topic} is {offset_ns / 1e9:.3f} s from the grid, limit "
                f"self_check.max_offset_s={self._max_offset_ns / 1e9:g}; are both clocks the same?",
            )
        frame = cloud.header.frame_id.lstrip("/")
        if not frame:
            raise _Skipped("bad_cloud", f"clouds on {self.topic} have no frame_id: their sensor's pose is unknown")
        try:
            returns = read_cloud(cloud, point_times="none")
        except CloudError as error:
            raise _Skipped("bad_cloud", f"cloud on {self.topic}: {error}") from error
        rig = self._lookup.rig_pose(occupancy.stamp_ns, [(frame, cloud_ns)], cancelled=lambda: self._stopping)
        T_ego_lidar = rig.T_ego_cam[0]
        stride = -(-len(returns.points) // _RAYS)
        points_ego = apply(T_ego_lidar, returns.points[::stride])
        labels = _class_ids(returns.fields["label"][::stride]) if "label" in returns.fields else None
        keep = ~on_own_vehicle(points_ego)
        agreement = LidarRayAgreement(occupancy.grid)
        agreement.update(
            occupancy.semantics, T_ego_lidar[:3, 3], points_ego[keep], None if labels is None else labels[keep]
        )
        if not agreement.counts["rays"]:
            raise _Skipped("no_returns", f"none of {len(points_ego)} returns on {self.topic} lies inside the grid")
        return agreement

    def _add(self, agreement: LidarRayAgreement, generation: int) -> None:
        with self._condition:
            if generation != self._generation:
                return
            self._window.append(agreement)
            window = list(self._window)
        total = LidarRayAgreement(agreement.grid)
        for part in window:
            total.merge(part)
        result = total.result()
        with self._condition:
            if generation != self._generation:
                return
            self._result, self.compared = result, self.compared + 1
        for figure, publisher in self._publishers.items():
            if not np.isnan(result[figure]) and publisher.get_subscription_count():
                publisher.publish(Float32(data=float(result[figure])))

    def _skip(self, reason: str, text: str) -> None:
        assert reason in REASONS, reason
        self.skipped[reason] += 1
        if not self._stopping:
            self._logger.warning(f"self-check skipped a grid ({reason}): {text}", throttle_duration_sec=10.0)


class _Skipped(Exception):
    """A grid that cannot be compared: ``reason`` is one of REASONS."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


def _class_ids(labels: np.ndarray) -> np.ndarray:
    """``label`` of a cloud as class ids uint8; what is no class of ours is unknown (255)."""
    known = (labels >= 0) & (labels < NUM_CLASSES) & (labels == np.floor(labels))
    return np.where(known, np.where(known, labels, 0).astype(np.uint8), np.uint8(IGNORE))
