"""A vehicle that drives straight on: cameras, CameraInfo, /tf and /clock on time, light enough to run beside the node.

Images are serialised once, only their stamps change. For soaks and fault tests: everything can be made to misbehave.
"""

import array
import math
import struct
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from gsrender_core.geometry import transform
from gsrender_ros.bench_inputs import street_like_jpeg
from gsrender_ros.image_conversions import set_stamp
from gsrender_ros.layouts import LAYOUTS
from gsrender_ros.parameters import DEFAULT_CAMERAS
from gsrender_ros.tf_lookup import message_from_matrix

SPEED_MPS = 8.0
TRIGGER_GAP_S = 0.007  # between two cameras: six of them spread over 35 ms
CLOCK_HZ = 100.0
START_NS = 1_700_000_000_000_000_000
_OPTICAL = (0.5, -0.5, 0.5, -0.5)  # camera axes (x right, z forward) in the ego's (x forward, y left)
_STAMP_AT, _STAMP = 4, struct.Struct("<iI")  # behind the four bytes that name the encoding: header.stamp


@dataclass(frozen=True)
class RigOptions:
    """What is published.

    Attributes:
        cameras: names, the first is the reference; mounted in a ring, looking outwards.
        size: width and height of the images, pixels.
        rate_hz: of every camera.
        pose_rate_hz: of /tf.
        clock: publish /clock, and stamp in that time instead of the wall's.
    """

    cameras: tuple[str, ...] = DEFAULT_CAMERAS
    size: tuple[int, int] = (1600, 900)
    rate_hz: float = 12.0
    pose_rate_hz: float = 50.0
    clock: bool = False


def serialised(camera: str, data: bytes, kind: str = "jpeg") -> bytes:
    """A CompressedImage of encoded bytes, its stamp zero."""
    message = CompressedImage(format=kind, data=array.array("B", data))
    message.header.frame_id = camera
    return serialize_message(message)


def camera_info(camera: str, size: tuple[int, int]) -> CameraInfo:
    """CameraInfo of a lens that looks about 65 degrees wide."""
    width, height = size
    focal = 0.79 * width
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = camera
    message.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    message.p = [focal, 0.0, width / 2, 0.0, 0.0, focal, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


class SyntheticRig:
    """Publishes what is due whenever ``publish_due`` is called.

    ``silent`` cameras publish nothing; ``images`` (serialised) and ``infos`` are what each camera sends; ``poses``
    can be switched off, ``pose_offset_m`` moves the vehicle sideways; ``jump`` moves the time. ``published`` counts
    images by camera.

    Args:
        node: owns the publishers.
        options: what is published.
    """

    def __init__(self, node, options: RigOptions = RigOptions()):  # noqa: B008 (frozen)
        self._node, self.options = node, options
        self.silent: set[str] = set()
        self.poses, self.pose_offset_m = True, 0.0
        self.published: Counter = Counter()
        self.images = {
            camera: serialised(camera, bytes(street_like_jpeg(seed, options.size).data))
            for seed, camera in enumerate(options.cameras)
        }
        self.infos = {camera: camera_info(camera, options.size) for camera in options.cameras}
        layout = LAYOUTS["gsrender"]
        self.image_topics = {c: "/" + layout.compressed_topic.replace("{camera}", c) for c in options.cameras}
        self._image_publishers = {}
        for camera in options.cameras:
            self.offer(camera)
        self._info_publishers = {
            c: node.create_publisher(CameraInfo, "/" + layout.camera_info_topic.replace("{camera}", c), 10)
            for c in options.cameras
        }
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static_publisher = node.create_publisher(TFMessage, "/tf_static", latched)
        self._static_publisher.publish(TFMessage(transforms=self._mountings()))
        self._pose_publisher = node.create_publisher(TFMessage, "/tf", 100)
        self._clock_publisher = node.create_publisher(Clock, "/clock", 10) if options.clock else None
        self._began, self._began_ns = time.monotonic(), START_NS if options.clock else time.time_ns()
        self._due: dict[tuple, float] = {}
        self._paused_at: float | None = None
        self._schedule()

    def offer(self, camera: str, kind=CompressedImage, reliability=ReliabilityPolicy.RELIABLE) -> None:
        """Publish a camera's topic anew, with another type or quality of service; another type carries nothing."""
        if camera in self._image_publishers:
            self._node.destroy_publisher(self._image_publishers[camera])
        qos = QoSProfile(depth=10, reliability=reliability)
        self._image_publishers[camera] = self._node.create_publisher(kind, self.image_topics[camera], qos)

    def jump(self, seconds: float) -> None:
        """Move time, as a bag that starts again does."""
        self._began_ns += round(seconds * 1e9)

    def pause(self) -> None:
        """Publish nothing, not even /clock, until ``resume``; the rig's time stands still."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Go on where ``pause`` stopped."""
        paused_s = time.monotonic() - self._paused_at
        self._paused_at = None
        self._began += paused_s
        self._due = {event: due + paused_s for event, due in self._due.items()}

    def now_ns(self) -> int:
        """The rig's time."""
        return self._began_ns + round((time.monotonic() - self._began) * 1e9)

    def set_rate(self, rate_hz: float) -> None:
        """Change the rate of all cameras."""
        self.options = RigOptions(**{**vars(self.options), "rate_hz": rate_hz})
        self._schedule()

    def publish_due(self) -> float:
        """Publish everything whose time has come; seconds until the next."""
        if self._paused_at is not None:
            return 0.05
        now = time.monotonic()
        for event, due in self._due.items():
            if due <= now:
                kind, *camera = event
                # Stamps are those of the plan: every set of images is like every other.
                getattr(self, f"_publish_{kind}")(self._began_ns + round((due - self._began) * 1e9), *camera)
                # What could not be sent in time is left out: a burst would be no test of anything.
                period_s = self._period_s(kind)
                self._due[event] = due + period_s * max(1, math.ceil((now - due) / period_s))
        return max(0.0, min(self._due.values()) - time.monotonic())

    def _period_s(self, kind: str) -> float:
        rates = {"image": self.options.rate_hz, "pose": self.options.pose_rate_hz, "clock": CLOCK_HZ}
        return 1.0 / rates[kind]

    def _schedule(self) -> None:
        now = time.monotonic()
        self._due = {("image", camera): now + n * TRIGGER_GAP_S for n, camera in enumerate(self.options.cameras)}
        self._due["pose",] = now
        if self._clock_publisher is not None:
            self._due["clock",] = now

    def _publish_clock(self, stamp_ns: int) -> None:
        message = Clock()
        set_stamp(message.clock, stamp_ns)
        self._clock_publisher.publish(message)

    def _publish_pose(self, stamp_ns: int) -> None:
        if not self.poses:
            return
        T_map_ego = np.eye(4)
        T_map_ego[:2, 3] = (stamp_ns - START_NS) % 10**12 / 1e9 * SPEED_MPS, self.pose_offset_m
        self._pose_publisher.publish(
            TFMessage(transforms=[message_from_matrix(T_map_ego, "map", "base_link", stamp_ns)])
        )

    def _publish_image(self, stamp_ns: int, camera: str) -> None:
        publisher = self._image_publishers[camera]
        if camera in self.silent or publisher.msg_type is not CompressedImage:
            return
        data, info = self.images[camera], self.infos[camera]
        stamp = _STAMP.pack(*divmod(stamp_ns, 1_000_000_000))
        publisher.publish(data[:_STAMP_AT] + stamp + data[_STAMP_AT + _STAMP.size :])
        set_stamp(info.header.stamp, stamp_ns)
        self._info_publishers[camera].publish(info)
        self.published[camera] += 1

    def _mountings(self) -> list[TransformStamped]:
        mountings = []
        for n, camera in enumerate(self.options.cameras):
            angle = -2 * np.pi * n / len(self.options.cameras)
            T_ego_ring = transform((np.cos(angle / 2), 0, 0, np.sin(angle / 2)), (0.5, 0.0, 1.5))
            T_ring_cam = transform(_OPTICAL, (0.8, 0.0, 0.0))
            mountings.append(message_from_matrix(T_ego_ring @ T_ring_cam, "base_link", camera))
        return mountings
