import threading

import numpy as np
import pytest
from rclpy.duration import Duration

from gsrender_core.geometry import transform
from gsrender_ros.standins import Buffer
from gsrender_ros.statistics import FrameDropped
from gsrender_ros.tf_lookup import TransformLookup, known_frames, message_from_matrix

S = 1_000_000_000
MOUNTING = transform((0.5, -0.5, 0.5, -0.5), (1.7, 0.0, 1.5))


def ego(seconds: float) -> np.ndarray:
    """The ego drives 10 m/s along x of the map."""
    return transform((1, 0, 0, 0), (10.0 * seconds, 2.0, 0.0))


@pytest.fixture
def buffer():
    buffer = Buffer(cache_time=Duration(seconds=10))
    for stamp in (100.0, 100.5):
        buffer.set_transform(message_from_matrix(ego(stamp), "map", "base_link", int(stamp * S)), "test")
    buffer.set_transform_static(message_from_matrix(MOUNTING, "base_link", "cam_front"), "test")
    return buffer


def test_each_camera_stands_where_it_fired(buffer):
    lookup = TransformLookup(buffer, "base_link", "map", wait_s=0.0)
    cameras = [("cam_front", int(100.2 * S)), ("cam_front", int(100.25 * S))]
    pose = lookup.rig_pose(int(100.25 * S), cameras)
    np.testing.assert_allclose(pose.T_global_ego, ego(100.25), atol=1e-9)
    np.testing.assert_allclose(pose.T_ego_cam[1], MOUNTING, atol=1e-9)
    behind = MOUNTING.copy()
    behind[0, 3] -= 0.5  # 50 ms earlier at 10 m/s
    np.testing.assert_allclose(pose.T_ego_cam[0], behind, atol=1e-9)


@pytest.mark.parametrize(
    ("camera", "stamp_s", "text"),
    [
        ("cam_back", 100.2, r"base_link <- cam_back at 100\.200 \(waited 0\.01 s.*does not exist"),
        ("cam_front", 101.0, r"base_link <- cam_front at 101\.000 \(waited 0\.01 s.*into the future"),
        ("cam_front", 99.0, r"base_link <- cam_front at 99\.000 \(waited 0\.00 s.*into the past"),
    ],
)
def test_a_missing_transform_drops_the_frame_and_says_what_exists(buffer, camera, stamp_s, text):
    lookup = TransformLookup(buffer, "base_link", "map", wait_s=0.01)
    with pytest.raises(FrameDropped, match=text) as dropped:
        lookup.rig_pose(int(stamp_s * S), [(camera, int(stamp_s * S))])
    assert dropped.value.reason == "no_tf"
    assert "Known: base_link, cam_front, map" in str(dropped.value)


def test_an_empty_buffer_says_that_nothing_is_published():
    lookup = TransformLookup(Buffer(), "base_link", "map", wait_s=0.0)
    with pytest.raises(FrameDropped, match="none; is anything publishing /tf"):
        lookup.rig_pose(S, [("cam_front", S)])


def test_known_frames_include_parents(buffer):
    assert known_frames(buffer) == ["base_link", "cam_front", "map"]
    assert known_frames(Buffer()) == []


def feed(buffer, stamps_s, x_of=lambda s: 10.0 * s):
    for stamp in stamps_s:
        pose = transform((1, 0, 0, 0), (x_of(stamp), 2.0, 0.0))
        buffer.set_transform(message_from_matrix(pose, "map", "base_link", int(stamp * S)), "test")


def test_transforms_that_come_after_their_images_are_waited_for(buffer):
    """As with recordings that have poses at keyframes only: the next one comes half a second later."""
    lookup = TransformLookup(buffer, "base_link", "map", wait_s=60.0)
    later = threading.Timer(0.2, feed, (buffer, [101.0]))
    later.start()
    pose = lookup.rig_pose(int(100.75 * S), [("cam_front", int(100.75 * S))])
    later.join()
    np.testing.assert_allclose(pose.T_global_ego, ego(100.75), atol=1e-9)


def test_waiting_ends_when_nobody_wants_the_answer(buffer):
    lookup = TransformLookup(buffer, "base_link", "map", wait_s=60.0)
    asked = []
    with pytest.raises(FrameDropped, match="into the future"):
        lookup.rig_pose(101 * S, [("cam_front", 101 * S)], cancelled=lambda: asked.append(1) or len(asked) > 3)
    assert len(asked) == 4


def test_transforms_at_every_image_of_157_hz_and_a_moving_mounting():
    """clynamen's bags send the mountings on /tf too; each camera takes its own moment's."""
    buffer = Buffer(cache_time=Duration(seconds=10))
    stamps = 50.0 + np.arange(0, 157) / 157
    feed(buffer, stamps)
    for stamp in stamps:
        mounting = MOUNTING.copy()
        mounting[2, 3] += stamp - 50.0  # it slides up a metre a second
        buffer.set_transform(message_from_matrix(mounting, "base_link", "cam_front", int(stamp * S)), "test")
    lookup = TransformLookup(buffer, "base_link", "map", wait_s=0.0)
    pose = lookup.rig_pose(int(50.5 * S), [("cam_front", int(50.46 * S))])
    expected = MOUNTING.copy()
    expected[0, 3] -= 0.4  # 40 ms at 10 m/s
    expected[2, 3] += 0.46  # as it was when the camera fired, not when the reference did
    np.testing.assert_allclose(pose.T_ego_cam[0], expected, atol=1e-6)


def test_a_jump_of_the_localisation_between_two_cameras_drops_their_frame(buffer):
    feed(buffer, [100.52], x_of=lambda s: 10.0 * s + 30.0)
    feed(buffer, [101.0], x_of=lambda s: 10.0 * s + 30.0)
    lookup = TransformLookup(buffer, "base_link", "map", wait_s=0.0, max_speed_mps=50.0)
    at = [int(stamp * S) for stamp in (100.495, 100.525, 100.53, 100.56)]
    with pytest.raises(
        FrameDropped, match=r"moved by 30\.\d m in map between 100\.495 and 100\.530 .*frames.fixed:=odom"
    ) as dropped:
        lookup.rig_pose(at[2], [("cam_front", at[0]), ("cam_front", at[1])])
    assert dropped.value.reason == "pose_jump"
    after = lookup.rig_pose(at[2], [("cam_front", at[1]), ("cam_front", at[3])])
    np.testing.assert_allclose(after.T_ego_cam[:, 0, 3] - MOUNTING[0, 3], [-0.05, 0.3], atol=1e-6)
