"""Bags as a data set: the frames of a folder's bag are the folder's; what cannot be used is counted and named."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from recordings import CAMERAS, MOUNTINGS, START_NS, STEP_NS, K, Recording, pose, record, write
from test_nuscenes_to_bag import data  # noqa: F401 (a fixture)

from gsrender_core.bag_config import BagConfig
from gsrender_core.classes import IGNORE
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.geometry import inverse
from gsrender_ros import bag_messages as messages
from gsrender_ros.bag_frames import BagFrames
from gsrender_ros.nuscenes_to_bag import BagOptions, write_bag
from gsrender_ros.parameters import DEFAULT_CAMERAS

SMALL = (64, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def frames(path, *more, options=None, **config) -> BagFrames:
    settings = {"keyframe_interval_s": 0.1, "held_out_share": 0.0} | config
    return BagFrames([path, *more], SMALL, BagConfig(**settings), options)


@pytest.mark.parametrize(
    ("layout", "storage", "size"), [("gsrender", "mcap", (32, 20)), ("nuscenes2bag", "sqlite3", SMALL)]
)
def test_frames_of_a_bag_are_those_of_its_folder(data, tmp_path, layout, storage, size):  # noqa: F811
    cameras = tuple(camera.upper() for camera in DEFAULT_CAMERAS)
    folder = NuScenes(data, size, scenes=["scene-0"], cameras=cameras)
    images = "jpeg" if layout == "gsrender" else "raw"
    write_bag(data, tmp_path / "bag", BagOptions(layout=layout, storage=storage, images=images))
    bag = BagFrames([tmp_path / "bag"], size, BagConfig(reference="lidar", held_out_share=0.0))
    assert len(bag) == len(folder) and bag.cameras == cameras
    for i in range(len(bag)):
        ours, theirs = bag.frame(i), folder.frame(i)
        assert ours.stamp_ns == theirs.stamp_ns and ours.camera_names == theirs.camera_names
        np.testing.assert_allclose(ours.Ks, theirs.Ks, rtol=1e-12)
        np.testing.assert_allclose(ours.T_ego_cam, theirs.T_ego_cam, atol=1e-9)
        np.testing.assert_allclose(ours.T_global_ego, theirs.T_global_ego, atol=1e-9)
        np.testing.assert_array_equal(ours.images, theirs.images)  # a quarter of the pixels, or all of them
        assert [bag.adjacent(i, k) for k in (-1, 1, 2)] == [folder.adjacent(i, k) for k in (-1, 1, 2)]
        for name in ("camera", "class_id"):
            np.testing.assert_array_equal(getattr(ours.labels, name), getattr(theirs.labels, name))
        np.testing.assert_allclose(ours.labels.uv, theirs.labels.uv, atol=1e-3)
        np.testing.assert_allclose(ours.labels.depth_m, theirs.labels.depth_m, rtol=1e-5)


def test_ego_and_stamp_are_the_reference_cameras_and_points_where_they_were(tmp_path):
    bag = frames(write(record(), tmp_path / "bag"))
    frame = bag.frame(3)
    assert frame.stamp_ns == START_NS + 3 * STEP_NS
    np.testing.assert_allclose(frame.T_global_ego, pose(frame.stamp_ns), atol=1e-9)
    np.testing.assert_allclose(frame.T_ego_cam[0], MOUNTINGS["cam_front"], atol=1e-9)
    moved = inverse(pose(frame.stamp_ns)) @ pose(frame.stamp_ns + 20_000_000) @ MOUNTINGS["cam_back"]
    np.testing.assert_allclose(frame.T_ego_cam[1], moved, atol=1e-9)  # 0.1 m further on at 5 m/s
    origins, returns, classes = bag.lidar_returns(3)
    T = inverse(pose(frame.stamp_ns)) @ pose(frame.stamp_ns - 10_000_000) @ MOUNTINGS["lidar_top"]
    np.testing.assert_allclose(origins[0], T[:3, 3], atol=1e-9)
    assert classes is not None and len(classes) == len(returns) == 200


def test_reading_is_the_same_in_any_order_and_in_a_copy(tmp_path):
    bag = frames(write(record(), tmp_path / "bag"))
    first = [bag.frame(i) for i in range(len(bag))]
    copy = pickle.loads(pickle.dumps(bag))
    for i in reversed(range(len(bag))):
        again, bare = copy.frame(i), bag.frame_without_images(i)
        np.testing.assert_array_equal(again.images, first[i].images)
        np.testing.assert_array_equal(again.labels.uv, first[i].labels.uv)
        np.testing.assert_array_equal(bare.labels.uv, first[i].labels.uv)
        np.testing.assert_array_equal(bare.Ks, first[i].Ks)
        assert bare.images.shape == (2, 3, 0, 0)


def test_keyframes_by_time_and_by_distance(tmp_path):
    path = write(record(20), tmp_path / "bag")
    stamps = [frames(path, keyframe_interval_s=0.3).frame(i).stamp_ns for i in range(7)]
    assert stamps == [START_NS + 3 * i * STEP_NS for i in range(7)]
    by_distance = frames(path, keyframe_distance_m=1.0)  # 0.5 m a set
    assert [by_distance.frame(i).stamp_ns for i in range(3)] == [START_NS + 2 * i * STEP_NS for i in range(3)]


def test_neighbours_stay_within_a_scene_and_within_the_interval(tmp_path):
    recording = record(12)
    missing = {START_NS + i * STEP_NS for i in (5, 6)}
    rows = [r for r in recording.rows if not (r[0] == "/cam_front/image_raw/compressed" and r[2] in missing)]
    bag = frames(write(Recording(rows), tmp_path / "bag"))
    assert len(bag) == 10 and bag.adjacent(3, 1) == 4 and bag.adjacent(0, -1) is None
    assert bag.adjacent(4, 1) is None  # 0.3 s later, not 0.1 s
    assert frames(tmp_path / "bag", gap_s=0.25).scene_names == ("bag-1", "bag-2")


def test_the_end_of_a_bag_is_held_out_with_a_margin(tmp_path):
    bag = frames(write(record(20), tmp_path / "bag"), held_out_share=0.25, held_out_margin_s=0.3)
    assert bag.scene_names == ("bag", "bag-held-out") and bag.held_out_scenes == ("bag-held-out",)
    train, held = bag.indices_of("bag"), bag.indices_of("bag-held-out")
    assert len(held) == 5 and len(train) == 13 and bag.left_out["held_out_margin"] == 2
    assert bag.frame(held[0]).stamp_ns - bag.frame(train[-1]).stamp_ns >= 300_000_000
    only = BagFrames([tmp_path / "bag"], SMALL, bag.config, scenes=["bag-held-out"])
    assert only.tokens == tuple(bag.tokens[i] for i in held)
    with pytest.raises(ValueError, match="scenes there: bag, bag-held-out"):
        BagFrames([tmp_path / "bag"], SMALL, bag.config, scenes=["x"])


def test_what_is_not_usable_is_counted_by_reason(tmp_path):
    recording = record(12)
    lost = START_NS + 4 * STEP_NS
    rows = [r for r in recording.rows if not (r[0] == "/cam_back/image_raw/compressed" and abs(r[2] - lost) < 5e7)]
    rows = [r for r in rows if not (r[0] == "/lidar_top" and r[2] > START_NS + 9 * STEP_NS)]
    rows = [r for r in rows if not (r[0] == "/tf" and r[2] < START_NS + STEP_NS)]
    bag = frames(write(Recording(rows), tmp_path / "bag"))
    assert bag.recordings[0].dropped == {"spread": 1, "no_tf": 2, "no_lidar": 2}
    assert len(bag) == 7 and "no_lidar 2" in bag.summary()


def test_time_that_runs_backwards_begins_another_scene_with_poses_of_its_own(tmp_path):
    first = record(6)
    again = record(6, log_offset_ns=20 * STEP_NS)
    bag = frames(write(Recording(first.rows + again.rows), tmp_path / "bag"))
    assert bag.scene_names == ("bag-1", "bag-2")
    a, b = (bag.frame(bag.indices_of(scene)[2]) for scene in bag.scene_names)
    assert a.stamp_ns == b.stamp_ns
    np.testing.assert_allclose(a.T_global_ego, b.T_global_ego)


def test_two_bags_are_one_data_set_and_other_cameras_are_refused(tmp_path, caplog):
    one = write(record(4), tmp_path / "one")
    two = write(record(4, START_NS + 10**12, size=(128, 80)), tmp_path / "two")
    both = frames(one, two)
    assert both.scene_names == ("one", "two") and len(both) == 8 and len(set(both.tokens)) == 8
    assert "cam_front has images of 64x40 and 128x80" in caplog.text
    assert both.frame(7).Ks[0, 0, 0] == pytest.approx(K[0, 0] / 2)
    other = write(record(4).without("cam_back"), tmp_path / "other")
    with pytest.raises(ValueError, match="has cameras CAM_FRONT, .* CAM_FRONT, CAM_BACK"):
        frames(one, other)


def test_without_classes_all_that_is_occupied_is_one_class_or_unknown(tmp_path):
    recording = record(4, labels=False)
    for row in recording.rows:
        if row[0] == "/lidar_top":
            row[3].fields = [f for f in row[3].fields if f.name != "label"]
    path = write(recording, tmp_path / "bag")
    bag = frames(path)
    assert set(bag.frame(0).labels.class_id) == {0} and bag.lidar_returns(0)[2] is None
    assert set(frames(path, geometry_class="unknown").frame(0).labels.class_id) == {IGNORE}


def test_the_own_vehicles_points_are_left_out(tmp_path):
    path = write(record(2), tmp_path / "bag")
    everything = frames(path).lidar_returns(0)[1]
    ahead = everything[:, 0] > 0
    less = frames(path, own_vehicle_min_m=(0.0, -20.0, -5.0), own_vehicle_max_m=(20.0, 20.0, 5.0)).lidar_returns(0)[1]
    np.testing.assert_array_equal(less, everything[~ahead])


def test_held_out_points_are_in_no_label(tmp_path):
    path = write(record(2), tmp_path / "bag")
    whole = frames(path).frame(0).labels
    bag = frames(path, options=LabelOptions(hold_out=0.4))
    kept, held = bag.frame(0).labels, bag.held_out_labels(0)
    assert 0 < len(held) and len(kept) + len(held) == len(whole)


def test_a_frame_that_has_become_unreadable_is_a_value_error(tmp_path):
    recording = record(3)
    for row in recording.rows:
        if row[0] == "/cam_front/image_raw/compressed" and row[2] == START_NS + STEP_NS:
            row[3].data = row[3].data[:30]
    bag = frames(write(recording, tmp_path / "bag"))
    with pytest.raises(ValueError, match="not readable"):
        bag.frame(1)
    assert bag.frame_without_images(1).labels is not None and bag.frame(2).images.any()


def test_points_with_times_are_taken_from_where_the_lidar_was(tmp_path):
    recording = record(3)
    for row in recording.rows:
        if row[0] == "/lidar_top":
            cloud = row[3]
            old = np.frombuffer(bytes(cloud.data), np.uint8).reshape(-1, cloud.point_step)
            seconds = np.linspace(0, 0.09, len(old)).astype("<f4").view(np.uint8).reshape(-1, 4)
            grown = np.concatenate([old, seconds], axis=1)
            field = type(cloud.fields[0])(name="time", offset=cloud.point_step, datatype=7, count=1)
            cloud.fields, cloud.point_step = [*cloud.fields, field], cloud.point_step + 4
            cloud.row_step, cloud.data = grown.size, grown.reshape(-1)
    bag = frames(write(recording, tmp_path / "bag"))
    origins, points, _ = bag.lidar_returns(1)
    advance = origins[-1, 0] - origins[0, 0]
    assert advance == pytest.approx(5.0 * 0.09, abs=0.006)  # a pose each millisecond
    still = frames(tmp_path / "bag", point_times="none").lidar_returns(1)
    assert np.ptp(still[0][:, 0]) == 0
    # What a point was at the sensor does not change.
    np.testing.assert_allclose(points - origins, still[1] - still[0], atol=1e-9)


def test_label_images_and_functions_give_classes(tmp_path, monkeypatch):
    recording = record(3)
    for number, camera in enumerate(CAMERAS):
        for i in range(3):
            stamp_ns = START_NS + i * STEP_NS + 20_000_000 * number
            ids = np.full((20, 32), 3, np.uint8)  # another size than the images'
            ids[:, 16:] = 7
            message = messages.raw_image(np.repeat(ids[:, :, None], 3, axis=2), "mono8", stamp_ns, camera)
            message.step, message.data = 32, ids.reshape(-1)
            recording.rows.append((f"/{camera}/semantic", "sensor_msgs/msg/Image", stamp_ns, message))
    path = write(recording, tmp_path / "bag")
    config = {"supervision": "images", "semantic_topic": "{camera}/semantic", "semantic_ids": ((3, 11), (7, 4))}
    labels = frames(path, **config).frame(0).labels
    np.testing.assert_array_equal(labels.class_id, np.where(labels.uv[:, 0] < 32, 11, 4))

    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef label(points_ego, fields, stamp_ns):\n"
        "    return np.where(points_ego[:, 0] > 0, 4, 255)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    bag = frames(path, supervision="function", label_function="mine:label")
    _, points, classes = bag.lidar_returns(0)
    np.testing.assert_array_equal(classes, np.where(points[:, 0] > 0, 4, IGNORE))
    with pytest.raises(ValueError, match="importable"):
        frames(path, supervision="function", label_function="nowhere:label")


def test_bags_are_read_without_ros(tmp_path):
    write(record(2), tmp_path / "bag")
    program = (
        "import importlib.util, sys\n"
        "ros = ('rclpy', 'sensor_msgs', 'geometry_msgs', 'std_msgs', 'nav_msgs', 'tf2_msgs', 'builtin_interfaces')\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ros:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name in ros else real(name, *a)\n"
        "from gsrender_core.cli import main\n"
        "sys.exit(main(['inspect', sys.argv[1]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "bag")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "frames to train on: 1" in done.stdout


def with_odometry(recording: Recording, moved_from: int = 10**9, moved_m: float = 0.0) -> Recording:
    """Poses as Odometry instead of /tf; from a set on they lie elsewhere."""
    rows = [r for r in recording.rows if r[0] not in ("/tf", "/odom")]
    for at_ns in range(START_NS - STEP_NS, START_NS + 12 * STEP_NS, STEP_NS // 2):
        T = pose(at_ns)
        T[1, 3] += moved_m if at_ns >= START_NS + moved_from * STEP_NS else 0.0
        rows.append(("/odom", "nav_msgs/msg/Odometry", at_ns, messages.odometry(T, at_ns, "map", "base_link")))
    return Recording(rows)


def test_odometry_that_jumps_divides_a_scene_and_is_never_interpolated_across(tmp_path, caplog):
    (tmp_path / "rig.yaml").write_text(
        "/**:\n  ros__parameters:\n    cameras: [cam_front, cam_back]\n    pose_source: odometry\n"
        "    topics: {odometry: odom}\n    tf: {max_speed_mps: 50.0}\n"
    )
    config = {"params_file": str(tmp_path / "rig.yaml")}
    whole = frames(write(with_odometry(record(10)), tmp_path / "whole"), **config)
    assert whole.scene_names == ("whole",) and len(whole) == 10
    np.testing.assert_allclose(whole.frame(5).T_global_ego, pose(START_NS + 5 * STEP_NS), atol=1e-9)
    caplog.clear()
    bag = frames(write(with_odometry(record(10), 5, 30.0), tmp_path / "bag"), **config)
    assert "1 jumps of the odometry, first: Odometry jumped by 30.0 m within 0.050 s" in caplog.text
    assert bag.scene_names == ("bag-1", "bag-2") and bag.adjacent(bag.indices_of("bag-1")[-1], 1) is None
    stamps = [bag.frame(i).stamp_ns for i in range(len(bag))]
    # Set 5's sweep, 10 ms before its image, and set 4's second image lie on other sides of a jump.
    assert bag.recordings[0].dropped == {"no_tf": 10 - len(bag)} and len(bag) in (8, 9)
    assert START_NS + 5 * STEP_NS not in stamps
    for i in range(len(bag)):
        moved = bag.frame(i).T_global_ego[1, 3] - pose(stamps[i])[1, 3]
        assert moved == pytest.approx(30.0 if stamps[i] > START_NS + 5 * STEP_NS else 0.0, abs=1e-9)


def test_odometry_that_is_no_rotation_is_refused_and_counted(tmp_path):
    (tmp_path / "rig.yaml").write_text(
        "/**:\n  ros__parameters:\n    cameras: [cam_front, cam_back]\n    pose_source: odometry\n"
        "    topics: {odometry: odom}\n"
    )
    recording = with_odometry(record(6))
    bad = [r for r in recording.rows if r[0] == "/odom"][4]
    bad[3].pose.pose.orientation.w = 2.0
    bag = frames(write(recording, tmp_path / "bag"), params_file=str(tmp_path / "rig.yaml"))
    (refused,) = bag.recordings[0].poses.refused.items()
    assert "odometry map -> base_link: its orientation" in refused[0]
    assert refused[1] == 1 and len(bag) == 6  # interpolated between the poses around
