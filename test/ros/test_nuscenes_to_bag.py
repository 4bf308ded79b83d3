"""nuScenes schema -> rosbag2: written from a small folder, read back with rosbags, compared with the reader."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.typesys import Stores, get_typestore

from gsrender_core.classes import LIDARSEG_NAMES, class_id
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.data.nuscenes_tables import CAMERA_CHANNELS
from gsrender_core.geometry import inverse, quaternion_from_rotation, transform
from gsrender_ros.calibration import read_calibration
from gsrender_ros.nuscenes_to_bag import BagOptions, write_bag

SIZE = (64, 40)
KEYFRAMES = 3
CHANNELS = (*CAMERA_CHANNELS, "LIDAR_TOP")
POINTS = np.array([[20.5, 2.0, -1.75, 7, 3], [-10.25, -1.0, 0.5, 9, 31], [5, 5, 1, 1, 0]], np.float32)
LIDARSEG = np.array([24, 17, 0], np.uint8)  # road, car, noise
LABELS = [class_id("driveable_surface"), class_id("car"), 255]
REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def random_pose(rng) -> tuple[list, list]:
    return rng.normal(size=4).tolist(), rng.uniform(-3, 3, 3).tolist()


@pytest.fixture
def data(tmp_path) -> Path:
    """Two scenes of three keyframes with a camera sweep after each; every pose and mounting is random."""
    root, rng = tmp_path / "data", np.random.default_rng(1)
    (root / "v1.0-mini").mkdir(parents=True)
    (root / "lidarseg").mkdir()
    tables = {name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "lidarseg")}
    tables["sensor"] = [{"token": c, "channel": c} for c in CHANNELS]
    tables["category"] = [{"name": name, "index": i} for i, name in enumerate(LIDARSEG_NAMES)]
    for number in range(2):
        scene = f"scene-{number}"
        tables["scene"].append({"token": scene, "name": scene})
        for c in CHANNELS:
            rotation, translation = random_pose(rng)
            K = [] if c == "LIDAR_TOP" else [[rng.uniform(30, 60), 0, 31.5], [0, 41.25, 20.5], [0, 0, 1]]
            row = {"token": f"{scene}-{c}", "sensor_token": c, "rotation": rotation, "translation": translation}
            tables["calibrated_sensor"].append({**row, "camera_intrinsic": K})
        for f in range(KEYFRAMES):
            sample, stamp_us = f"{scene}-{f}", 1_532_402_000_000_000 + f * 500_000
            previous, following = f"{scene}-{f - 1}" if f else "", f"{scene}-{f + 1}" if f + 1 < KEYFRAMES else ""
            row = {"token": sample, "scene_token": scene, "timestamp": stamp_us, "prev": previous, "next": following}
            tables["sample"].append(row)
            for rank, c in enumerate(CHANNELS):
                for sweep in (False, True):
                    token, lidar = f"{sample}-{c}-{int(sweep)}", c == "LIDAR_TOP"
                    if lidar and sweep:
                        continue
                    at = stamp_us - 43_000 + 7_166 * rank + (250_000 if sweep else 0)
                    rotation, translation = random_pose(rng)
                    tables["ego_pose"].append({"token": token, "rotation": rotation, "translation": translation})
                    name = f"{'sweeps' if sweep else 'samples'}/{c}/{token}.{'bin' if lidar else 'jpg'}"
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                    if lidar:
                        POINTS.tofile(root / name)
                        LIDARSEG.tofile(root / "lidarseg" / token)
                        tables["lidarseg"].append({"sample_data_token": token, "filename": f"lidarseg/{token}"})
                    else:
                        cv2.imwrite(str(root / name), rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
                    tables["sample_data"].append(
                        {
                            "token": token,
                            "sample_token": sample,
                            "ego_pose_token": token,
                            "calibrated_sensor_token": f"{scene}-{c}",
                            "timestamp": at,
                            "is_key_frame": not sweep,
                            "width": 0 if lidar else SIZE[0],
                            "height": 0 if lidar else SIZE[1],
                            "filename": name,
                        }
                    )
    for name, rows in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    return root


def read_bag(path: Path) -> dict[str, list]:
    """``{topic: [(log time, message)]}`` in the order of the bag; log times must not run backwards."""
    topics, last = {}, 0
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        for connection, log_ns, raw in reader.messages():
            assert log_ns >= last
            last = log_ns
            topics.setdefault(connection.topic, []).append((log_ns, reader.deserialize(raw, connection.msgtype)))
    return topics


def connections_of(path: Path) -> dict:
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        return {c.topic: c for c in reader.connections}


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def matrix(stamped) -> np.ndarray:
    q, t = stamped.transform.rotation, stamped.transform.translation
    return transform((q.w, q.x, q.y, q.z), (t.x, t.y, t.z))


class Tree:
    """Exact-stamp look-ups in the recorded transforms: an independent, naive reading of /tf and /tf_static."""

    def __init__(self, topics):
        self.at, self.static = {}, {}
        for _, message in topics["/tf"]:
            for t in message.transforms:
                self.at[t.child_frame_id, stamp_ns(t)] = (t.header.frame_id, matrix(t))
        for _, message in topics.get("/tf_static", []):
            for t in message.transforms:
                self.static[t.child_frame_id] = (t.header.frame_id, matrix(t))

    def T_map(self, frame: str, stamp: int) -> np.ndarray:
        if frame == "map":
            return np.eye(4)
        parent, T = self.static.get(frame) or self.at[frame, stamp]
        return self.T_map(parent, stamp) @ T


def check_poses(root: Path, bag: Path, scene: str, atol_m: float) -> int:
    """TF composed as in the bag against the reader's ``T_ego_cam``; returns the number of compared cameras."""
    topics, data, compared = read_bag(bag), NuScenes(root, (704, 256), scenes=[scene]), 0
    tree = Tree(topics)
    for i in range(len(data)):
        frame = data.frame(i, labels=False)
        T_map_ego = tree.T_map("base_link", frame.stamp_ns)
        np.testing.assert_allclose(T_map_ego, frame.T_global_ego, atol=1e-6)
        for c, channel in enumerate(CAMERA_CHANNELS):
            camera = channel.lower()
            record = data.tables.record(data.tokens[i], channel)
            messages = [m for t in topics if t.startswith(f"/{camera}/") for _, m in topics[t]]
            assert record.stamp_ns in [stamp_ns(m) for m in messages]
            T_ego_cam = inverse(T_map_ego) @ tree.T_map(camera, record.stamp_ns)
            np.testing.assert_allclose(T_ego_cam, frame.T_ego_cam[c], atol=atol_m)
            compared += 1
    return compared


def test_own_layout_has_the_documented_topics_types_and_counts(data, tmp_path):
    summary = write_bag(data, tmp_path / "bag", BagOptions(scene="scene-1"))
    expected = {f"/{c.lower()}/image_raw/compressed": "CompressedImage" for c in CAMERA_CHANNELS}
    expected |= {f"/{c.lower()}/camera_info": "CameraInfo" for c in CAMERA_CHANNELS}
    expected = {topic: f"sensor_msgs/msg/{kind}" for topic, kind in expected.items()}
    expected |= {"/lidar_top": "sensor_msgs/msg/PointCloud2", "/odom": "nav_msgs/msg/Odometry"}
    expected |= {"/tf": "tf2_msgs/msg/TFMessage", "/tf_static": "tf2_msgs/msg/TFMessage"}
    connections, topics = connections_of(tmp_path / "bag"), read_bag(tmp_path / "bag")
    assert {topic: c.msgtype for topic, c in connections.items()} == expected
    stamps = 2 * KEYFRAMES * 6 + KEYFRAMES  # keyframe and sweep of six cameras, one LiDAR sweep a keyframe
    counts = {topic: len(messages) for topic, messages in topics.items()}
    assert counts == dict(summary.message_counts)
    assert counts["/cam_back/image_raw/compressed"] == counts["/cam_back/camera_info"] == 2 * KEYFRAMES
    assert (counts["/lidar_top"], counts["/tf_static"], counts["/tf"], counts["/odom"]) == (3, 1, stamps, stamps)
    assert str(summary).endswith(f"bag: scene-1, 1.29 s, {sum(counts.values())} messages on 16 topics")
    for topic in expected.keys() - {"/tf", "/tf_static"}:
        assert all(stamp_ns(m) == log_ns for log_ns, m in topics[topic])
    assert (
        summary.scene == "scene-1" and summary.end_ns - summary.start_ns == 1_000_000_000 + 250_000_000 + 5 * 7_166_000
    )


def test_images_are_the_files_bytes_and_camera_info_fits_them(data, tmp_path):
    write_bag(data, tmp_path / "bag")
    topics = read_bag(tmp_path / "bag")
    records = list(NuScenes(data, SIZE).tables.sensor_records("scene-0", include_sweeps=True))
    for channel in CAMERA_CHANNELS:
        own, camera = [r for r in records if r.channel == channel], channel.lower()
        images, infos = topics[f"/{camera}/image_raw/compressed"], topics[f"/{camera}/camera_info"]
        assert [stamp_ns(m) for _, m in images] == [r.stamp_ns for r in own]
        for (_, image), (_, info), record in zip(images, infos, own, strict=True):
            assert image.data.tobytes() == record.filename.read_bytes() and image.format == "jpeg"
            assert image.header.frame_id == info.header.frame_id == camera
            assert stamp_ns(info) == stamp_ns(image) and (info.width, info.height) == SIZE
            np.testing.assert_array_equal(info.k.reshape(3, 3), record.K)
            np.testing.assert_array_equal(info.p.reshape(3, 4), np.c_[record.K, np.zeros(3)])
            np.testing.assert_array_equal(info.r.reshape(3, 3), np.eye(3))
            assert info.distortion_model == "plumb_bob" and not info.d.any()


@pytest.mark.parametrize(
    ("layout", "topic", "encoding"), [("gsrender", "image_raw", "rgb8"), ("nuscenes2bag", "raw", "bgr8")]
)
def test_raw_images_carry_the_decoded_pixels(data, tmp_path, layout, topic, encoding):
    write_bag(data, tmp_path / "bag", BagOptions(layout=layout, images="raw", storage="sqlite3", sweeps=False))
    (_, image), *rest = read_bag(tmp_path / "bag")[f"/cam_front/{topic}"]
    assert len(rest) == KEYFRAMES - 1
    assert (image.encoding, image.width, image.height, image.step) == (encoding, *SIZE, SIZE[0] * 3)
    bgr = cv2.imread(str(data / "samples" / "CAM_FRONT" / "scene-0-0-CAM_FRONT-0.jpg"))
    pixels = image.data.reshape(SIZE[1], SIZE[0], 3)
    np.testing.assert_array_equal(pixels, bgr if encoding == "bgr8" else bgr[..., ::-1])


@pytest.mark.parametrize("layout", ["gsrender", "nuscenes2bag"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_transforms_compose_to_the_readers_poses(data, tmp_path, layout, storage):
    write_bag(data, tmp_path / "bag", BagOptions(scene="scene-1", layout=layout, storage=storage))
    assert check_poses(data, tmp_path / "bag", "scene-1", atol_m=1e-6) == KEYFRAMES * 6


def test_nuscenes2bag_layout_has_everything_on_tf_and_no_camera_info(data, tmp_path):
    write_bag(data, tmp_path / "bag", BagOptions(layout="nuscenes2bag", images="raw"))
    topics = read_bag(tmp_path / "bag")
    assert topics.keys() == {f"/{c.lower()}/raw" for c in CAMERA_CHANNELS} | {"/tf", "/odom", "/lidar_top"}
    for _, message in topics["/tf"]:
        edges = {(t.header.frame_id, t.child_frame_id) for t in message.transforms}
        assert edges == {("map", "odom"), ("odom", "base_link"), *(("base_link", c.lower()) for c in CHANNELS)}
    _, odometry = topics["/odom"][0]
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom", "base_link")


def test_odometry_is_the_pose_of_tf(data, tmp_path):
    write_bag(data, tmp_path / "bag")
    topics = read_bag(tmp_path / "bag")
    tree = Tree(topics)
    for _, message in topics["/odom"]:
        p, q = message.pose.pose.position, message.pose.pose.orientation
        T = transform((q.w, q.x, q.y, q.z), (p.x, p.y, p.z))
        np.testing.assert_allclose(T, tree.T_map("base_link", stamp_ns(message)), atol=1e-12)
        assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")


def test_lidar_points_carry_occ3d_labels(data, tmp_path):
    write_bag(data, tmp_path / "bag")
    _, cloud = read_bag(tmp_path / "bag")["/lidar_top"][0]
    kinds = {2: "u1", 4: "u2", 7: "f4"}
    dtype = np.dtype(
        {
            "names": [f.name for f in cloud.fields],
            "formats": [kinds[f.datatype] for f in cloud.fields],
            "offsets": [f.offset for f in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    points = cloud.data.view(dtype)
    assert cloud.header.frame_id == "lidar_top" and (cloud.height, cloud.width, cloud.row_step) == (1, 3, 60)
    for column, name in enumerate(("x", "y", "z", "intensity", "ring")):
        np.testing.assert_array_equal(points[name], POINTS[:, column])
    assert points["label"].tolist() == LABELS


def test_static_transforms_are_latched_and_the_version_opens_on_humble(data, tmp_path):
    write_bag(data, tmp_path / "bag")
    connections = connections_of(tmp_path / "bag")
    (qos,) = connections["/tf_static"].ext.offered_qos_profiles
    assert qos.durability == QosDurability.TRANSIENT_LOCAL
    assert "  version: 8\n" in (tmp_path / "bag" / "metadata.yaml").read_text()


def test_message_definitions_are_those_of_every_distribution(data, tmp_path):
    write_bag(data, tmp_path / "bag")
    write_bag(data, tmp_path / "raw", BagOptions(images="raw"))
    types = {c.msgtype for bag in ("bag", "raw") for c in connections_of(tmp_path / bag).values()}
    assert len(types) == 6
    stores = [get_typestore(s) for s in (Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.ROS2_KILTED)]
    for message_type in types:
        assert len({store.hash_rihs01(message_type) for store in stores}) == 1, message_type


@pytest.mark.parametrize("layout", ["gsrender", "nuscenes2bag"])
def test_calibration_file_holds_the_rig(data, tmp_path, layout):
    write_bag(data, tmp_path / "bag", BagOptions(layout=layout))
    rig = read_calibration(tmp_path / "bag" / "calibration.yaml")
    assert rig.ego_frame == "base_link" and set(rig.cameras) == {c.lower() for c in CAMERA_CHANNELS}
    tables = NuScenes(data, SIZE).tables
    for channel in CAMERA_CHANNELS:
        record, camera = tables.record("scene-0-0", channel), rig.cameras[channel.lower()]
        np.testing.assert_allclose(camera.K, record.K)
        np.testing.assert_allclose(camera.T_ego_cam, record.T_ego_sensor, atol=1e-9)
        assert ((camera.width, camera.height), camera.frame_id) == (SIZE, channel.lower())


def test_keyframes_only(data, tmp_path):
    summary = write_bag(data, tmp_path / "bag", BagOptions(sweeps=False))
    assert summary.message_counts["/cam_front/image_raw/compressed"] == KEYFRAMES
    assert summary.message_counts["/tf"] == KEYFRAMES * len(CHANNELS)


def test_existing_path_is_refused_and_untouched(data, tmp_path):
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="exists already"):
        write_bag(data, tmp_path / "bag")
    assert (tmp_path / "bag" / "mine").read_text() == "keep"


def test_unknown_scene_lists_the_known_ones(data, tmp_path):
    with pytest.raises(ValueError, match="'scene-9'.*scene-0, scene-1"):
        write_bag(data, tmp_path / "bag", BagOptions(scene="scene-9"))


@pytest.mark.parametrize("option", ["layout", "storage", "images"])
def test_unknown_option_lists_the_choices(option):
    with pytest.raises(ValueError, match=f"{option} 'gif' is unknown; choose one of"):
        BagOptions(**{option: "gif"})


@pytest.mark.parametrize("images", ["jpeg", "raw"])
def test_missing_image_is_named_and_nothing_that_looks_like_a_bag_stays(data, tmp_path, images):
    missing = data / "sweeps" / "CAM_BACK" / "scene-0-1-CAM_BACK-1.jpg"
    missing.unlink()
    out = tmp_path / "bags"
    with pytest.raises(FileNotFoundError, match=missing.name):
        write_bag(data, out / "bag", BagOptions(images=images))
    assert list(out.iterdir()) == []


def test_truncated_image_and_sweep_are_refused(data, tmp_path):
    image = data / "samples" / "CAM_FRONT" / "scene-0-1-CAM_FRONT-0.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut off"):
        write_bag(data, tmp_path / "bag")
    image.write_bytes(whole)
    sweep = data / "samples" / "LIDAR_TOP" / "scene-0-1-LIDAR_TOP-0.bin"
    sweep.write_bytes(sweep.read_bytes()[:-3])
    with pytest.raises(ValueError, match="multiple of 20"):
        write_bag(data, tmp_path / "bag")
    assert not (tmp_path / "bag").exists()


def test_contradicting_poses_at_one_stamp_are_refused(data, tmp_path):
    path = data / "v1.0-mini" / "sample_data.json"
    rows = json.loads(path.read_text())
    for row in rows:
        if row["sample_token"] == "scene-0-0" and row["is_key_frame"]:
            row["timestamp"] = 1_532_402_000_000_000
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"ego poses of CAM_BACK and CAM_\w+, both at 1532402000000000000 ns"):
        write_bag(data, tmp_path / "bag")


@pytest.mark.parametrize(("name", "atol_m"), [("nuscenes_keyframe", 1e-6), ("ddad_three_frames", 0.012)])
@pytest.mark.parametrize("layout", ["gsrender", "nuscenes2bag"])
def test_real_recordings(tmp_path, name, atol_m, layout):
    root = REAL_DATA / name
    if not root.is_dir():
        pytest.skip(f"{root} is absent")
    summary = write_bag(root, tmp_path / "bag", BagOptions(layout=layout))
    # DDAD states one pose a camera at one common stamp; they differ by up to 10 mm, and /tf can carry only one.
    assert check_poses(root, tmp_path / "bag", summary.scene, atol_m) in (6, 18)


def test_quaternions_of_the_bag_are_unit(data, tmp_path):
    write_bag(data, tmp_path / "bag")
    for _, message in read_bag(tmp_path / "bag")["/tf"]:
        for t in message.transforms:
            q = t.transform.rotation
            assert abs(np.linalg.norm([q.w, q.x, q.y, q.z]) - 1) < 1e-12
            np.testing.assert_allclose(quaternion_from_rotation(matrix(t)[:3, :3]), [q.w, q.x, q.y, q.z], atol=1e-9)
