"""Write one scene of a nuScenes-schema data set as a rosbag2: images, CameraInfo, LiDAR, TF, odometry."""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from gsrender_core.classes import IGNORE, lidarseg_lookup
from gsrender_core.data.nuscenes_tables import CAMERA_CHANNELS, LIDAR_CHANNEL, NuScenesTables, SensorRecord
from gsrender_core.data.sensor_files import read_image, read_sweep
from gsrender_ros import bag_messages as messages
from gsrender_ros.calibration import CALIBRATION_FILE, CameraCalibration, RigCalibration, write_calibration
from gsrender_ros.layouts import LAYOUTS

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
IMAGES = ("jpeg", "raw")
WRITTEN_LAYOUTS = ("gsrender", "nuscenes2bag")
EGO_FRAME = "base_link"
# Version 8 of the format: Humble cannot open 9.
BAG_VERSION = 8
# /tf has one pose a stamp, the tables one a record. Real recordings (DDAD) differ by 10 mm at one stamp;
# from the limit on, one of the two poses is wrong.
POSE_LIMIT_M = 0.05


@dataclass(frozen=True)
class BagOptions:
    """What is written, and how.

    Attributes:
        scene: name of the scene; default the first.
        layout: "gsrender" (CameraInfo, map -> base_link on /tf, sensors on /tf_static) or "nuscenes2bag",
            what clynamen/nuscenes2bag writes (no CameraInfo; map -> odom -> base_link -> sensors on /tf).
        storage: "mcap" or "sqlite3".
        images: "jpeg" (the files' bytes, unchanged) or "raw" (rgb8; bgr8 in the layout nuscenes2bag).
        sweeps: also what was recorded between keyframes, where the data set has it.
    """

    scene: str | None = None
    layout: str = "gsrender"
    storage: str = "mcap"
    images: str = "jpeg"
    sweeps: bool = True

    def __post_init__(self):
        for name, known in (("layout", WRITTEN_LAYOUTS), ("storage", tuple(STORAGES)), ("images", IMAGES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(known)}")


@dataclass
class BagSummary:
    """What a bag holds: its scene, the span of its stamps and the number of messages a topic."""

    path: Path
    scene: str
    start_ns: int
    end_ns: int
    message_counts: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        seconds = (self.end_ns - self.start_ns) / 1e9
        count = sum(self.message_counts.values())
        return f"{self.path}: {self.scene}, {seconds:.2f} s, {count} messages on {len(self.message_counts)} topics"


def write_bag(data_root: str | Path, bag_path: str | Path, options: BagOptions | None = None) -> BagSummary:
    """Convert one scene. Header stamps and log times are the sensors' own stamps.

    The bag appears under its name only when it is complete; beside its data lies ``calibration.yaml``.

    Raises:
        FileExistsError: ``bag_path`` exists.
        FileNotFoundError: no data set, or an image or sweep that the tables name is missing.
        ValueError: an unknown scene (the text lists the known ones), a broken image, sweep or table.
    """
    options = options or BagOptions()
    bag_path = Path(bag_path)
    if bag_path.exists():
        raise FileExistsError(f"{bag_path} exists already; choose another name or remove it")
    tables = NuScenesTables(Path(data_root))
    scene = options.scene or tables.scene_names[0]
    if scene not in tables.scene_names:
        raise ValueError(f"scene {scene!r} is not in {data_root}; scenes there: {', '.join(tables.scene_names)}")
    records = list(tables.sensor_records(scene, include_sweeps=options.sweeps))
    if not records:
        raise ValueError(f"scene {scene!r} of {data_root} has no camera or LiDAR record")
    summary = BagSummary(bag_path, scene, records[0].stamp_ns, records[-1].stamp_ns)

    bag_path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and moved: what an interrupted run leaves behind cannot be taken for a bag.
    aside = Path(tempfile.mkdtemp(prefix=f".{bag_path.name}.", suffix=".partial", dir=bag_path.parent))
    try:
        partial = aside / bag_path.name
        with Writer(partial, version=BAG_VERSION, storage_plugin=STORAGES[options.storage]) as writer:
            writer.set_custom_data("scene", scene)
            _SceneWriter(writer, tables, options, summary).write(records)
        write_calibration(partial / CALIBRATION_FILE, rig_calibration(records))
        partial.rename(bag_path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return summary


def mountings(records: list[SensorRecord]) -> dict[str, np.ndarray]:
    """``T_ego_sensor`` of every channel.

    Raises:
        ValueError: a sensor moved on the vehicle within the scene; one static transform cannot say that.
    """
    found: dict[str, np.ndarray] = {}
    for record in records:
        if not np.allclose(found.setdefault(record.channel, record.T_ego_sensor), record.T_ego_sensor, atol=1e-6):
            raise ValueError(f"{record.channel} has several calibrations within one scene (at {record.stamp_ns} ns)")
    return found


def rig_calibration(records: list[SensorRecord]) -> RigCalibration:
    """Intrinsics and mounting of every camera, for readers of bags without CameraInfo."""
    T_ego_sensor, cameras = mountings(records), {}
    for record in records:
        name = record.channel.lower()
        if record.K is not None and name not in cameras:
            width, height = record.size
            cameras[name] = CameraCalibration(name, name, width, height, record.K, T_ego_sensor[record.channel])
    return RigCalibration(EGO_FRAME, cameras)


class _SceneWriter:
    """Writes the records of one scene in the order of their stamps."""

    def __init__(self, writer: Writer, tables: NuScenesTables, options: BagOptions, summary: BagSummary):
        self.writer, self.tables, self.options, self.summary = writer, tables, options, summary
        self.layout = LAYOUTS[options.layout]
        self.connections: dict = {}
        self.lookup: np.ndarray | None = None

    def write(self, records: list[SensorRecord]) -> None:
        T_ego_sensor = mountings(records)
        if self.options.layout == "gsrender":
            static = [self._mounting(c, T, records[0].stamp_ns) for c, T in sorted(T_ego_sensor.items())]
            self._put("/tf_static", "tf2_msgs/msg/TFMessage", messages.tf_message(static), records[0].stamp_ns)
        pose: SensorRecord | None = None
        for record in records:
            if pose is None or record.stamp_ns != pose.stamp_ns:
                pose = record
                self._pose(record, T_ego_sensor)
            elif (apart_m := np.linalg.norm((pose.T_global_ego - record.T_global_ego)[:3, 3])) > POSE_LIMIT_M:
                raise ValueError(
                    f"ego poses of {pose.channel} and {record.channel}, both at {record.stamp_ns} ns, lie "
                    f"{apart_m:.3f} m apart (limit {POSE_LIMIT_M} m): repair the table ego_pose"
                )
            if record.channel in CAMERA_CHANNELS:
                self._image(record)
            elif record.channel == LIDAR_CHANNEL:
                self._sweep(record)

    def _put(self, topic: str, message_type: str, message, stamp_ns: int) -> None:
        connection = self.connections.get(topic)
        if connection is None:
            qos = [messages.LATCHED] if topic == "/tf_static" else []
            connection = self.writer.add_connection(
                topic, message_type, typestore=messages.TYPESTORE, offered_qos_profiles=qos
            )
            self.connections[topic] = connection
        self.writer.write(connection, stamp_ns, messages.TYPESTORE.serialize_cdr(message, message_type))
        self.summary.message_counts[topic] += 1

    def _mounting(self, channel: str, T_ego_sensor: np.ndarray, stamp_ns: int):
        return messages.transform_stamped(T_ego_sensor, stamp_ns, EGO_FRAME, channel.lower())

    def _pose(self, record: SensorRecord, T_ego_sensor: dict[str, np.ndarray]) -> None:
        stamp_ns, T = record.stamp_ns, record.T_global_ego
        world = "map" if self.options.layout == "gsrender" else "odom"
        transforms = [messages.transform_stamped(T, stamp_ns, world, EGO_FRAME)]
        if self.options.layout == "nuscenes2bag":
            transforms += [self._mounting(c, mounting, stamp_ns) for c, mounting in sorted(T_ego_sensor.items())]
            transforms.append(messages.transform_stamped(np.eye(4), stamp_ns, "map", "odom"))
        self._put("/tf", "tf2_msgs/msg/TFMessage", messages.tf_message(transforms), stamp_ns)
        self._put("/odom", "nav_msgs/msg/Odometry", messages.odometry(T, stamp_ns, world, EGO_FRAME), stamp_ns)

    def _image(self, record: SensorRecord) -> None:
        camera, stamp_ns = record.channel.lower(), record.stamp_ns
        if self.layout.camera_info_topic:  # before its image, so that not even the first image lacks one
            info = messages.camera_info(record.K, record.size, stamp_ns, camera)
            topic = "/" + self.layout.camera_info_topic.format(camera=camera)
            self._put(topic, "sensor_msgs/msg/CameraInfo", info, stamp_ns)
        image = read_image(record)  # also in jpeg mode: a broken or wrong-sized image must not enter a bag
        if self.options.images == "jpeg":
            image_format = "png" if record.filename.suffix.lower() == ".png" else "jpeg"
            message = messages.compressed_image(record.filename.read_bytes(), image_format, stamp_ns, camera)
            topic, kind = self.layout.compressed_topic, "sensor_msgs/msg/CompressedImage"
        else:
            encoding = "rgb8" if self.options.layout == "gsrender" else "bgr8"
            pixels = image if encoding == "rgb8" else image[..., ::-1]
            message = messages.raw_image(pixels, encoding, stamp_ns, camera)
            topic, kind = self.layout.raw_topic, "sensor_msgs/msg/Image"
        self._put("/" + topic.format(camera=camera), kind, message, stamp_ns)

    def _sweep(self, record: SensorRecord) -> None:
        points = read_sweep(record.filename)
        frame = record.channel.lower()
        cloud = messages.point_cloud(points, self._labels(record, len(points)), record.stamp_ns, frame)
        self._put(f"/{frame}", "sensor_msgs/msg/PointCloud2", cloud, record.stamp_ns)

    def _labels(self, record: SensorRecord, count: int) -> np.ndarray | None:
        path = self.tables.lidarseg_file(record.token)
        if path is None:
            return None
        if not path.is_file():
            raise FileNotFoundError(f"lidarseg {path} is missing. Unpack the nuScenes-lidarseg archive.")
        ids = np.fromfile(path, dtype=np.uint8)
        if len(ids) != count:
            raise ValueError(f"lidarseg {path} has {len(ids)} ids, its sweep {count} points. Copy both again.")
        if self.lookup is None:
            self.lookup = lidarseg_lookup(self.tables.lidarseg_names())
        return np.where(ids < len(self.lookup), self.lookup[ids], IGNORE).astype(np.uint8)
