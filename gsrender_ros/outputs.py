"""What the node publishes of a prediction: latched, and built only for those who listen."""

import functools
import threading
import time
from collections import Counter

from nav_msgs.msg import OccupancyGrid as OccupancyMap
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from gsrender_ros.conversions import cloud_from_occupancy, cloud_points
from gsrender_ros.debug_images import CameraView
from gsrender_ros.layouts import camera_names
from gsrender_ros.occupancy_projection import MapBand, cells_of_map, map_from_occupancy
from gsrender_ros.prediction import Prediction
from gsrender_ros.visualization import MarkerBuilder, empty_markers, every_class

# Matches every subscriber, and hands the last grid to one that comes late.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
CATCH_UP_PERIOD_S = 0.25
_OVERRIDABLE = (QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY, QoSPolicyKind.DEPTH)


class _Output:
    """One topic: builds a message of the newest prediction when somebody listens, at most ``max_rate_hz``.

    ``build`` returns None where a prediction has nothing for the topic.
    """

    def __init__(self, publisher, build, max_rate_hz: float = float("inf")):
        self.publisher = publisher
        self._build = build
        self._period_s = 1.0 / max_rate_hz
        self._published_at = -float("inf")
        self._published: Prediction | None = None
        self.topic = publisher.topic_name

    def update(self, prediction: Prediction | None) -> bool:
        """Publish if there is something new and somebody who listens; whether it did."""
        if prediction is None or prediction is self._published or not self.publisher.get_subscription_count():
            return False
        now = time.monotonic()
        if now - self._published_at < self._period_s:
            return False
        self._published, self._published_at = prediction, now  # first: what cannot be built is not tried again
        message = self._build(prediction)
        if message is not None:
            self.publisher.publish(message)
        return message is not None


class OccupancyOutputs:
    """All topics of the newest prediction: cloud, markers, map, and pictures by camera.

    A message is built only for a topic with subscribers. Who subscribes later, or was left out by a
    rate limit, gets the newest prediction within a quarter of a second. A message that cannot be built or published is
    counted in ``failures`` by topic, said, and left out; the other topics go on. Debug images take long: a thread of
    their own makes them, of the newest prediction only, until ``close``.

    Args:
        node: owns publishers and timer.
        settings: frames, rate limits, map and debug images.
    """

    def __init__(self, node, settings):
        self._logger = node.get_logger()
        self._ego_frame = settings.ego_frame
        self._overrides = QoSOverridingOptions(_OVERRIDABLE)
        self._node = node
        self.published: Counter = Counter()
        self.failures: Counter = Counter()
        self._newest: Prediction | None = None
        self._views: tuple[Prediction | None, dict[str, CameraView]] = (None, {})
        self._lock = threading.Lock()  # the worker publishes, the executor catches up
        self._wake = threading.Event()
        self._closing = False
        build_markers = MarkerBuilder(self._logger)
        band = MapBand(settings.map_min_z_m, settings.map_max_z_m, settings.map_drivable_classes)
        # Compiles, where it is the first time on this machine: seconds that the first grid need not wait.
        sample = every_class()
        cloud_points(sample)
        cells_of_map(sample.semantics, sample.grid, band)
        ego_frame = settings.ego_frame
        markers = self._create(
            MarkerArray, "~/occupancy/markers", lambda p: build_markers(p.occupancy, ego_frame),
            settings.markers_max_rate_hz,
        )  # fmt: skip
        self._markers = markers.publisher
        self._outputs = [
            self._create(PointCloud2, "~/occupancy", lambda p: cloud_from_occupancy(p.occupancy, ego_frame)),
            self._create(OccupancyMap, "~/occupancy/map", lambda p: map_from_occupancy(p.occupancy, ego_frame, band)),
            markers,
        ]
        self._debug_outputs = self._create_debug_outputs(settings)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._timer = node.create_timer(CATCH_UP_PERIOD_S, self._catch_up, clock=steady)
        self._debug_thread = threading.Thread(target=self._make_debug_images, name="debug_images", daemon=True)
        self._debug_thread.start()

    @property
    def listened_to(self) -> bool:
        """Whether anybody subscribes to any of the topics."""
        return any(output.publisher.get_subscription_count() for output in (*self._outputs, *self._debug_outputs))

    def publish(self, prediction: Prediction) -> None:
        """Publish a prediction where somebody listens."""
        with self._lock:
            self._newest = prediction
            self._update(self._outputs, prediction)
        self._wake.set()

    def clear(self) -> None:
        """Forget the newest prediction and delete the markers."""
        with self._lock:
            self._newest = None
            self._markers.publish(empty_markers(self._ego_frame))

    def close(self) -> None:
        """End the thread of the debug images."""
        self._closing = True
        self._wake.set()
        self._debug_thread.join(5.0)

    def _create(self, kind, topic: str, build, max_rate_hz: float = float("inf")) -> _Output:
        publisher = self._node.create_publisher(kind, topic, LATCHED, qos_overriding_options=self._overrides)
        return _Output(publisher, build, max_rate_hz)

    def _create_debug_outputs(self, settings) -> list[_Output]:
        rate_hz, shrink, overlay = settings.debug_max_rate_hz, settings.debug_shrink, settings.debug_overlay
        outputs = []
        for camera in camera_names(settings):
            base = f"~/debug/{camera.camera}"

            def view(prediction, make, channel=camera.channel):
                found = self._view(prediction, channel, shrink)
                return None if found is None else make(found)

            # CameraInfo first: who matches it with the images by stamp need not wait.
            for kind, name, make in (
                (CameraInfo, "camera_info", CameraView.camera_info),
                (Image, "semantic", lambda v: v.semantic_message(overlay)),
                (Image, "depth", CameraView.depth_message),
            ):
                build = functools.partial(view, make=make)
                outputs.append(self._create(kind, f"{base}/{name}", build, rate_hz))
        return outputs

    def _view(self, prediction: Prediction, channel: str, shrink: int) -> CameraView | None:
        """The camera's view, whose rays serve both images; None where the camera had no part in the prediction."""
        if channel not in prediction.frame.camera_names:
            return None
        if self._views[0] is not prediction:
            self._views = prediction, {}
        views = self._views[1]
        if channel not in views:
            views[channel] = CameraView(prediction, prediction.frame.camera_names.index(channel), shrink)
        return views[channel]

    def _catch_up(self) -> None:
        with self._lock:
            self._update(self._outputs, self._newest)
        self._wake.set()

    def _make_debug_images(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closing:
                return
            with self._lock:
                newest = self._newest
            self._update(self._debug_outputs, newest)

    def _update(self, outputs: list[_Output], prediction: Prediction | None) -> None:
        for output in outputs:
            try:
                if output.update(prediction):
                    self.published[output.topic] += 1
            except Exception as error:  # one topic must not take the others, or the worker, with it
                self.failures[output.topic] += 1
                if not self._closing:
                    self._logger.error(
                        f"{output.topic}: this grid is not published: {type(error).__name__}: {error}; "
                        f"{self.failures[output.topic]} so far, other topics go on",
                        throttle_duration_sec=5.0,
                    )
