"""Reading bags: a recording of six 12 Hz jpeg cameras and a LiDAR to training frames, beside a straightforward reader.

The recording is made on the spot. Figures ``..._x`` are times real time: seconds of it per second of work.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from gsrender_core.bag_config import BagConfig
from gsrender_core.geometry import transform
from gsrender_ros import bag_messages as messages
from gsrender_ros.bag_frames import BagFrames
from gsrender_ros.bag_index import bag_index
from gsrender_ros.bench_inputs import CAMERAS, SIZE, packaged_size, street_like_jpeg
from gsrender_ros.image_conversions import decode_image

START_NS, SECOND_NS = 1_532_402_927_000_000_000, 1_000_000_000
CAMERA_HZ, LIDAR_HZ, TF_HZ, POINTS = 12, 20, 100, 34_688  # as nuScenes records
KEYFRAME_S = 0.5
K = np.array([[1266.0, 0, 816], [0, 1266, 491], [0, 0, 1]])
TF, IMAGE, INFO, CLOUD = (
    "tf2_msgs/msg/TFMessage",
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/CameraInfo",
    "sensor_msgs/msg/PointCloud2",
)


def write_recording(path: Path, seconds: int) -> None:
    """Cameras looking all around that fire 5 ms apart, a labelled sweep, a vehicle at 5 m/s; one mcap file."""
    jpegs = [bytes(street_like_jpeg(number).data) for number in range(CAMERAS)]
    points, classes = _sweep(np.random.default_rng(0))
    entries = [(START_NS, "/tf_static", TF, messages.tf_message(_mounts()))]
    for number in range(seconds * TF_HZ + 1):
        at_ns = START_NS + number * SECOND_NS // TF_HZ
        T = transform(np.eye(3), (5.0 * number / TF_HZ, 0.0, 0.0))
        pose = messages.transform_stamped(T, at_ns, "map", "base_link")
        entries.append((at_ns, "/tf", TF, messages.tf_message([pose])))
    for number in range(seconds * LIDAR_HZ):
        at_ns = START_NS + number * SECOND_NS // LIDAR_HZ
        entries.append((at_ns, "/lidar_top", CLOUD, messages.point_cloud(points, classes, at_ns, "lidar_top")))
    for number in range(seconds * CAMERA_HZ):
        for index, jpeg in enumerate(jpegs):
            camera, at_ns = f"cam_{index}", START_NS + number * SECOND_NS // CAMERA_HZ + index * 5_000_000
            entries.append((at_ns, f"/{camera}/camera_info", INFO, messages.camera_info(K, SIZE, at_ns, camera)))
            image = messages.compressed_image(jpeg, "jpeg", at_ns, camera)
            entries.append((at_ns, f"/{camera}/image_raw/compressed", IMAGE, image))
    connections = {}
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for at_ns, topic, kind, message in sorted(entries, key=lambda entry: entry[0]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=messages.TYPESTORE)
            writer.write(connections[topic], at_ns, messages.TYPESTORE.serialize_cdr(message, kind))


def _mounts() -> list:
    """Transforms of six cameras, 60 degrees apart, and of the LiDAR above them."""
    found = [messages.transform_stamped(transform(np.eye(3), (0.9, 0.0, 1.8)), START_NS, "base_link", "lidar_top")]
    for index in range(CAMERAS):
        c, s = np.cos(index * np.pi / 3), np.sin(index * np.pi / 3)
        T = transform(np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]]), (c, 0.5 * s, 1.5))
        found.append(messages.transform_stamped(T, START_NS, "base_link", f"cam_{index}"))
    return found


def _sweep(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 5] of 32 rings on the ground or 5 to 60 m away, in the LiDAR's frame, and their classes."""
    azimuth, ring = rng.uniform(0, 2 * np.pi, POINTS), rng.integers(0, 32, POINTS)
    slope = np.tan(np.radians(-30 + 1.33 * ring))
    away = np.minimum(rng.uniform(5, 60, POINTS), np.where(slope < 0, -1.8 / np.minimum(slope, -1e-6), np.inf))
    columns = (away * np.cos(azimuth), away * np.sin(azimuth), away * slope, rng.uniform(0, 255, POINTS), ring)
    return np.stack(columns, axis=1).astype(np.float32), rng.integers(0, 17, POINTS).astype(np.uint8)


def bench_bags(quick: bool = False) -> dict:
    """Median of three (quick: one) readings of a recording of 8 (3) seconds, all ways in turn.

    Keys: recording_s, megabytes, frames (all sets of images), keyframes; index_x (the one pass that makes the index);
    frames_per_s (every set, images decoded, with labels) and frames_x; keyframes_x (one frame each half second, as is
    trained on; the images between are not decoded) and keyframes_per_s; unseen_x (the same, none decoded, as for
    frames whose features are kept);
    plain_x (rosbags' AnyReader deserialising every message) and plain_decoded_x (also decoding every image);
    ratio (keyframes to plain_decoded).
    """
    seconds, repeats = (3, 1) if quick else (8, 3)
    with tempfile.TemporaryDirectory(prefix="gsrender_bench_bags_") as folder:
        path = Path(folder) / "recording"
        write_recording(path, seconds)
        size = sum(file.stat().st_size for file in path.glob("*.mcap"))
        config = {"held_out_share": 0.0, "lidar_topics": ("/lidar_top",)}
        bag_index(path)
        every = BagFrames([path], packaged_size(), BagConfig(keyframe_interval_s=0.9 / CAMERA_HZ, **config))
        keyframes = BagFrames([path], packaged_size(), BagConfig(keyframe_interval_s=KEYFRAME_S, **config))
        ways = {
            "index": lambda: _index_anew(path),
            "frames": lambda: _read(every, every.frame),
            "keyframes": lambda: _read(keyframes, keyframes.frame),
            "unseen": lambda: _read(keyframes, keyframes.frame_without_images),
            "plain": lambda: _plainly(path, decode=False),
            "plain_decoded": lambda: _plainly(path, decode=True),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():  # in turn, so that a busy machine slows all of them
                started = time.perf_counter()
                way()
                took[name].append(time.perf_counter() - started)
        took_s = {name: float(np.median(values)) for name, values in took.items()}
        return {
            "recording_s": seconds,
            "megabytes": size / 1e6,
            "frames": len(every),
            "keyframes": len(keyframes),
            "frames_per_s": len(every) / took_s["frames"],
            "keyframes_per_s": len(keyframes) / took_s["keyframes"],
            **{f"{name}_x": seconds / value for name, value in took_s.items()},
            "ratio": took_s["plain_decoded"] / took_s["keyframes"],
        }


def _index_anew(path: Path) -> None:
    for kept in path.glob(".gsrender-index*"):
        kept.unlink()
    bag_index(path)


def _read(data: BagFrames, read: Callable) -> None:
    for i in range(len(data)):
        assert len(read(i).labels)


def _plainly(path: Path, decode: bool) -> None:
    with AnyReader([path], default_typestore=messages.TYPESTORE) as reader:
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            if decode and connection.msgtype == IMAGE:
                decode_image(message)
