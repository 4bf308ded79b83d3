"""A small recording for tests: two cameras, a LiDAR, a vehicle that drives straight on at 5 m/s, written as asked."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gsrender_core.geometry import transform
from gsrender_ros import bag_messages as messages

SIZE = (64, 40)
START_NS = 1_600_000_000_000_000_000
STEP_NS = 100_000_000  # of sets of images; a sweep 10 ms before each
SPEED_MPS = 5.0
CAMERAS = ("cam_front", "cam_back")
K = np.array([[30.0, 0, 32], [0, 30.0, 20], [0, 0, 1]])
LOOKS_FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
LOOKS_BACK = np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])
MOUNTINGS = {
    "cam_front": transform(LOOKS_FORWARD, (1.5, 0.0, 1.5)),
    "cam_back": transform(LOOKS_BACK, (-0.5, 0.0, 1.5)),
    "lidar_top": transform(np.eye(3), (1.0, 0.0, 1.8)),
}
IMAGE, INFO, CLOUD = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2"
TF, ODOMETRY = "tf2_msgs/msg/TFMessage", "nav_msgs/msg/Odometry"


@dataclass
class Recording:
    """(topic, type, log time in ns, message) in any order."""

    rows: list[tuple] = field(default_factory=list)

    def without(self, *parts: str) -> "Recording":
        """Without topics that contain one of the texts."""
        return Recording([row for row in self.rows if not any(part in row[0] for part in parts)])

    def ordered(self) -> list[tuple]:
        return sorted(self.rows, key=lambda row: row[2])


def pose(stamp_ns: int) -> np.ndarray:
    """``T_map_base_link`` at a stamp."""
    return transform(np.eye(3), (SPEED_MPS * (stamp_ns - START_NS) / 1e9, 2.0, 0.0))


def points(seed: int) -> np.ndarray:
    """A wall of points around the vehicle, float32 [200, 5] in the LiDAR's frame."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, 200)
    return np.stack(
        [12 * np.cos(angle), 12 * np.sin(angle), rng.uniform(-1.5, 1, 200), rng.uniform(0, 9, 200), angle], axis=1
    ).astype(np.float32)


def jpeg(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    image = cv2.resize(np.random.default_rng(seed).integers(0, 255, (5, 8, 3), np.uint8), size)
    return cv2.imencode(".jpg", image)[1].tobytes()


def record(
    sets: int = 12, start_ns: int = START_NS, log_offset_ns: int = 0, size=SIZE, labels: bool = True
) -> Recording:
    """Camera_back fires 20 ms after camera_front; transforms come at 50 Hz and reach beyond both ends."""
    made = Recording()

    def put(topic: str, kind: str, stamp_ns: int, message) -> None:
        made.rows.append((topic, kind, stamp_ns + log_offset_ns, message))

    static = [messages.transform_stamped(T, start_ns, "base_link", name) for name, T in MOUNTINGS.items()]
    put("/tf_static", TF, start_ns - STEP_NS, messages.tf_message(static))
    for stamp_ns in range(start_ns - STEP_NS, start_ns + (sets + 1) * STEP_NS, 20_000_000):
        T = pose(stamp_ns)
        put("/tf", TF, stamp_ns, messages.tf_message([messages.transform_stamped(T, stamp_ns, "map", "base_link")]))
    for i in range(sets):
        stamp_ns = start_ns + i * STEP_NS
        classes = np.random.default_rng(i).integers(0, 17, 200).astype(np.uint8) if labels else None
        cloud = messages.point_cloud(points(i), classes, stamp_ns - 10_000_000, "lidar_top")
        put("/lidar_top", CLOUD, stamp_ns - 10_000_000, cloud)
        for number, camera in enumerate(CAMERAS):
            at = stamp_ns + 20_000_000 * number
            put(f"/{camera}/camera_info", INFO, at, messages.camera_info(K, size, at, camera))
            image = messages.compressed_image(jpeg(10 * i + number, size), "jpeg", at, camera)
            put(f"/{camera}/image_raw/compressed", IMAGE, at, image)
    return made


def write(recording: Recording, path: Path, storage: str = "mcap", compression: str = "") -> Path:
    """Write a rosbag2; ``compression``: "", file, message, or storage (chunks of mcap)."""
    writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
    if compression:
        writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, log_ns, message in recording.ordered():
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=messages.TYPESTORE)
            writer.write(connections[topic], log_ns, messages.TYPESTORE.serialize_cdr(message, kind))
    return path


def write_ros1(recording: Recording, path: Path) -> Path:
    """Write a ROS 1 bag."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", TF))
    with Writer1(path) as writer:
        connections = {}
        for topic, kind, log_ns, message in recording.ordered():
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            data = messages.TYPESTORE.cdr_to_ros1(messages.TYPESTORE.serialize_cdr(message, kind), kind)
            writer.write(connections[topic], log_ns, bytes(data))
    return path
