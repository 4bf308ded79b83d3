"""The node as a process, fed by the player as a process, over DDS."""

import signal

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from ros_processes import (
    CAMERAS,
    Process,
    listening_node,
    own_domain,
    write_small_bag,
    write_small_checkpoint,
    write_small_nuscenes2bag,
)
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from gsrender_ros.standins import GENUINE

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
IMAGE_TOPIC = "/cam_front/image_raw/compressed"


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def jumps_back(clouds) -> int:
    return sum(stamp_ns(later) < stamp_ns(earlier) for earlier, later in zip(clouds, clouds[1:], strict=False))


def durabilities(connection) -> list:
    return [qos.durability for qos in connection.ext.offered_qos_profiles]


class Outputs:
    """What a listener received of the node."""

    def __init__(self, node):
        self.clouds, self.markers, self.values = [], [], {}
        node.create_subscription(PointCloud2, "/occupancy_node/occupancy", self.clouds.append, LATCHED)
        node.create_subscription(MarkerArray, "/occupancy_node/occupancy/markers", self.markers.append, LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message):
        self.values = {pair.key: pair.value for pair in message.status[0].values}

    def count(self, key: str) -> int:
        return int(self.values.get(key, 0))


@pytest.fixture(autouse=True)
def no_process_survives():
    yield
    Process.end_all()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    write_small_checkpoint(path)
    return path


def start_node(checkpoint, domain, folder, **parameters):
    given = {
        "checkpoint": checkpoint,
        "use_sim_time": "true",
        "device": "cpu",
        "cameras": f"[{', '.join(CAMERAS)}]",
        "watchdog_s": 2.0,
        "diagnostics.period_s": 0.2,
        "markers.max_rate_hz": 50.0,
    } | parameters
    arguments = ["--ros-args"]
    for name, value in given.items():
        arguments += ["-p", f"{name}:={value}"]
    return Process("gsrender_ros.occupancy_node", arguments, domain, folder / "node.log")


def play(bag, domain, folder, *arguments):
    options = ["--delay", "0.5", *arguments]
    if "--wait-for" not in options:
        options += ["--wait-for", IMAGE_TOPIC]
    return Process("gsrender_ros.replay_player", [bag, *options], domain, folder / f"player_{bag.name}.log")


@pytest.mark.skipif(not GENUINE["tf2_msgs"], reason="tf2_msgs is not installed")
def test_bags_without_tf_or_stamps_give_reasons_and_a_good_one_gives_occupancy(checkpoint, tmp_path):
    domain = own_domain(1)
    write_small_bag(tmp_path / "no_tf", with_tf=False)
    write_small_bag(tmp_path / "no_stamps", stamped=False)
    reference = write_small_bag(tmp_path / "good")
    node_process = start_node(checkpoint, domain, tmp_path)
    with listening_node(domain) as (node, spin_until):
        out = Outputs(node)

        player = play(tmp_path / "no_tf", domain, tmp_path)
        spin_until(lambda: out.count("dropped.no_tf") >= 1 and "No transform" in node_process.text, node_process)
        assert player.wait() == 0
        assert "No transform base_link <- cam_front at 1700000000." in node_process.text
        assert "none; is anything publishing /tf" in node_process.text

        player = play(tmp_path / "no_stamps", domain, tmp_path)
        spin_until(lambda: out.count("dropped.zero_stamp") == 6, node_process, player)
        spin_until(lambda: out.count("images_without_stamp.cam_back") == 6, node_process, player)
        assert player.wait() == 0
        assert not out.clouds  # nothing was published for any of them

        player = play(tmp_path / "good", domain, tmp_path, "--loop")
        spin_until(lambda: jumps_back(out.clouds) >= 2, node_process, player)
        spin_until(lambda: len(out.markers) >= 3, node_process)
        assert player.end(signal.SIGINT) == 0

        # a subscriber that comes late gets the last grid, with nothing playing any more
        late = []
        node.create_subscription(PointCloud2, "/occupancy_node/occupancy", late.append, LATCHED)
        spin_until(lambda: late, node_process)
        # the player may have ended between the cameras of a set: no more than that image waits
        spin_until(lambda: out.count("frames_pending") <= 1, node_process)

    assert set(map(stamp_ns, out.clouds)) <= set(reference)
    assert {cloud.header.frame_id for cloud in out.clouds} == {"base_link"}
    assert any("jumped back" in line for line in node_process.text.splitlines())
    filled = [array for array in out.markers if len(array.markers) > 1]
    assert filled and all(array.markers[0].action == Marker.DELETEALL for array in out.markers)
    same = {stamp_ns(cloud): cloud.width for cloud in out.clouds}
    compared = [array for array in filled if stamp_ns(array.markers[1]) in same]
    assert compared
    for array in compared:
        cubes = sum(len(marker.points) for marker in array.markers[1:])
        assert cubes == same[stamp_ns(array.markers[1])]
    dropped = sum(int(value) for key, value in out.values.items() if key.startswith("dropped."))
    assert out.count("frames_in") == out.count("frames_out") + dropped
    assert out.count("images.cam_front") == out.count("frames_in")

    assert node_process.end(signal.SIGTERM) == 0
    assert "Traceback" not in node_process.text


def test_nuscenes2bag_by_odometry_in_a_namespace_recorded_by_the_recorder(checkpoint, tmp_path):
    """Raw images, intrinsics and mounting from the calibration file, no TF at all."""
    domain = own_domain(2)
    calibration = write_small_nuscenes2bag(tmp_path / "good")
    arguments = ["--ros-args", "-r", "__ns:=/car"]
    for topic in ("odom", *(f"{camera}/raw" for camera in CAMERAS)):
        arguments += ["-r", f"{topic}:=/{topic}"]
    for name, value in {
        "checkpoint": checkpoint,
        "device": "cpu",
        "cameras": f"[{', '.join(CAMERAS)}]",
        "layout": "nuscenes2bag",
        "image_transport": "raw",
        "pose_source": "odometry",
        "calibration_file": calibration,
    }.items():
        arguments += ["-p", f"{name}:={value}"]
    node_process = Process("gsrender_ros.occupancy_node", arguments, domain, tmp_path / "node.log")
    topics = ["/car/occupancy_node/occupancy", "/diagnostics"]
    recorder = Process("gsrender_ros.recorder", [tmp_path / "out", *topics], domain, tmp_path / "recorder.log")
    with listening_node(domain) as (node, spin_until):
        clouds = []
        node.create_subscription(PointCloud2, topics[0], clouds.append, LATCHED)
        player = play(tmp_path / "good", domain, tmp_path, "--loop", "--wait-for", "/cam_front/raw")
        spin_until(lambda: len(clouds) >= 3, node_process, player, recorder)
        player.end()
    assert recorder.end(signal.SIGINT) == 0
    assert node_process.end(signal.SIGINT) == 0
    with Reader(tmp_path / "out") as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        latched = {c.topic for c in reader.connections if QosDurability.TRANSIENT_LOCAL in durabilities(c)}
        raw = [bytes(data) for connection, _, data in reader.messages() if connection.topic == topics[0]]
    assert latched == {topics[0]}  # a player gives it to those who come late, as the node did
    assert counts[topics[0]] >= 2 and counts["/diagnostics"] >= 1
    cloud = deserialize_message(raw[0], PointCloud2)
    assert cloud.header.frame_id == "base_link" and len(cloud.data) == 24 * cloud.width
    assert np.isfinite(np.frombuffer(bytes(cloud.data), np.float32).reshape(-1, 6)[:, :3]).all()


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"checkpoint": "garbage.safetensors"}, "garbage.safetensors is not a readable safetensors file"),
        (
            {"topics.image": "1bad {camera}"},
            "Invalid topic name: topic name token must not start with a number: '1bad cam_front'; choose another",
        ),
        ({"frames.ego": "map"}, "frames.ego and frames.fixed are both 'map'"),
        ({"cameras": "[]"}, "cameras must name each camera once, and at least one, got []"),
        ({"layout": "gsrendr"}, "layout is 'gsrendr', must be one of: gsrender, nuscenes2bag"),
    ],
)
def test_what_cannot_start_says_so_in_one_line_and_exits_with_1(checkpoint, tmp_path, parameters, text):
    parameters = dict(parameters)
    (tmp_path / "garbage.safetensors").write_bytes(b"\x10" * 1000)
    process = start_node(parameters.pop("checkpoint", checkpoint), own_domain(3), tmp_path, **parameters)
    assert process.wait() == 1
    fatal = [line for line in process.text.splitlines() if "FATAL" in line]
    assert len(fatal) == 1 and text in fatal[0]
    assert "Traceback" not in process.text
