"""Messages to frames in a buffer: what becomes of good and of bad ones, without topics."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from ros_processes import CAMERAS, PATIENCE_S, START_NS, K
from small_drives import APART_NS, MOUNTS, SET_NS, SIZE, image_message, mounts, pose_at, sweep_points

from gsrender_core.bag_config import BagConfig
from gsrender_core.classes import IGNORE
from gsrender_core.data.buffer_limits import BufferLimits
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_core.data.replay_buffer import ReplayBuffer
from gsrender_ros import bag_messages as messages
from gsrender_ros.clouds import is_labelled
from gsrender_ros.frame_assembly import ImageSet
from gsrender_ros.image_conversions import Intrinsics
from gsrender_ros.live_frames import BACKLOG, LiveFrames, LiveInputs
from gsrender_ros.stamped_messages import StampedMessages
from gsrender_ros.standins.tf2 import Buffer
from gsrender_ros.statistics import FrameStatistics
from gsrender_ros.tf_lookup import matrix_from_message, message_from_matrix

CONFIG = BagConfig(keyframe_interval_s=0.4, lidar_slop_s=0.05)


class Topics:
    """Stands for ``CameraTopics``: its intrinsics."""

    def intrinsics(self, channels=None):
        return [Intrinsics(K, SIZE, camera) for camera in CAMERAS if camera.upper() in channels]


class Bench:
    """``LiveFrames`` with a real buffer of transforms."""

    def __init__(self, config: BagConfig = CONFIG, with_tf: bool = True, wait_s: float = 0.05, **limits):
        self.rng = np.random.default_rng(0)
        self.statistics, self.sweeps = FrameStatistics(), StampedMessages("/lidar_top", is_labelled)
        self.buffer = ReplayBuffer(BufferLimits(**(dict(memory_bytes=10**8, hold_out_every=0) | limits)))
        transforms = Buffer()
        for mount in mounts() if with_tf else ():
            transforms.set_transform_static(_message(mount), "test")
        for at_ns in range(START_NS, START_NS + 20 * SET_NS, 20_000_000) if with_tf else ():
            transforms.set_transform(message_from_matrix(pose_at(at_ns), "map", "base_link", at_ns), "test")
        lookup = SimpleNamespace(ego_frame="base_link", fixed_frame="map")
        poses = SimpleNamespace(buffer=transforms, lookup=lookup)
        self.inputs = LiveInputs(Topics(), poses, SimpleNamespace(sweeps=[self.sweeps], label_images=[]), wait_s)
        self.frames = LiveFrames(config, SIZE, LabelOptions(), self.inputs, self.buffer, self.statistics)
        self.dropped = []
        self.frames.on_drop = self.dropped.append

    def image_set(self, number: int, cameras=CAMERAS) -> ImageSet:
        stamps = tuple(START_NS + number * SET_NS + i * APART_NS for i in range(len(cameras)))
        images = tuple(image_message(self.rng, s, c) for s, c in zip(stamps, cameras, strict=True))
        return ImageSet(images, stamps, tuple(cameras), tuple(c.upper() for c in cameras), stamps[0])

    def sweep(self, number: int, points=None, labels=None, later_ns: int = 7_000_000) -> None:
        stamp_ns = START_NS + number * SET_NS + later_ns
        points = sweep_points(self.rng) if points is None else points
        labels = np.full(len(points), 4, np.uint8) if labels is None else labels
        self.sweeps.add(stamp_ns, messages.point_cloud(points, labels, stamp_ns, "lidar_top"))

    def submit(self, image_set: ImageSet) -> None:
        self.statistics.received()
        self.frames.submit(image_set)

    def settled(self) -> dict:
        """What was dropped, when nothing is pending any more."""
        end = time.monotonic() + PATIENCE_S
        while self.statistics.summary().pending:
            assert time.monotonic() < end, "frames are still pending"
            time.sleep(0.005)
        return self.statistics.summary().dropped

    def reason(self) -> str:
        (dropped,) = self.dropped
        assert "\n" not in str(dropped)
        return str(dropped)


def _message(mount) -> TransformStamped:
    T = mount.transform
    message = TransformStamped()
    message.header.frame_id, message.child_frame_id = mount.header.frame_id, mount.child_frame_id
    t, r = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = T.translation.x, T.translation.y, T.translation.z
    r.x, r.y, r.z, r.w = T.rotation.x, T.rotation.y, T.rotation.z, T.rotation.w
    return message


def _not_finite() -> np.ndarray:
    points = np.zeros((50, 5))
    points[:, :3] = np.nan
    return points


@pytest.fixture
def bench():
    made = []

    def make(*arguments, **options) -> Bench:
        made.append(Bench(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.frames.stop()


def test_the_wanted_sets_become_frames_with_labels_and_the_others_are_counted(bench):
    b = bench()
    for number in range(5):
        b.sweep(number, labels=np.full(400, 4, np.uint8))
    for number in range(5):
        b.submit(b.image_set(number))
    assert b.settled() == {"between": 2}
    b.buffer.take_in()
    frames = [b.buffer.frame(i) for i in range(3)]
    assert [f.stamp_ns for f in frames] == [START_NS + n * SET_NS for n in (0, 2, 4)]
    assert {f.scene for f in frames} == {"replay-1"} and b.buffer.adjacent(0, 1) == 1
    first = frames[0]
    assert first.camera_names == ("CAM_FRONT", "CAM_BACK") and first.images.shape == (2, 3, 64, 96)
    np.testing.assert_allclose(first.T_ego_cam[0][:3, 3], (MOUNTS["cam_front"], 0, 1.5), atol=1e-9)
    # The back camera fired 20 ms later, 0.1 m further on.
    assert first.T_ego_cam[1][0, 3] == pytest.approx(MOUNTS["cam_back"] + 0.1, abs=1e-3)
    np.testing.assert_allclose(frames[1].T_global_ego, pose_at(frames[1].stamp_ns), atol=1e-9)
    assert set(first.labels.class_id) == {4} and set(first.labels.camera) == {0, 1}  # both look ahead
    assert b.frames.supervision == "field" and b.statistics.summary().frames_out == 3


def test_a_set_waits_for_its_sweep_and_its_transforms(bench):
    b = bench(wait_s=PATIENCE_S)
    b.submit(b.image_set(0))
    time.sleep(0.05)
    assert b.statistics.summary().pending == 1
    b.sweep(0)
    assert b.settled() == {} and b.statistics.summary().frames_out == 1


def test_no_lidar_no_transforms_and_clouds_that_are_none_are_named(bench):
    b = bench()
    b.submit(b.image_set(0))
    assert b.settled() == {"no_lidar": 1}
    assert "no message on /lidar_top within 0.05 s of 1700000000.000 (waited 0.05 s, 0 received" in b.reason()

    b = bench(with_tf=False)
    b.sweep(0)
    b.submit(b.image_set(0))
    assert b.settled() == {"no_tf": 1}
    assert "No transform base_link <- cam_front at 1700000000.000" in b.reason()

    b = bench()
    b.sweep(0, points=_not_finite())
    b.submit(b.image_set(0))
    assert b.settled() == {"no_lidar": 1}
    assert "none of the cloud's 50 points is finite" in b.reason()

    b = bench(dataclasses.replace(CONFIG, supervision="field", label_field="class"))
    b.sweep(0)
    b.submit(b.image_set(0))
    assert b.settled() == {"no_labels": 1} and "no field 'class'" in b.reason()


def test_a_cloud_without_classes_supervises_geometry(bench):
    b = bench(dataclasses.replace(CONFIG, supervision="geometry", geometry_class="unknown"))
    b.sweep(0)
    b.submit(b.image_set(0))
    assert b.settled() == {}
    b.buffer.take_in()
    assert set(b.buffer.frame(0).labels.class_id) == {IGNORE}


def test_where_only_some_sweeps_carry_classes_those_are_taken(bench):
    b = bench(dataclasses.replace(CONFIG, lidar_slop_s=0.06))
    for number in (0, 2, 4):
        b.sweep(number, labels=np.full(400, IGNORE, np.uint8))  # nearer to the images
    for number in (0, 2):
        b.sweep(number, labels=np.full(400, 4, np.uint8), later_ns=45_000_000)
    for number in (0, 2, 4):
        b.submit(b.image_set(number))
    assert b.settled() == {"no_labels": 1} and "no sweep with classes near 1700000000.800" in b.reason()
    b.buffer.take_in()
    assert [set(b.buffer.frame(i).labels.class_id) for i in range(2)] == [{4}, {4}]


def test_another_rig_and_points_behind_all_cameras_are_unusable(bench):
    b = bench()
    for number in (0, 2, 4):
        b.sweep(number)
    b.submit(b.image_set(0))
    b.submit(b.image_set(2, cameras=CAMERAS[:1]))
    assert b.settled() == {"unusable": 1} and "another rig needs a run of its own" in b.reason()
    b.submit(b.image_set(2))  # the rule does not count what was not used
    assert b.settled() == {"unusable": 1} and b.statistics.summary().frames_out == 2
    b.sweep(5, points=np.full((50, 5), 100.0) * (1, 1, 1, 0, 0))
    b.sweeps.clear()
    b.sweep(4, points=np.array([[0.0, 0.0, 90.0, 0, 0]]))
    b.submit(b.image_set(4))
    assert b.settled() == {"unusable": 2} and "has no LiDAR labels" in str(b.dropped[-1])


def test_time_that_jumps_back_begins_another_scene(bench):
    b = bench(wait_s=PATIENCE_S)
    b.sweep(0)
    b.submit(b.image_set(0))
    b.settled()
    for number in (2, 4):
        b.submit(b.image_set(number))  # wait for their sweeps
    time.sleep(0.05)
    b.frames.restart()
    b.sweep(2)
    assert b.settled() == {"reset": 2} and not b.sweeps.reaches(START_NS + 4 * SET_NS)
    b.sweeps.clear()
    b.sweep(1)
    b.submit(b.image_set(1))
    assert b.settled() == {"reset": 2}
    b.buffer.take_in()
    assert [b.buffer.scene_of(i) for i in range(len(b.buffer))] == ["replay-1", "replay-2"]
    assert b.buffer.adjacent(0, 1) is None


def test_a_gap_begins_another_scene(bench):
    b = bench(dataclasses.replace(CONFIG, gap_s=1.0))
    for number in (0, 2, 9):
        b.sweep(number)
        b.submit(b.image_set(number))
    assert b.settled() == {}
    b.buffer.take_in()
    assert [b.buffer.scene_of(i) for i in range(3)] == ["replay-1", "replay-1", "replay-2"]


def test_frames_that_the_training_does_not_want_are_not_even_looked_at(bench):
    b = bench()
    b.frames.may_put = lambda: False
    b.submit(b.image_set(0))
    assert b.settled() == {"behind": 1}
    b = bench(memory_bytes=2 * 8 * 60_000)  # an eighth holds two frames
    for number in range(0, 12, 2):
        b.sweep(number)
        b.submit(b.image_set(number))
    dropped = b.settled()
    assert dropped["behind"] >= 3 and "too many frames wait" in str(b.dropped[-1])
    assert b.buffer.used_bytes <= b.buffer.limits.memory_bytes


def test_a_backlog_is_bounded(bench):
    b = bench(wait_s=PATIENCE_S)
    for number in range(BACKLOG + 5):
        b.submit(b.image_set(number % 10))
    assert b.frames.backlog <= BACKLOG and b.statistics.summary().dropped["superseded"] >= 4


def test_a_transform_looked_up_in_a_buffer_is_that_of_the_tree():
    from gsrender_ros.buffer_transforms import BufferTransforms
    from gsrender_ros.transform_history import TransformException
    from gsrender_ros.transform_tree import TransformTree

    buffer, tree = Buffer(), TransformTree()
    for at_ns in (START_NS, START_NS + SET_NS):
        message = message_from_matrix(pose_at(at_ns), "map", "base_link", at_ns)
        buffer.set_transform(message, "test")
        t, r = message.transform.translation, message.transform.rotation
        tree.add(("map", "base_link"), at_ns, ((t.x, t.y, t.z), (r.x, r.y, r.z, r.w)))
    target, source = ("base_link", START_NS), ("base_link", START_NS + SET_NS // 3)
    expected = tree.look_up_full(target, source, "map")
    np.testing.assert_allclose(BufferTransforms(buffer).look_up_full(target, source, "map"), expected, atol=1e-12)
    assert BufferTransforms(buffer).frames() == ["base_link", "map"]
    with pytest.raises(TransformException, match="extrapolation into the future"):
        BufferTransforms(buffer).look_up_full(target, ("base_link", START_NS + 2 * SET_NS), "map")
    assert matrix_from_message(message_from_matrix(expected, "a", "b")) == pytest.approx(expected)
