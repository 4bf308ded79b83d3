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
        ("cam_back", 100.2, r"base_link <- cam_back at 100\.200 .*does not exist"),
        ("cam_front", 101.0, r"base_link <- cam_front at 101\.000 .*into the future"),
        ("cam_front", 99.0, r"base_link <- cam_front at 99\.000 .*into the past"),
    ],
)
def test_a_missing_transform_drops_the_frame_and_says_what_exists(buffer, camera, stamp_s, text):
    lookup = TransformLookup(buffer, "base_link", "map", wait_s=0.01)
    with pytest.raises(FrameDropped, match=text) as dropped:
        lookup.rig_pose(int(stamp_s * S), [(camera, int(stamp_s * S))])
    assert dropped.value.reason == "no_tf"
    assert "Known: base_link, cam_front, map" in str(dropped.value)
    assert "waited 0.01 s" in str(dropped.value)


def test_an_empty_buffer_says_that_nothing_is_published():
    lookup = TransformLookup(Buffer(), "base_link", "map", wait_s=0.0)
    with pytest.raises(FrameDropped, match="none; is anything publishing /tf"):
        lookup.rig_pose(S, [("cam_front", S)])


def test_known_frames_include_parents(buffer):
    assert known_frames(buffer) == ["base_link", "cam_front", "map"]
    assert known_frames(Buffer()) == []
