"""One bag with several LiDARs, and with a lens behind label images: what a frame is made of, and what it lacks."""

import numpy as np
import pytest
from recordings import CAMERAS, CLOUD, MOUNTINGS, SIZE, START_NS, STEP_NS, TF, K, Recording, points, pose, record, write

from gsrender_core.bag_config import BagConfig
from gsrender_core.geometry import apply, inverse, transform
from gsrender_ros import bag_messages as messages
from gsrender_ros.bag_frames import BagFrames
from gsrender_ros.bag_recording import BagRecording

REAR = transform(np.diag([-1.0, -1, 1]), (-1.0, 0.0, 1.0))
CONFIG = BagConfig(keyframe_interval_s=0.1, held_out_share=0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def with_rear_lidar(sets: int = 4, missing: int = -1, labels: bool = True) -> Recording:
    """A second LiDAR, 20 ms after each image; one of its sweeps may be missing."""
    made = record(sets)
    mount = messages.transform_stamped(REAR, START_NS, "base_link", "lidar_rear")
    made.rows.append(("/tf_static", TF, START_NS - STEP_NS, messages.tf_message([mount])))
    for i in range(sets):
        stamp_ns = START_NS + i * STEP_NS + 20_000_000
        classes = np.full(200, 7, np.uint8) if labels else None
        cloud = messages.point_cloud(points(100 + i), classes, stamp_ns, "lidar_rear")
        if not labels:
            cloud.fields = [field for field in cloud.fields if field.name != "label"]
        if i != missing:
            made.rows.append(("/lidar_rear", CLOUD, stamp_ns, cloud))
    return made


def test_a_frame_has_the_points_of_all_lidars_each_from_its_own_place_and_time(tmp_path):
    bag = BagFrames([write(with_rear_lidar(), tmp_path / "bag")], SIZE, CONFIG)
    assert [topic.topic for topic in bag.recordings[0].lidars] == ["/lidar_rear", "/lidar_top"]
    origins, found, classes = bag.lidar_returns(2)
    at_ns = START_NS + 2 * STEP_NS
    expected = []
    for number, frame, T, later_ns in (
        (102, "rear", REAR, 20_000_000),
        (2, "top", MOUNTINGS["lidar_top"], -10_000_000),
    ):
        T_ego_lidar = inverse(pose(at_ns)) @ pose(at_ns + later_ns) @ T
        expected.append(apply(T_ego_lidar, points(number)[:, :3].astype(np.float64)))
        here = slice(0, 200) if frame == "rear" else slice(200, 400)
        np.testing.assert_allclose(origins[here], np.broadcast_to(T_ego_lidar[:3, 3], (200, 3)), atol=1e-9)
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-9)
    assert set(classes[:200]) == {7} and len(set(classes[200:])) > 5
    alone = BagFrames([tmp_path / "bag"], SIZE, BagConfig(keyframe_interval_s=0.1, lidar_topics=("lidar_top",)))
    assert len(alone.frame(2).labels) < len(bag.frame(2).labels) and len(alone.lidar_returns(2)[1]) == 200


def test_a_set_without_a_sweep_of_every_lidar_is_counted(tmp_path):
    recording = BagRecording(write(with_rear_lidar(missing=1), tmp_path / "bag"), CONFIG)
    assert recording.dropped == {"no_lidar": 1} and "no sweep on /lidar_rear within" in recording.why["no_lidar"]
    assert [keyframe.stamp_ns for keyframe in recording.keyframes] == [START_NS + i * STEP_NS for i in (0, 2, 3)]
    assert [keyframe.sweeps for keyframe in recording.keyframes] == [(0, 0), (1, 2), (2, 3)]


def test_classes_are_those_of_a_field_that_all_lidars_have(tmp_path):
    bag = BagFrames([write(with_rear_lidar(labels=False), tmp_path / "bag")], SIZE, CONFIG)
    assert "label" not in bag.recordings[0].cloud_fields()
    assert bag.lidar_returns(0)[2] is None and set(bag.frame(0).labels.class_id) == {0}  # geometry alone
    with pytest.raises(ValueError, match="have no field 'label'"):
        BagFrames([tmp_path / "bag"], SIZE, BagConfig(supervision="field"))


def test_a_lidar_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = write(with_rear_lidar(), tmp_path / "bag")
    with pytest.raises(
        ValueError, match="has no PointCloud2 on /lidar_left; its PointCloud2 topics: /lidar_rear, /lid"
    ):
        BagRecording(path, BagConfig(lidar_topics=("/lidar_left", "/lidar_top")))


def test_label_images_lie_behind_the_cameras_lens(tmp_path):
    """Label images are divided where the lens puts the direction x = 0.6: there the labels' classes part."""
    limit, k1 = 0.6, 0.8
    divide = K[0, 0] * limit * (1 + k1 * limit**2) + K[0, 2]  # on the principal row; without the lens 5 px less
    recording = record(2)
    for topic, _, stamp_ns, message in list(recording.rows):
        if topic.endswith("camera_info"):
            message.d = np.array([k1, 0.0, 0.0, 0.0])
        if topic.endswith("compressed"):
            ids = np.where(np.arange(10 * SIZE[0]) + 0.5 < 10 * divide, 11, 4).astype(np.uint8)
            ids = np.repeat(ids[None], SIZE[1], axis=0)  # ten times as fine, sideways
            image = messages.raw_image(np.repeat(ids[:, :, None], 3, axis=2), "mono8", stamp_ns, topic)
            image.step, image.data = ids.shape[1], ids.reshape(-1)
            recording.rows.append((f"/{topic.split('/')[1]}/semantic", "sensor_msgs/msg/Image", stamp_ns, image))
    config = BagConfig(supervision="images", semantic_topic="{camera}/semantic", keyframe_interval_s=0.1)
    bag = BagFrames([write(recording, tmp_path / "bag")], SIZE, config)
    frame = bag.frame(0)
    on_row = np.abs(frame.labels.uv[:, 1] - K[1, 2]) < 3  # where the vertical part bends hardly
    x = (frame.labels.uv[:, 0] - K[0, 2]) / K[0, 0]
    sure = on_row & (np.abs(x - limit) * K[0, 0] > 1.5) & (np.abs(x) < 0.72)  # beyond, the image ends
    assert sure.sum() > 10 and {4, 11} <= set(frame.labels.class_id[sure])
    np.testing.assert_array_equal(frame.labels.class_id[sure], np.where(x < limit, 11, 4)[sure])
    assert len(CAMERAS) == 2 and set(frame.labels.camera[sure]) == {0, 1}
