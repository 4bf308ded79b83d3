"""Every layout of recordings over DDS, up to the ``Frame``: what the network would be given, without a network."""

import array
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rclpy
import simplejpeg
from geometry_msgs.msg import Quaternion, Vector3
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_processes import OPTICAL, PATIENCE_S, own_domain
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gsrender_core.geometry import transform
from gsrender_ros.calibration import CameraCalibration, RigCalibration
from gsrender_ros.camera_sync import CameraSync
from gsrender_ros.camera_topics import CameraTopics
from gsrender_ros.diagnostics import Diagnostics
from gsrender_ros.frame_assembly import FrameAssembler
from gsrender_ros.image_conversions import set_stamp
from gsrender_ros.layouts import camera_names, effective
from gsrender_ros.parameters import Settings
from gsrender_ros.pose_source import PoseSource
from gsrender_ros.standins import GENUINE, TFMessage
from gsrender_ros.statistics import FrameDropped, FrameStatistics
from gsrender_ros.tf_lookup import message_from_matrix

CAMERAS = ("cam_front", "cam_back")
COLORS = {"cam_front": (200, 40, 90), "cam_back": (30, 160, 220)}
SIZE, TARGET = (96, 64), (48, 32)
K = np.array([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]])
MOUNTINGS = {"cam_front": transform(OPTICAL, (1.5, 0.0, 1.5)), "cam_back": transform(OPTICAL, (-0.5, 0.0, 1.5))}
START_NS = 1_532_402_927_000_000_000
SPEED_MPS = 8.0
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=10)
needs_tf = pytest.mark.skipif(not GENUINE["tf2_msgs"], reason="tf2_msgs is not installed")


def ego(stamp_ns: int) -> np.ndarray:
    return transform((1, 0, 0, 0), (SPEED_MPS * (stamp_ns - START_NS) / 1e9, 3.0, 0.0))


class Vehicle:
    """Publishes as a converter's recording does, from a participant of its own."""

    def __init__(self, domain: int):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("vehicle", context=self.context)
        self._publishers = {}

    def publish(self, topic: str, message, qos=RELIABLE) -> None:
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(type(message), topic, qos)
        self._publishers[topic].publish(message)

    def raw(self, topic: str, camera: str, stamp_ns: int, frame: str, qos=RELIABLE) -> None:
        pixels = np.full((SIZE[1], SIZE[0], 3), COLORS[camera][::-1], np.uint8)
        message = Image(width=SIZE[0], height=SIZE[1], encoding="bgr8", step=3 * SIZE[0])
        message.data = array.array("B", pixels.tobytes())
        self._stamped(topic, message, stamp_ns, frame, qos)

    def jpeg(self, topic: str, camera: str, stamp_ns: int, frame: str) -> None:
        pixels = np.full((SIZE[1], SIZE[0], 3), COLORS[camera], np.uint8)
        data = array.array("B", simplejpeg.encode_jpeg(pixels, 95))
        self._stamped(topic, CompressedImage(format="jpeg", data=data), stamp_ns, frame, RELIABLE)

    def info(self, topic: str, stamp_ns: int, frame: str, **changes) -> None:
        message = CameraInfo(width=SIZE[0], height=SIZE[1], k=K.reshape(-1), **changes)
        self._stamped(topic, message, stamp_ns, frame, RELIABLE)

    def _stamped(self, topic, message, stamp_ns, frame, qos) -> None:
        set_stamp(message.header.stamp, stamp_ns)
        message.header.frame_id = frame
        self.publish(topic, message, qos)

    def tf(self, *links) -> None:
        self.publish("/tf", TFMessage(transforms=[message_from_matrix(*link) for link in links]))

    def odometry(self, topic: str, stamp_ns: int, parent: str, child: str) -> None:
        message = Odometry(child_frame_id=child)
        pose = message_from_matrix(ego(stamp_ns), parent, child or "x", stamp_ns).transform
        t: Vector3 = pose.translation
        q: Quaternion = pose.rotation
        message.pose.pose.position.x, message.pose.pose.position.y = t.x, t.y
        message.pose.pose.orientation = q
        self._stamped(topic, message, stamp_ns, parent, RELIABLE)


class Inputs:
    """The input side of the node on a domain of its own, with a ``Vehicle`` that publishes."""

    def __init__(self, domain: int, calibration: RigCalibration | None = None, **changes):
        self.settings = effective(Settings(cameras=CAMERAS, **changes))
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("inputs", context=self.context)
        self.vehicle = Vehicle(domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.poses = PoseSource(self.node, self.settings, calibration)
        self.poses.start()
        names = camera_names(self.settings, calibration)
        self.sync = CameraSync(names, self.settings, FrameStatistics(), self.node.get_clock())
        self.sets = []
        self.sync.on_set = self.sets.append
        self.topics = CameraTopics(self.node, names, self.settings, self.sync.add_image, calibration)
        self.assemble = FrameAssembler(TARGET)

    def spin_until(self, condition, between=lambda: None) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"timed out; last drop {self.sync._statistics.last_drop}"
            between()
            self.receive()

    def receive(self) -> None:
        """Take what has come; one callback a message sent would let the queues overflow."""
        for _ in range(20):
            self.executor.spin_once(timeout_sec=0.002)

    def frame(self, image_set):
        """As the worker's thread makes it, while this one spins."""

        def work():
            cameras = list(zip(image_set.frames, image_set.stamps_ns, strict=True))
            rig_pose = self.poses.lookup.rig_pose(image_set.stamp_ns, cameras)
            return self.assemble(image_set, self.topics.intrinsics(image_set.channels), rig_pose)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            self.spin_until(future.done)
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.poses.close()
        self.assemble.close()
        for node, context in ((self.node, self.context), (self.vehicle.node, self.vehicle.context)):
            node.destroy_node()
            rclpy.shutdown(context=context)


@pytest.fixture
def inputs():
    made = []

    def make(**options):
        made.append(Inputs(own_domain(11), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def calibration(mounted: bool, intrinsics: bool) -> RigCalibration:
    size, matrix = (SIZE, K) if intrinsics else ((0, 0), None)
    return RigCalibration(
        "base_link",
        {c: CameraCalibration(c, c, *size, matrix, MOUNTINGS[c] if mounted else None) for c in CAMERAS},
    )


def assert_frame(frame, stamp_ns: int, stamps_ns=None) -> None:
    """Colours, intrinsics and poses are those of the vehicle, each camera at its own stamp."""
    assert frame.stamp_ns == stamp_ns
    for index, camera in enumerate(CAMERAS):
        assert np.abs(frame.images[index].astype(int) - np.array(COLORS[camera])[:, None, None]).max() <= 4
        then = (stamps_ns or (stamp_ns, stamp_ns))[index]
        expected = np.linalg.inv(ego(stamp_ns)) @ ego(then) @ MOUNTINGS[camera]
        np.testing.assert_allclose(frame.T_ego_cam[index], expected, atol=1e-6)
    np.testing.assert_allclose(frame.Ks[:, 0, 0], 30.0)
    np.testing.assert_allclose(frame.T_global_ego, ego(stamp_ns), atol=1e-6)


@needs_tf
def test_nuscenes2bag_raw_images_everything_on_tf(inputs):
    rig = inputs(layout="nuscenes2bag", calibration=calibration(mounted=False, intrinsics=True))
    stamps = START_NS, START_NS + 20_000_000

    def play():
        for at_ns in range(START_NS - 12_800_000, START_NS + 40_000_000, 6_400_000):  # 156 Hz
            mountings = [(MOUNTINGS[c], "base_link", c, at_ns) for c in CAMERAS]
            rig.vehicle.tf((np.eye(4), "map", "odom", at_ns), (ego(at_ns), "odom", "base_link", at_ns), *mountings)
        for camera, at_ns in zip(CAMERAS, stamps, strict=True):
            rig.vehicle.raw(f"/{camera}/raw", camera, at_ns, camera)

    def placed() -> bool:  # the first transforms can be lost to discovery; they are played again
        pairs = zip(CAMERAS, stamps, strict=True)
        return all(rig.poses.buffer.can_transform("map", camera, _time(at_ns)) for camera, at_ns in pairs)

    rig.spin_until(lambda: rig.sets and placed(), play)
    assert_frame(rig.frame(rig.sets[-1]), START_NS, stamps)


@needs_tf
def test_nuscenes2bag_ros2_stamps_of_zero_and_empty_frame_ids(inputs):
    rig = inputs(layout="nuscenes2bag_ros2", calibration=calibration(mounted=False, intrinsics=True), sync_slop_s=0.5)

    def play():
        now_ns = rig.node.get_clock().now().nanoseconds
        mountings = [(MOUNTINGS[c], "base_link", c, now_ns) for c in CAMERAS]
        rig.vehicle.tf((np.eye(4), "map", "odom", now_ns), (np.eye(4), "odom", "base_link", now_ns), *mountings)
        for camera in CAMERAS:
            rig.vehicle.raw(f"/{camera}/raw", camera, 0, "")

    rig.spin_until(lambda: len(rig.sets) >= 5, play)
    stop, image_set = threading.Event(), rig.sets[-1]
    playing = threading.Thread(target=lambda: [play() for _ in iter(lambda: stop.wait(0.02), True)])
    playing.start()  # transforms of later moments must keep coming while it is waited for them
    try:
        frame = rig.frame(image_set)
    finally:
        stop.set()
        playing.join()
    assert image_set.frames == CAMERAS and rig.sync.images_without_stamp == {}
    np.testing.assert_allclose(frame.T_ego_cam, np.stack([MOUNTINGS[c] for c in CAMERAS]), atol=1e-6)
    assert abs(frame.stamp_ns - rig.node.get_clock().now().nanoseconds) < PATIENCE_S * 1e9


@needs_tf
def test_foxglove_compressed_with_poses_at_keyframes_only(inputs):
    rig = inputs(layout="foxglove")
    rig.poses.lookup._wait_s = PATIENCE_S  # slow machines
    at_ns = START_NS + 150_000_000
    wrong_rotation = [float(v) for v in range(9)]

    def keyframe(stamp_ns):
        mountings = [(MOUNTINGS[c], "base_link", c.upper(), stamp_ns) for c in CAMERAS]
        rig.vehicle.tf((ego(stamp_ns), "map", "base_link", stamp_ns), *mountings)

    def play():
        keyframe(START_NS)
        for camera in CAMERAS:
            name = camera.upper()
            rig.vehicle.info(f"/{name}/camera_info", at_ns, name, r=wrong_rotation, d=[0.0] * 5)
            rig.vehicle.jpeg(f"/{name}/image_rect_compressed", camera, at_ns, name)

    def ready():
        known = all(rig.topics.known_intrinsics(index) is not None for index in range(2))
        return rig.sets and known and rig.poses.buffer.can_transform("map", "CAM_BACK", _time(START_NS))

    rig.spin_until(ready, play)
    later = threading.Timer(0.3, keyframe, (START_NS + 500_000_000,))
    later.start()
    frame = rig.frame(rig.sets[-1])
    later.join()
    assert_frame(frame, at_ns)
    assert frame.camera_names == ("CAM_FRONT", "CAM_BACK")


def test_nuscenes_to_ros2bag_best_effort_by_odometry_with_mountings_of_a_file(inputs):
    rig = inputs(layout="nuscenes_to_ros2bag", calibration=calibration(mounted=True, intrinsics=False))

    def play():
        for step in range(-1, 3):
            rig.vehicle.odometry("/nuscenes/odom", START_NS + step * 10_000_000, "map", "base_link")
        for camera in CAMERAS:
            topic = f"/nuscenes/{camera}"
            rig.vehicle.info(f"{topic}/camera_info", START_NS, f"{camera}_link", d=[0.0] * 5)
            rig.vehicle.raw(f"{topic}/image_raw", camera, START_NS, f"{camera}_link", BEST_EFFORT)

    def ready():
        known = all(rig.topics.known_intrinsics(index) is not None for index in range(2))
        return rig.sets and known and rig.poses.buffer.can_transform("map", "base_link", _time(START_NS))

    rig.spin_until(ready, play)
    assert_frame(rig.frame(rig.sets[-1]), START_NS)
    assert rig.topics._best_effort == {0, 1}


def test_the_transport_that_is_published_is_found_and_a_change_is_followed(inputs):
    """Own layout, raw images where compressed ones were expected; then a recording with those; odometry of no child."""
    rig = inputs(calibration=calibration(mounted=True, intrinsics=True), pose_source="odometry")
    state = {"at": START_NS, "compressed": False}

    def play():
        state["at"] += 50_000_000
        rig.vehicle.odometry("/odom", state["at"], "odom", "")
        for camera in CAMERAS:
            if state["compressed"]:
                rig.vehicle.jpeg(f"/{camera}/image_raw/compressed", camera, state["at"], camera)
            else:
                rig.vehicle.raw(f"/{camera}/image_raw", camera, state["at"], camera)

    rig.spin_until(lambda: len(rig.sets) >= 2, play)
    assert [type(message) for message in rig.sets[-1].messages] == [Image, Image]
    for topic, publisher in list(rig.vehicle._publishers.items()):
        if topic.endswith("image_raw"):
            rig.vehicle.node.destroy_publisher(publisher)
            del rig.vehicle._publishers[topic]
    state["compressed"] = True
    rig.spin_until(lambda: isinstance(rig.sets[-1].messages[0], CompressedImage), play)
    found = rig.sets[-1]
    rig.spin_until(lambda: rig.poses.buffer.can_transform("odom", "base_link", _time(found.stamp_ns)), play)
    assert_frame(rig.frame(found), found.stamp_ns)


@pytest.mark.parametrize("later_ns", [10**17, -(10**17)], ids=["later", "earlier"])
def test_another_recording_with_other_sizes_and_encodings_follows(inputs, later_ns):
    """The second recording's first or second frame is right: nothing of the first one is left."""
    rig = inputs(calibration=calibration(mounted=True, intrinsics=False), pose_source="odometry")
    jumps = []
    rig.sync.on_jump = lambda before, after: (jumps.append(after), rig.poses.stamps_jumped(after))
    recording = {"start": START_NS, "size": SIZE, "encoding": "bgr8", "step": 0}

    def play():
        recording["step"] += 1
        at_ns = recording["start"] + 100_000_000 * recording["step"]
        width, height = recording["size"]
        rig.vehicle.odometry("/odom", at_ns, "odom", "base_link")
        for camera in CAMERAS:
            matrix = np.diag([width / SIZE[0], height / SIZE[1], 1.0]) @ K
            info = CameraInfo(width=width, height=height, k=matrix.reshape(-1))
            rig.vehicle._stamped(f"/{camera}/camera_info", info, at_ns, camera, RELIABLE)
            color = COLORS[camera] if recording["encoding"] == "rgb8" else COLORS[camera][::-1]
            message = Image(width=width, height=height, encoding=recording["encoding"], step=3 * width)
            message.data = array.array("B", np.full((height, width, 3), color, np.uint8).tobytes())
            rig.vehicle._stamped(f"/{camera}/image_raw", message, at_ns, camera, RELIABLE)
        rig.receive()
        return at_ns

    def newest():
        cameras = list(zip(rig.sets[-1].frames, rig.sets[-1].stamps_ns, strict=True))
        rig_pose = rig.poses.lookup.rig_pose(rig.sets[-1].stamp_ns, cameras)
        return rig.assemble(rig.sets[-1], rig.topics.intrinsics(rig.sets[-1].channels), rig_pose)

    rig.poses.lookup._wait_s = 0.0

    def settled(stamp_ns):
        """Whether the last that was sent has been received."""
        sizes = [known and known.size for known in map(rig.topics.known_intrinsics, range(2))]
        return (
            rig.sets
            and rig.sets[-1].stamp_ns == stamp_ns
            and sizes == [recording["size"]] * 2
            and rig.poses.buffer.can_transform(rig.poses.lookup.fixed_frame, "base_link", _time(stamp_ns))
        )

    sent = [0]
    rig.spin_until(lambda: len(rig.sets) >= 2, lambda: sent.append(play()))
    rig.spin_until(lambda: settled(sent[-1]))
    before = newest()
    recording |= {"start": START_NS + later_ns, "size": (192, 128), "encoding": "rgb8", "step": 0}
    play()
    second_ns = play()
    rig.spin_until(lambda: settled(second_ns))
    after = newest()
    assert after.stamp_ns == second_ns
    assert bool(jumps) == (later_ns < 0)
    for index, camera in enumerate(CAMERAS):
        assert np.abs(after.images[index].astype(int) - np.array(COLORS[camera])[:, None, None]).max() <= 4
        np.testing.assert_allclose(after.T_ego_cam[index], MOUNTINGS[camera], atol=1e-6)
    np.testing.assert_allclose(after.T_global_ego, ego(after.stamp_ns), atol=1e-3)
    np.testing.assert_allclose(after.Ks, before.Ks)


@needs_tf
def test_a_garbage_image_costs_its_frame_only_and_wrong_topics_are_explained(inputs):
    rig = inputs(calibration=calibration(mounted=True, intrinsics=True), pose_source="odometry", image_transport="raw")
    wrong = rig.vehicle.node.create_publisher(CompressedImage, "/cam_back/image_raw", RELIABLE)
    explain = Diagnostics(rig.node, rig.settings, (FrameStatistics(), rig.sync, rig.topics), dict)
    rig.spin_until(lambda: "of type sensor_msgs/msg/CompressedImage instead" in "; ".join(explain.explanations()))
    assert rig.topics.cameras[1].transport == "raw"  # it was asked for: nothing else is taken
    rig.vehicle.node.destroy_publisher(wrong)
    step = [0]

    def play(garbage: bool = False):
        step[0] += 1
        at_ns = START_NS + 100_000_000 * step[0]
        rig.vehicle.odometry("/odom", at_ns, "odom", "base_link")
        rig.vehicle.raw("/cam_front/image_raw", "cam_front", at_ns, "cam_front")
        if garbage:
            rig.vehicle._stamped("/cam_back/image_raw", Image(encoding="noise"), at_ns, "cam_back", RELIABLE)
        else:
            rig.vehicle.raw("/cam_back/image_raw", "cam_back", at_ns, "cam_back")

    def until_received():
        at_ns = START_NS + 100_000_000 * step[0]
        rig.spin_until(lambda: rig.sets[-1].stamp_ns == at_ns)
        rig.spin_until(lambda: rig.poses.buffer.can_transform("odom", "base_link", _time(at_ns)))
        return rig.sets[-1]

    rig.spin_until(lambda: len(rig.sets) >= 2, play)
    until_received()
    play(garbage=True)
    with pytest.raises(FrameDropped, match="image of cam_back is not readable: .*noise"):
        rig.frame(until_received())
    play()
    found = until_received()
    assert_frame(rig.frame(found), found.stamp_ns)


def _time(stamp_ns: int):
    return rclpy.time.Time(nanoseconds=stamp_ns)
