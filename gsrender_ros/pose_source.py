"""Where poses come from: /tf and /tf_static, or Odometry with mountings from a calibration file, in one buffer."""

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy

from gsrender_ros.calibration import RigCalibration
from gsrender_ros.layouts import fixed_frame
from gsrender_ros.standins import GENUINE, Buffer, TransformListener
from gsrender_ros.tf_lookup import TransformLookup, message_from_matrix


class PoseSource:
    """Fills a transform buffer.

    Args:
        node: owns the subscriptions.
        settings: frames, ``pose_source``, cache.
        calibration: mountings, or None.

    Attributes:
        buffer: tf2_ros Buffer or its stand-in.
        lookup: looks rig poses up in it.
        source: what ``pose_source`` came to: tf or odometry.

    Raises:
        ValueError: what is asked for cannot be had here; one line.
    """

    def __init__(self, node, settings, calibration: RigCalibration | None):
        self._fixed_frame = settings.fixed_frame
        self.buffer = Buffer(cache_time=Duration(seconds=settings.tf_cache_s), node=node)
        self.lookup = TransformLookup(self.buffer, settings.ego_frame, fixed_frame(settings), settings.tf_wait_s)
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
        if GENUINE["tf2_msgs"]:
            self._listener = TransformListener(self.buffer, node)
        if source == "odometry":
            qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._odometry = node.create_subscription(Odometry, settings.odometry_topic, self._on_odometry, qos)
        for camera in calibration.cameras.values() if calibration else ():
            if camera.T_ego_cam is not None:
                self.buffer.set_transform_static(
                    message_from_matrix(camera.T_ego_cam, calibration.ego_frame, camera.frame_id), "calibration_file"
                )

    def _on_odometry(self, message: Odometry) -> None:
        transform = TransformStamped(header=message.header, child_frame_id=message.child_frame_id)
        position = message.pose.pose.position
        translation = transform.transform.translation
        translation.x, translation.y, translation.z = position.x, position.y, position.z
        transform.transform.rotation = message.pose.pose.orientation
        if not self._fixed_frame:
            self.lookup.fixed_frame = message.header.frame_id.lstrip("/")
        self.buffer.set_transform(transform, "odometry")
