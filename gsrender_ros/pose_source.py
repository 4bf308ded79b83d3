"""Where poses come from: /tf and /tf_static, or Odometry with mountings from a calibration file, in one buffer."""

import threading
import time

from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy

from gsrender_ros.calibration import RigCalibration
from gsrender_ros.layouts import effective, fixed_frame, mounting_frame
from gsrender_ros.odometry import OdometryTransforms
from gsrender_ros.side_node import SideNode
from gsrender_ros.standins import GENUINE, Buffer, TransformListener
from gsrender_ros.tf_lookup import TransformLookup, message_from_matrix
from gsrender_ros.transform_gate import TransformGate

# After the clock jumped back, the images' own jump follows at once and must not clear the new transforms.
JUMP_SETTLES_S = 2.0


class PoseSource:
    """Fills a transform buffer, in a thread of its own from ``start`` to ``close``: images make no transform wait.

    Args:
        node: the program's own; the subscriptions belong to a second one beside it.
        settings: frames, ``pose_source``, cache.
        calibration: mountings, or None.

    Attributes:
        buffer: tf2_ros Buffer or its stand-in.
        lookup: looks rig poses up in it.
        source: what ``pose_source`` came to: tf or odometry.
        odometry: what became of the Odometry messages.

    Raises:
        ValueError: what is asked for cannot be had here; one line.
    """

    def __init__(self, node, settings, calibration: RigCalibration | None):
        self._own_fixed_frame = bool(settings.fixed_frame)
        self.buffer = Buffer(cache_time=Duration(seconds=settings.tf_cache_s), node=node)
        self._gate = TransformGate(self.buffer, round(settings.tf_cache_s * 1e9), node.get_logger())
        self._lock = threading.Lock()  # a pose that arrives while time is told to have jumped belongs to one side of it
        self._jumped_at = -float("inf")
        frames = (settings.ego_frame.lstrip("/"), fixed_frame(settings).lstrip("/"))
        self.lookup = TransformLookup(self.buffer, *frames, settings.tf_wait_s, settings.tf_max_speed_mps)
        self.odometry = OdometryTransforms(settings.ego_frame, settings.tf_max_speed_mps, node.get_logger())
        settings = effective(settings)
        source = settings.pose_source
        if source == "tf" and not GENUINE["tf2_msgs"]:
            raise ValueError(
                "pose_source is 'tf', but tf2_msgs is not installed: install it (make setup builds it where a C "
                "compiler is), or use pose_source:=odometry with a calibration_file"
            )
        if source == "auto":
            source = "tf" if GENUINE["tf2_msgs"] else "odometry"
            if source == "odometry":
                node.get_logger().warning(
                    "tf2_msgs is not installed: poses come from Odometry, mountings from calibration_file"
                )
        self.source = source
        if source == "odometry" and not GENUINE["tf2_msgs"] and calibration is None:
            raise ValueError(
                "without tf2_msgs the mounting of the cameras must come from a file: set calibration_file (bags of "
                "`gsrender to-bag` carry one beside their data), or install tf2_msgs"
            )
        self._side = SideNode(node, "transforms", ("/tf", "/tf_static"))
        if GENUINE["tf2_msgs"]:
            self._listener = TransformListener(self._gate, self._side.node)
        if source == "odometry":
            qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
            topic = node.resolve_topic_name(settings.odometry_topic)
            self._odometry = self._side.node.create_subscription(Odometry, topic, self._on_odometry, qos)
        for camera in calibration.cameras.values() if calibration else ():
            if camera.T_ego_cam is not None:
                self.buffer.set_transform_static(
                    message_from_matrix(camera.T_ego_cam, calibration.ego_frame, mounting_frame(camera.camera)),
                    "calibration_file",
                )

    def start(self) -> None:
        """Receive from now on."""
        self._side.start()

    def close(self) -> None:
        """Receive nothing more."""
        self._side.close()

    def clear(self) -> None:
        """Forget all that moves."""
        self._clear(None)

    def clock_jumped(self, after_ns: int) -> None:
        """The clock went back to ``after_ns``: forget all that moves and is of the time before."""
        self._clear(after_ns)
        self._jumped_at = time.monotonic()

    def stamps_jumped(self, after_ns: int) -> None:
        """Stamps of images went back to ``after_ns``: likewise, unless the clock's own jump has just done that."""
        if time.monotonic() - self._jumped_at > JUMP_SETTLES_S:
            self.clock_jumped(after_ns)

    def _clear(self, after_ns: int | None) -> None:
        with self._lock:
            self._gate.clear(after_ns)
            self.odometry.clear()

    def _on_odometry(self, message: Odometry) -> None:
        with self._lock:
            transform, jumped = self.odometry(message)
            if transform is None:
                return
            if jumped:
                self._gate.clear()  # a pose between before and after the jump would be nowhere
            if not self._own_fixed_frame:
                self.lookup.fixed_frame = message.header.frame_id.lstrip("/")
            self._gate.set_transform(transform, "odometry")
