"""A small drive with a LiDAR: as a bag, and as the messages of one moment."""

from pathlib import Path

import numpy as np
import simplejpeg
import yaml
from ros_processes import CAMERAS, OPTICAL, START_NS, K
from rosbags.rosbag2 import StoragePlugin, Writer

from gsrender_core.config import (
    BackboneConfig,
    DepthConfig,
    EncoderConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
    ViewConfig,
    to_dict,
)
from gsrender_core.geometry import transform
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_ros import bag_messages as messages

SIZE = (96, 64)
MOUNTS = {"cam_front": 1.5, "cam_back": -0.5, "lidar_top": 0.5}
SWEEP_NS, SET_NS, APART_NS = 100_000_000, 200_000_000, 20_000_000


def pose_at(at_ns: int) -> np.ndarray:
    """T_map_base of a drive at 5 m/s that turns slowly."""
    seconds = (at_ns - START_NS) / 1e9
    half = 0.05 * seconds
    return transform((np.cos(half), 0, 0, np.sin(half)), (5.0 * seconds, 0.2 * seconds, 0))


def sweep_points(rng: np.random.Generator, count: int = 400) -> np.ndarray:
    """Points [N, 5] in front of the front camera, x, y, z, intensity, ring, with some that are not finite."""
    points = np.zeros((count, 5))
    points[:, 0] = rng.uniform(4, 14, count)
    points[:, 1:3] = rng.uniform(-2, 2, (count, 2))
    points[:5, 0] = np.nan
    return points


def image_message(rng: np.random.Generator, stamp_ns: int, camera: str):
    """A jpeg of noise."""
    jpeg = simplejpeg.encode_jpeg(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
    return messages.compressed_image(jpeg, "jpeg", stamp_ns, camera)


def mounts() -> list:
    """TransformStamped of all sensors."""
    found = []
    for frame, x in MOUNTS.items():
        rotation = (1, 0, 0, 0) if frame.startswith("lidar") else OPTICAL
        found.append(messages.transform_stamped(transform(rotation, (x, 0.0, 1.5)), START_NS, "base_link", frame))
    return found


def write_drive(path: Path, sets: int = 12, labelled: bool = True) -> None:
    """Two cameras at 5 Hz 20 ms apart, a LiDAR at 10 Hz 7 ms later, TF at 50 Hz."""
    rng = np.random.default_rng(0)
    end_ns = START_NS + sets * SET_NS
    entries = [(START_NS, "/tf_static", "tf2_msgs/msg/TFMessage", messages.tf_message(mounts()))]
    for at_ns in range(START_NS, end_ns + 1, 20_000_000):
        pose = messages.transform_stamped(pose_at(at_ns), at_ns, "map", "base_link")
        entries.append((at_ns, "/tf", "tf2_msgs/msg/TFMessage", messages.tf_message([pose])))
    for at_ns in range(START_NS + 7_000_000, end_ns - SWEEP_NS // 2, SWEEP_NS):
        points = sweep_points(rng)
        labels = rng.integers(0, 17, len(points)).astype(np.uint8) if labelled else None
        cloud = messages.point_cloud(points, labels, at_ns, "lidar_top")
        entries.append((at_ns, "/lidar_top", "sensor_msgs/msg/PointCloud2", cloud))
    for number in range(sets):
        for index, camera in enumerate(CAMERAS):
            at_ns = START_NS + number * SET_NS + index * APART_NS
            info = messages.camera_info(K, SIZE, at_ns, camera)
            entries.append((at_ns, f"/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", info))
            topic, kind = f"/{camera}/image_raw/compressed", "sensor_msgs/msg/CompressedImage"
            entries.append((at_ns, topic, kind, image_message(rng, at_ns, camera)))
    connections = {}
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for at_ns, topic, kind, message in sorted(entries, key=lambda entry: entry[0]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=messages.TYPESTORE)
            writer.write(connections[topic], at_ns, messages.TYPESTORE.serialize_cdr(message, kind))


def write_small_training(path: Path, **changes) -> Path:
    """Configuration of a network that learns in tenths of a second a step; ``changes`` of ``TrainConfig``."""
    model = ModelConfig(
        image_size=SIZE,
        grid=VoxelGrid((-16.0, -16.0, -1.0), 1.6, (20, 20, 4)),
        backbone=BackboneConfig(pretrained=False),
        depth=DepthConfig(0.5, 16.0, 12),
        view=ViewConfig(neck_channels=16, channels=8),
        encoder=EncoderConfig(channels=8, features=6),
    )
    loss = LossConfig(semantic=0.0, depth=0.0)  # without rendering, whose compilation would take most of a test's time
    values = dict(model=model, loss=loss, steps=200, warmup_steps=1, rays=64, checkpoint_every=2, validate_every=1000)
    path.write_text(yaml.safe_dump(to_dict(TrainConfig(**(values | changes)))), encoding="utf-8")
    return path
