"""Levels and values of /diagnostics by hand; the parts that are reported on are the real ones or plain records."""

from types import SimpleNamespace

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from ros_processes import own_domain

from gsrender_core.geometry import transform
from gsrender_ros import diagnostics, health
from gsrender_ros.camera_sync import CameraSync
from gsrender_ros.diagnostics import ERROR, OK, STALE, WARN, Diagnostics
from gsrender_ros.health import CameraHealth, TransformHealth, network_health, output_health, self_check_health
from gsrender_ros.layouts import camera_names
from gsrender_ros.parameters import Settings
from gsrender_ros.standins import Buffer
from gsrender_ros.statistics import FrameStatistics
from gsrender_ros.tf_lookup import TransformLookup, message_from_matrix

SETTINGS = Settings(cameras=("cam_front", "cam_back"), watchdog_s=5.0)


class WallTime:
    """Stands for the module ``time``: the tests let it pass."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def wall_time(monkeypatch):
    wall_time = WallTime()
    monkeypatch.setattr(diagnostics, "time", wall_time)
    monkeypatch.setattr(health, "time", wall_time)
    return wall_time


@pytest.fixture
def node():
    context = Context()
    rclpy.init(context=context, domain_id=own_domain(19))
    node = Node("occupancy_node", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def bench(node, wall_time):
    statistics = FrameStatistics()
    sync = CameraSync(camera_names(SETTINGS), SETTINGS, statistics, node.get_clock())
    topics = SimpleNamespace(
        cameras=sync.cameras,
        image_topic=lambda index: f"/image_{index}",
        image_type_name=lambda index: "sensor_msgs/msg/Image",
    )
    report = Diagnostics(node, SETTINGS, (statistics, sync, topics), lambda: {"device": "cpu", "checkpoint": "a"})

    def publish():
        statistics.received()
        statistics.published(0.2, 0.1)
        statistics.last_output_at = wall_time.now

    def images(count=1):
        for camera in ("cam_front", "cam_back"):
            sync.images_received[camera] += count

    return SimpleNamespace(report=report, statistics=statistics, sync=sync, publish=publish, images=images)


def values_of(status) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def test_levels_from_start_to_silence(bench, wall_time):
    status = bench.report.status()
    assert (status.name, status.level, status.message) == ("occupancy_node: occupancy", OK, "no output yet")
    wall_time.now += 6
    assert bench.report.status().level == STALE  # nothing comes in
    bench.images()
    bench.sync.images_without_stamp["cam_front"] = 1
    assert bench.report.status().level == ERROR  # something does, and nothing comes out
    bench.publish()
    assert bench.report.status().level == OK
    wall_time.now += 4
    bench.images()
    assert values_of(bench.report.status())["age_s"] == "4.00" and bench.report.status().level == OK
    wall_time.now += 2
    bench.statistics.received()
    bench.statistics.dropped("no_tf", "No transform")
    status = bench.report.status()
    assert status.level == ERROR and "No transform" in status.message
    wall_time.now += 5
    status = bench.report.status()  # what was dropped long ago is not why nothing comes now
    assert (status.level, status.message) == (
        STALE,
        "no image has arrived for 7 s; is the source paused or at its end?",
    )


def test_a_source_that_ends_after_the_last_output_is_said_to_have_ended(bench, wall_time):
    bench.publish()
    wall_time.now += 0.2
    bench.images()
    bench.statistics.received()
    bench.statistics.dropped("reset", "time jumped back")
    assert bench.report.status().level == OK
    wall_time.now += SETTINGS.watchdog_s - 0.1  # longer without output than without images
    status = bench.report.status()
    assert status.level == STALE and status.message.startswith("no image has arrived for 5 s")


def test_drops_warn_where_they_are_nobodys_wish(bench):
    for _ in range(20):
        bench.publish()
    bench.statistics.received()
    bench.statistics.dropped("superseded", "")
    bench.statistics.received()
    bench.statistics.dropped("no_tf", "No transform")
    assert bench.report.status().level == OK  # one of 22
    for _ in range(2):
        bench.statistics.received()
        bench.statistics.dropped("no_tf", "No transform a <- b")
    status = bench.report.status()
    assert status.level == WARN
    assert status.message.endswith("3 of the last 24 frames dropped, last no_tf: No transform a <- b")


def test_old_drops_are_forgotten(bench, wall_time):
    bench.publish()
    bench.statistics.received()
    bench.statistics.dropped("no_tf", "No transform")
    assert bench.report.status().level == WARN
    for _ in range(8):
        wall_time.now += 2
        bench.publish()
        bench.images()
        status = bench.report.status()
    assert status.level == OK


def test_a_pause_is_a_warning_and_keeps_the_watchdog_quiet(bench, wall_time):
    bench.report.paused = True
    wall_time.now += 60
    status = bench.report.status()
    assert status.level == WARN and "std_srvs/srv/SetBool" in status.message
    assert values_of(status)["paused"] == "True"


def test_a_status_that_cannot_be_made_says_so(bench):
    bench.report.tasks["good"] = lambda: (OK, "fine", {"a": 1})
    bench.report.tasks["bad"] = lambda: 1 / 0
    good, bad = (bench.report._run(name) for name in ("good", "bad"))
    assert (good.name, good.level, values_of(good)) == ("occupancy_node: good", OK, {"a": "1"})
    assert bad.level == ERROR and "ZeroDivisionError" in bad.message


def test_a_slow_camera_is_named(wall_time):
    sync = SimpleNamespace(
        cameras=[SimpleNamespace(camera=name) for name in ("a", "b", "c")],
        images_received={"a": 0, "b": 0, "c": 0},
        missing=(),
        active_cameras=("a", "b", "c"),
    )
    cameras = CameraHealth(sync)
    assert cameras()[0] == STALE
    for step in range(1, 9):
        wall_time.now += 1
        sync.images_received = {"a": 10 * step, "b": 4 * step, "c": 10 * step}
        level, message, values = cameras()
    assert level == WARN and message.startswith("b 4.0 Hz of 10.0 Hz")
    assert values == {"rate_hz.a": "10.00", "rate_hz.b": "4.00", "rate_hz.c": "10.00", "missing": ""}
    for step in range(1, 9):
        wall_time.now += 1
        sync.images_received = {name: 80 + 5 * step for name in "abc"}
        level, message, _ = cameras()
    assert level == OK and message == "3 cameras at 5.0 Hz or more"
    sync.missing = ("b",)
    assert cameras()[:2] == (WARN, "waiting for b")
    sync.active_cameras = ("a", "c")
    assert cameras()[:2] == (WARN, "going on without b")


def test_transforms_say_how_old_the_newest_pose_is(node):
    buffer = Buffer(node=node)
    poses = SimpleNamespace(buffer=buffer, lookup=TransformLookup(buffer, "base_link", "map", 0.0), source="tf")
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=107_500_000_000))
    status = TransformHealth(poses, clock, cache_s=10.0)
    level, message, _ = status()
    assert level == ERROR and message.startswith("no transform map <- base_link")
    for stamp_s in (90, 105):
        pose = message_from_matrix(transform((1, 0, 0, 0), (1.0, 0, 0)), "map", "base_link", stamp_s * 10**9)
        buffer.set_transform(pose, "test")
    level, message, values = status()
    assert (level, values["age_s"], values["source"]) == (OK, "2.500", "tf")
    clock.now = lambda: SimpleNamespace(nanoseconds=120_000_000_000)
    assert status()[0] == WARN
    static = Buffer(node=node)
    static.set_transform_static(message_from_matrix(transform((1, 0, 0, 0), (1.0, 0, 0)), "map", "base_link"), "test")
    poses.buffer = static
    assert status()[:2] == (OK, "map <- base_link is static")


def test_network_outputs_and_self_check():
    statistics = FrameStatistics()
    statistics.received()
    statistics.published(0.3, 0.25)
    host = SimpleNamespace(
        path="x.safetensors", failures=0, facts=lambda: {"device": "cpu"}, gpu_memory_mb=lambda: 512.4
    )
    level, message, values = network_health(host, statistics)()
    assert (level, message) == (OK, "x.safetensors on cpu")
    assert (values["inference_p50_ms"], values["gpu_memory_mb"]) == ("250.00", "512")
    assert float(values["memory_mb"]) > 10
    host.failures = 2
    assert network_health(host, statistics)()[0] == ERROR

    outputs = SimpleNamespace(published={"/a": 3}, failures={})
    assert output_health(outputs)()[::2] == (OK, {"published./a": 3})
    outputs.failures = {"/b": 1}
    level, message, values = output_health(outputs)()
    assert level == WARN and "/b" in message and values["failed./b"] == 1

    summary = {"rays": "0", "within_2m": ""}
    check = SimpleNamespace(clouds_received=0, topic="/lidar", skipped={}, summary=lambda: summary)
    assert self_check_health(check)()[0] == WARN
    check.clouds_received = 4
    assert self_check_health(check)()[0] == STALE
    check.skipped = {"no_tf": 2}
    level, message, _ = self_check_health(check)()
    assert level == WARN and message.endswith("skipped: no_tf 2")
    summary |= {"rays": "100", "within_2m": "0.8"}
    assert self_check_health(check)()[:2] == (OK, "80% of 100 LiDAR rays end within 2 m of their return")
