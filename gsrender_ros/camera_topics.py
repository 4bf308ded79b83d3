"""Subscriptions of the cameras: images with a quality of service that matches, CameraInfo cached apart."""

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gsrender_ros.calibration import RigCalibration
from gsrender_ros.image_conversions import Intrinsics, intrinsics_from_camera_info
from gsrender_ros.layouts import CameraNames
from gsrender_ros.standins import Subscriber
from gsrender_ros.statistics import FrameDropped

QOS_CHECK_PERIOD_S = 0.5
_OVERRIDABLE = (QoSPolicyKind.RELIABILITY, QoSPolicyKind.DEPTH)


class CameraTopics:
    """Subscribes to the images and CameraInfo of all cameras.

    Args:
        node: the node that owns the subscriptions.
        cameras: names of the cameras.
        settings: transport, quality of service and lens policy.
        on_image: called with (camera index, message).
        calibration: intrinsics by camera that win over CameraInfo, or None.
    """

    def __init__(self, node, cameras: tuple[CameraNames, ...], settings, on_image, calibration: RigCalibration | None):
        self._node = node
        self._settings = settings
        self._on_image = on_image
        self.cameras = cameras
        self._calibration = calibration.cameras if calibration else {}
        self._camera_info: dict[str, CameraInfo] = {}
        self._mismatched: set[int] = set()
        self._best_effort: set[int] = set()
        self._image_type = CompressedImage if settings.image_transport == "compressed" else Image
        if settings.qos_reliability == "best_effort":
            self._best_effort = set(range(len(cameras)))
        self.image_subscribers = [self._subscribe(index) for index in range(len(cameras))]
        # BEST_EFFORT matches every publisher, and a lost CameraInfo is followed by the next.
        info_qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._info_subscriptions = [
            node.create_subscription(
                CameraInfo,
                camera.camera_info_topic,
                lambda message, name=camera.camera: self._camera_info.__setitem__(name, message),
                info_qos,
            )
            for camera in cameras
            if camera.camera_info_topic and camera.camera not in self._calibration
        ]
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        node.create_timer(QOS_CHECK_PERIOD_S, self._resubscribe_mismatched, clock=steady)

    def intrinsics(self) -> list[Intrinsics]:
        """Intrinsics of all cameras in order.

        Raises:
            FrameDropped: no_camera_info (names the cameras and where their intrinsics are expected), calibration.
        """
        missing = [
            camera
            for camera in self.cameras
            if camera.camera not in self._calibration and camera.camera not in self._camera_info
        ]
        if missing:
            waiting = [f"{c.camera} ({c.camera_info_topic or 'this layout has no topic'})" for c in missing]
            raise FrameDropped(
                "no_camera_info",
                f"no CameraInfo yet of {', '.join(waiting)}: publish it, or give intrinsics in calibration_file",
            )
        found = []
        for camera in self.cameras:
            calibrated = self._calibration.get(camera.camera)
            if calibrated is not None:
                found.append(Intrinsics(calibrated.K, (calibrated.width, calibrated.height), camera.camera))
            else:
                message = self._camera_info[camera.camera]
                found.append(intrinsics_from_camera_info(message, self._settings.distortion, camera.camera))
        return found

    @property
    def image_type_name(self) -> str:
        """Type of the image topics."""
        return f"sensor_msgs/msg/{self._image_type.__name__}"

    def image_topic(self, index: int) -> str:
        """Resolved name of a camera's image topic."""
        return self._node.resolve_topic_name(self.cameras[index].image_topic)

    def _subscribe(self, index: int) -> Subscriber:
        best_effort = index in self._best_effort
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        subscriber = Subscriber(
            self._node,
            self._image_type,
            self.cameras[index].image_topic,
            qos_profile=QoSProfile(depth=self._settings.qos_depth, reliability=reliability),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda info, index=index: self._on_incompatible(index, info)
            ),
            qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE, entity_id="best_effort" if best_effort else None),
        )
        subscriber.registerCallback(lambda message: self._on_image(index, message))
        return subscriber

    def _on_incompatible(self, index: int, info) -> None:
        can_yield = self._settings.qos_reliability == "auto" and index not in self._best_effort
        if can_yield and info.last_policy_kind == QoSPolicyKind.RELIABILITY:
            self._mismatched.add(index)
            return
        self._node.get_logger().error(
            f"{self.image_topic(index)}: a publisher offers an incompatible quality of service "
            f"({QoSPolicyKind(info.last_policy_kind).name}); set qos.reliability:=auto or change the publisher"
        )

    def _resubscribe_mismatched(self) -> None:
        # Not in the event callback itself: it belongs to the subscription that is replaced here.
        while self._mismatched:
            index = self._mismatched.pop()
            self._best_effort.add(index)
            self._node.get_logger().warning(
                f"{self.image_topic(index)} is published BEST_EFFORT: subscribing likewise; large images may be lost"
            )
            self._node.destroy_subscription(self.image_subscribers[index].sub)
            self.image_subscribers[index] = self._subscribe(index)
