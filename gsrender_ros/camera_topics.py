"""Subscriptions of the cameras: images of the type and with the quality of service that are published, CameraInfo
cached apart.
"""

from dataclasses import replace

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gsrender_ros.calibration import RigCalibration
from gsrender_ros.image_conversions import Intrinsics, intrinsics_from_calibration, intrinsics_from_camera_info
from gsrender_ros.layouts import CameraNames
from gsrender_ros.standins import Subscriber
from gsrender_ros.statistics import FrameDropped

CHECK_PERIOD_S = 0.5
_OVERRIDABLE = (QoSPolicyKind.RELIABILITY, QoSPolicyKind.DEPTH)
_TYPES = {"raw": Image, "compressed": CompressedImage}
_OTHER = {"raw": "compressed", "compressed": "raw"}


class CameraTopics:
    """Subscribes to the images and CameraInfo of all cameras.

    Args:
        node: the node that owns the subscriptions.
        cameras: names of the cameras.
        settings: transport, quality of service and lens policy.
        on_image: called with (camera index, message).
        calibration: intrinsics by camera that win over CameraInfo, or None.

    ``cameras`` holds the names in use; with ``image_transport`` auto, topic and type of a camera whose publisher turns
    out to use the other transport are exchanged.
    """

    def __init__(self, node, cameras: tuple[CameraNames, ...], settings, on_image, calibration: RigCalibration | None):
        self._node = node
        self._settings = settings
        self._on_image = on_image
        self.cameras = list(cameras)
        calibrated = calibration.cameras if calibration else {}
        self._calibration = {name: camera for name, camera in calibrated.items() if camera.K is not None}
        self._camera_info: dict[str, CameraInfo] = {}
        self._mismatched: set[int] = set()
        self._best_effort: set[int] = set()
        self._heard: set[int] = set()  # cameras with an image since the last check
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
        node.create_timer(CHECK_PERIOD_S, self._check, clock=steady)

    def intrinsics(self, channels: tuple[str, ...] | None = None) -> list[Intrinsics]:
        """Intrinsics of the cameras with these channels (None: of all), in order.

        Raises:
            FrameDropped: no_camera_info (names the cameras and where their intrinsics are expected), calibration.
        """
        cameras = [camera for camera in self.cameras if channels is None or camera.channel in channels]
        missing = [
            camera
            for camera in cameras
            if camera.camera not in self._calibration and camera.camera not in self._camera_info
        ]
        if missing:
            waiting = [f"{c.camera} ({self._where_info_is(c)})" for c in missing]
            raise FrameDropped(
                "no_camera_info",
                f"no CameraInfo yet of {', '.join(waiting)}: publish it, or give intrinsics in calibration_file",
            )
        return [self._intrinsics_of(camera.camera) for camera in cameras]

    def _where_info_is(self, camera: CameraNames) -> str:
        if not camera.camera_info_topic:
            return "this layout has no topic"
        infos = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(camera.camera_info_topic))
        others = sorted({info.topic_type for info in infos} - {"sensor_msgs/msg/CameraInfo"})
        count = f"{len(infos)} publisher{'' if len(infos) == 1 else 's'}"
        return f"{camera.camera_info_topic}, {count}{', of type ' + ', '.join(others) if others else ''}"

    def known_intrinsics(self, index: int) -> Intrinsics | None:
        """Intrinsics of one camera, None where they are missing or unusable (``intrinsics`` says why)."""
        try:
            return self._intrinsics_of(self.cameras[index].camera)
        except (KeyError, FrameDropped):
            return None

    def _intrinsics_of(self, name: str) -> Intrinsics:
        calibrated = self._calibration.get(name)
        if calibrated is None:
            return intrinsics_from_camera_info(self._camera_info[name], self._settings.distortion, name)
        return intrinsics_from_calibration(calibrated, self._settings.distortion)

    def image_type_name(self, index: int) -> str:
        """Type of a camera's image topic."""
        return _type_name(self.cameras[index].transport)

    def image_topic(self, index: int) -> str:
        """Resolved name of a camera's image topic."""
        return self._node.resolve_topic_name(self.cameras[index].image_topic)

    def _subscribe(self, index: int) -> Subscriber:
        best_effort = index in self._best_effort
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        subscriber = Subscriber(
            self._node,
            _TYPES[self.cameras[index].transport],
            self.cameras[index].image_topic,
            qos_profile=QoSProfile(depth=self._settings.qos_depth, reliability=reliability),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda info, index=index: self._on_incompatible(index, info)
            ),
            qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE, entity_id="best_effort" if best_effort else None),
        )
        subscriber.registerCallback(lambda message: self._on_message(index, message))
        return subscriber

    def _on_message(self, index: int, message) -> None:
        self._heard.add(index)
        self._on_image(index, message)

    def _on_incompatible(self, index: int, info) -> None:
        can_yield = self._settings.qos_reliability == "auto" and index not in self._best_effort
        if can_yield and info.last_policy_kind == QoSPolicyKind.RELIABILITY:
            self._mismatched.add(index)
            return
        self._node.get_logger().error(
            f"{self.image_topic(index)}: a publisher offers an incompatible quality of service "
            f"({QoSPolicyKind(info.last_policy_kind).name}); set qos.reliability:=auto or change the publisher"
        )

    def _check(self) -> None:
        # Not in the event callback itself: it belongs to the subscription that is replaced here.
        while self._mismatched:
            index = self._mismatched.pop()
            self._best_effort.add(index)
            self._node.get_logger().warning(
                f"{self.image_topic(index)} is published BEST_EFFORT: subscribing likewise; large images may be lost"
            )
            self._resubscribe(index)
        for index in set(range(len(self.cameras))) - self._heard:
            self._try_other_transport(index)
        self._heard.clear()

    def _try_other_transport(self, index: int) -> None:
        camera = self.cameras[index]
        other = replace(
            camera,
            image_topic=camera.other_image_topic,
            other_image_topic=camera.image_topic,
            transport=_OTHER[camera.transport],
        )
        if camera.other_image_topic and not self._is_published(camera) and self._is_published(other):
            self.cameras[index] = other
            self._node.get_logger().info(
                f"{camera.camera}: nobody publishes {_type_name(camera.transport)} on "
                f"{self._node.resolve_topic_name(camera.image_topic)}; taking {_type_name(other.transport)} on "
                f"{self.image_topic(index)} (image_transport is auto)"
            )
            self._resubscribe(index)

    def _is_published(self, camera: CameraNames) -> bool:
        topic = self._node.resolve_topic_name(camera.image_topic)
        infos = self._node.get_publishers_info_by_topic(topic)
        return any(info.topic_type == _type_name(camera.transport) for info in infos)

    def _resubscribe(self, index: int) -> None:
        self._node.destroy_subscription(self.image_subscribers[index].sub)
        self.image_subscribers[index] = self._subscribe(index)


def _type_name(transport: str) -> str:
    return f"sensor_msgs/msg/{_TYPES[transport].__name__}"
