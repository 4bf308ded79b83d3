import time

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_processes import PATIENCE_S, K, own_domain
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gsrender_ros.calibration import CameraCalibration, RigCalibration
from gsrender_ros.camera_sync import CameraSync
from gsrender_ros.camera_topics import CameraTopics
from gsrender_ros.diagnostics import Diagnostics
from gsrender_ros.layouts import camera_names
from gsrender_ros.parameters import Settings
from gsrender_ros.statistics import FrameDropped, FrameStatistics

BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


class Bench:
    """CameraTopics, CameraSync and Diagnostics on a node of their own, and a node that publishes."""

    def __init__(self, domain, calibration=None, **changes):
        self.settings = Settings(cameras=("cam_front", "cam_back"), **changes)
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("under_test", context=self.context)
        self.source_context = Context()  # a participant of its own, as another process would be
        rclpy.init(context=self.source_context, domain_id=domain)
        self.source = Node("source", context=self.source_context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.statistics = FrameStatistics()
        cameras = camera_names(self.settings)
        self.sync = CameraSync(cameras, self.settings, self.statistics, self.node.get_clock())
        self.topics = CameraTopics(self.node, cameras, self.settings, self.sync.add_image, calibration)
        parts = (self.statistics, self.sync, self.topics)
        self.diagnostics = Diagnostics(self.node, self.settings, parts, lambda: {"device": "cpu"})

    def spin_until(self, condition, between=lambda: None):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, "timed out"
            between()
            self.executor.spin_once(timeout_sec=0.05)

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()
        self.source.destroy_node()
        rclpy.shutdown(context=self.context)
        rclpy.shutdown(context=self.source_context)


@pytest.fixture
def bench(request):
    benches = []

    def make(**options):
        benches.append(Bench(own_domain(6 + len(benches)), **options))
        return benches[-1]

    yield make
    for one in benches:
        one.close()


def image(stamp_s: int):
    message = CompressedImage(format="jpeg")
    message.header.stamp.sec = stamp_s
    return message


def test_a_best_effort_publisher_is_heard_in_auto_and_explained_otherwise(bench):
    auto = bench()
    publisher = auto.source.create_publisher(CompressedImage, "/cam_front/image_raw/compressed", BEST_EFFORT)
    auto.spin_until(lambda: auto.sync.images_received["cam_front"] >= 2, lambda: publisher.publish(image(5)))
    assert auto.topics._best_effort == {0}

    strict = bench(qos_reliability="reliable")
    publisher = strict.source.create_publisher(CompressedImage, "/cam_front/image_raw/compressed", BEST_EFFORT)
    strict.spin_until(lambda: strict.node.count_publishers("/cam_front/image_raw/compressed") == 1)
    for _ in range(10):
        publisher.publish(image(5))
        strict.executor.spin_once(timeout_sec=0.05)
    assert strict.sync.images_received["cam_front"] == 0


def test_camera_info_is_cached_apart_and_missing_ones_are_named(bench):
    live = bench()
    text = r"no CameraInfo yet of cam_front \(cam_front/camera_info, 0 publishers\), cam_back"
    with pytest.raises(FrameDropped, match=text) as dropped:
        live.topics.intrinsics()
    assert dropped.value.reason == "no_camera_info"
    info = CameraInfo(width=96, height=64, k=K.reshape(-1))
    topics = [f"/{camera}/camera_info" for camera in live.settings.cameras]
    publishers = [live.source.create_publisher(CameraInfo, topic, RELIABLE) for topic in topics]

    def known():
        try:
            return live.topics.intrinsics()
        except FrameDropped:
            return None

    live.spin_until(known, lambda: [publisher.publish(info) for publisher in publishers])
    assert [camera.size for camera in known()] == [(96, 64)] * 2
    assert known()[1].K.tolist() == K.tolist()


def test_a_calibration_file_stands_in_for_camera_info(bench):
    cameras = {c: CameraCalibration(c, c, 96, 64, K) for c in ("cam_front", "cam_back")}
    bags = bench(calibration=RigCalibration("base_link", cameras), layout="nuscenes2bag")
    assert [camera.K.tolist() for camera in bags.topics.intrinsics()] == [K.tolist()] * 2


def test_silence_is_explained_by_its_most_basic_reason(bench):
    quiet = bench()
    (reason,) = quiet.diagnostics.explanations()
    assert reason.startswith(
        "no image on /cam_front/image_raw/compressed, /cam_back/image_raw/compressed (0 publishers each; check layout"
    )
    wrong_type = quiet.source.create_publisher(Image, "/cam_front/image_raw/compressed", RELIABLE)
    quiet.spin_until(lambda: len(quiet.diagnostics.explanations()) == 2)
    assert wrong_type and any(
        "of type sensor_msgs/msg/Image instead of sensor_msgs/msg/CompressedImage: see image_transport" in line
        for line in quiet.diagnostics.explanations()
    )
    for index in range(2):
        quiet.sync.add_image(index, image(0))
    assert quiet.diagnostics.explanations() == [
        "all 2 images have stamp 0: set stamp_source:=auto to use their arrival time"
    ]
    for second in range(10, 30):
        quiet.sync.add_image(0, image(second))
        quiet.sync.add_image(1, image(second + 100))
    text = "; ".join(quiet.diagnostics.explanations())
    assert "2 cameras arrive, but never within sync.slop_s=0.06: best spread" in text
    values = {pair.key: pair.value for pair in quiet.diagnostics.status().values}
    assert (values["frames_in"], values["dropped.zero_stamp"], values["dropped.spread"]) == ("21", "1", "10")
    assert values["device"] == "cpu"
