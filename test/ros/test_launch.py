"""The launch file, with the genuine launch packages; the share files that it names, without them."""

import importlib.util
import sys
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from ros_processes import CAMERAS, own_domain, write_small_bag

from gsrender_ros import environment, replay_player
from gsrender_ros.layouts import LAYOUTS, camera_names, fixed_frame
from gsrender_ros.outputs import OccupancyOutputs
from gsrender_ros.parameters import Settings

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = {
    "namespace",
    "use_sim_time",
    "params_file",
    "checkpoint",
    "image_transport",
    "layout",
    "rviz",
    "rviz_config",
    "bag",
    "bag_args",
    "respawn",
    "log_level",
}


def _displays() -> dict[str, dict]:
    config = yaml.safe_load((ROOT / "rviz" / "occupancy.rviz").read_text(encoding="utf-8"))
    return {display["Name"]: display for display in config["Visualization Manager"]["Displays"]}


# What RViz's displays subscribe to, and the policies of a subscription as its configuration names them.
DISPLAYED = {
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/Map": "nav_msgs/msg/OccupancyGrid",
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
}
RELIABILITY = {"Reliable": ReliabilityPolicy.RELIABLE, "Best Effort": ReliabilityPolicy.BEST_EFFORT}
DURABILITY = {"Transient Local": DurabilityPolicy.TRANSIENT_LOCAL, "Volatile": DurabilityPolicy.VOLATILE}


def _qos(topic: dict) -> QoSProfile:
    return QoSProfile(
        depth=topic["Depth"],
        reliability=RELIABILITY[topic["Reliability Policy"]],
        durability=DURABILITY[topic["Durability Policy"]],
        liveliness=LivelinessPolicy.AUTOMATIC,
    )


def test_rviz_displays_what_the_node_publishes():
    """Topic, type and quality of service of every display below the node's name, against the node's real publishers."""
    displays = _displays()
    context = Context()
    rclpy.init(context=context, domain_id=own_domain(51))
    node = Node("occupancy_node", context=context)
    outputs = OccupancyOutputs(node, Settings())
    try:
        shown = {}
        for name, display in displays.items():
            topic = display.get("Topic")
            if topic is None or not topic["Value"].startswith("/occupancy_node/"):
                continue
            (publisher,) = node.get_publishers_info_by_topic(topic["Value"])
            assert publisher.topic_type == DISPLAYED[display["Class"]], name
            compatible, reason = qos_check_compatible(publisher.qos_profile, _qos(topic))
            assert compatible == QoSCompatibility.OK, (name, reason)
            # Opened on a paused bag, it still shows the last message.
            assert topic["Durability Policy"] == "Transient Local" and topic["History Policy"] == "Keep Last"
            shown[name] = topic["Value"].removeprefix("/occupancy_node/")
    finally:
        outputs.close()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert shown == {
        "Occupancy markers": "occupancy/markers",
        "Occupancy cloud": "occupancy",
        "Occupancy map": "occupancy/map",
        "cam_front semantic": "debug/cam_front/semantic",
        "cam_front depth": "debug/cam_front/depth",
    }


def test_rviz_displays_the_inputs_and_stands_in_a_frame_that_exists():
    displays, settings = _displays(), Settings()
    for camera in camera_names(settings):  # subscribed as the node does, where compressed images are published
        display = displays[camera.camera]
        assert display["Class"] == "rviz_default_plugins/Image"
        assert display["Topic"]["Value"] == "/" + camera.image_topic and camera.transport == "compressed"
    manager = yaml.safe_load((ROOT / "rviz" / "occupancy.rviz").read_text(encoding="utf-8"))["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == fixed_frame(settings)
    assert manager["Views"]["Current"]["Target Frame"] == displays["Grid"]["Reference Frame"] == settings.ego_frame


def test_share_files_are_found_and_missing_ones_are_explained():
    for name in ("config/occupancy.yaml", "config/fastdds.xml", "rviz/occupancy.rviz", "launch/occupancy.launch.py"):
        assert environment.share_file(name).is_file()
    with pytest.raises(FileNotFoundError, match="config/none.xml of gsrender_ros is in none of: "):
        environment.share_file("config/none.xml")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory here")
def test_the_environment_is_prepared_but_never_overruled(monkeypatch):
    current, older = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
    free_bytes = [2**40]
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: _Usage(free_bytes[0]))

    def prepared(**given) -> dict[str, str]:
        monkeypatch.setattr(environment.os, "environ", dict(given))
        environment.prepare_environment()
        return environment.os.environ

    bare = prepared()
    assert bare[current].endswith("config/fastdds.xml") and older not in bare
    assert Path(bare["ROS_LOG_DIR"]).is_dir()
    humble = prepared(HOME="/", ROS_DISTRO="humble")
    assert humble[older].endswith("config/fastdds.xml") and set(humble) == {"HOME", "ROS_DISTRO", older}
    assert prepared(HOME="/", **{older: "mine.xml"}) == {"HOME": "/", older: "mine.xml"}
    free_bytes[0] = 2**20
    assert prepared(HOME="/") == {"HOME": "/"}


class _Usage:
    def __init__(self, free):
        self.free = free


@pytest.fixture
def launch_module():
    try:
        from launch_ros.actions import Node  # noqa: F401
    except ImportError:
        pytest.skip("launch and launch_ros are not installed")
    path = ROOT / "launch" / "occupancy.launch.py"
    spec = importlib.util.spec_from_file_location("occupancy_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_arguments_are_declared_and_described(launch_module):
    declared = {a.name: a for a in launch_module.generate_launch_description().get_launch_arguments()}
    assert set(declared) == ARGUMENTS
    for argument in declared.values():
        assert "." in argument.description


@pytest.mark.parametrize(("given", "expected"), [({}, "false"), ({"bag": "/a bag"}, "true")])
def test_a_bag_brings_simulated_time(launch_module, given, expected):
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(given)
    for argument in launch_module.generate_launch_description().get_launch_arguments():
        argument.execute(context)
    assert context.launch_configurations["use_sim_time"] == expected
    assert len(launch_module.play_bag(context)) == (0 if not given else 2)
    if given and not launch_module._prefix("rosbag2_transport"):
        _, player = launch_module.play_bag(context)
        command = [part.text for argument in player.cmd for part in argument]
        _, options = replay_player._options(command[3:])  # the player takes what `ros2 bag play` takes
        assert options.clock_hz == 100.0
    node, _, *player = launch_module._start_node(context)
    assert node.node_executable in ("occupancy_node", sys.executable) and len(player) == bool(given)


def test_a_bag_is_played_when_the_node_is_ready(launch_module):
    from launch.actions import LogInfo
    from launch.events.process import ProcessStdout

    def say(handler, text):
        event = ProcessStdout(text=text, action=node, name="n", cmd=["n"], cwd=None, env=None, pid=1)
        return handler.handle(event, context) or [] if handler.matches(event) else []

    context = _context(launch_module)
    node = launch_module._start_node(context)[0]
    begin = [LogInfo(msg="playing")]
    (registered,) = launch_module._when_ready(context, node, begin)
    handler = registered.event_handler
    assert not say(handler, b"[INFO] parameters: ...\n[INFO] rea")
    assert say(handler, b"dy: 6 cameras") == begin
    assert not say(handler, b"ready: 6 cameras")  # once only
    quiet = _context(launch_module, log_level="warn")
    assert launch_module._when_ready(quiet, node, begin) == begin


def test_a_node_that_ends_takes_all_with_it_or_respawns(launch_module):
    from launch.actions import RegisterEventHandler

    once, again = (launch_module._start_node(_context(launch_module, respawn=r)) for r in ("false", "true"))
    assert isinstance(once[1], RegisterEventHandler) and len(once) == 2
    assert len(again) == 1 and again[0]._ExecuteLocal__respawn is True


def test_every_layout_can_be_chosen(launch_module):
    declared = {a.name: a for a in launch_module.generate_launch_description().get_launch_arguments()}
    assert set(declared["layout"].choices) == {"", *LAYOUTS}


def _context(launch_module, **given):
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(given)
    for argument in launch_module.generate_launch_description().get_launch_arguments():
        argument.execute(context)
    return context


def test_a_bags_topics_move_into_the_namespace_of_the_node(launch_module, tmp_path):
    write_small_bag(tmp_path / "bag", frames=1)
    document = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    topics = document["rosbag2_bagfile_information"]["topics_with_message_count"]
    # A topic of the namespace already, and one of a ROS 1 bag, which lacks its slash.
    for name in ("/car/lidar", "odom"):
        topics.append({"topic_metadata": {"name": name, "type": "x"}, "message_count": 1})
    (tmp_path / "bag" / "metadata.yaml").write_text(yaml.safe_dump(document))
    moved = launch_module._moved_topics(str(tmp_path / "bag"), "/car")
    assert sorted(moved) == sorted(
        f"{topic}:=/car{topic}"
        for topic in ("/odom", *(f"/{c}/{t}" for c in CAMERAS for t in ("camera_info", "image_raw/compressed")))
    )
    context = _context(launch_module, bag=str(tmp_path / "bag"), namespace="car")
    command = ["".join(part.text for part in word) for word in launch_module.play_bag(context)[-1].cmd]
    assert set(moved) <= set(command)
    context = _context(launch_module, bag=str(tmp_path / "bag"))
    assert not any(":=" in part.text for word in launch_module.play_bag(context)[-1].cmd for part in word)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="metadata.yaml does not exist: its topics cannot be moved into /car"):
        launch_module._moved_topics(str(tmp_path / "bag"), "/car")


def test_rviz_looks_into_the_namespace(launch_module):
    node = launch_module.show(_context(launch_module, rviz="true", namespace="/car"))[0]
    remaps = {"".join(p.text for p in a): "".join(p.text for p in b) for a, b in node._Node__remappings}
    assert remaps["/occupancy_node/occupancy"] == "/car/occupancy_node/occupancy"
    assert all(moved == "/car" + topic for topic, moved in remaps.items()) and len(remaps) > 5
    assert not launch_module.show(_context(launch_module))
    (in_root,) = launch_module.show(_context(launch_module, rviz="true"))
    assert not in_root._Node__remappings


TRAINING_ARGUMENTS = {
    "bag",
    "out",
    "config",
    "params_file",
    "init",
    "resume",
    "device",
    "bag_args",
    "namespace",
    "use_sim_time",
    "rviz",
    "rviz_config",
    "log_level",
}


@pytest.fixture
def training_launch_module():
    pytest.importorskip("launch_ros.actions", reason="launch and launch_ros are not installed")
    path = ROOT / "launch" / "replay_training.launch.py"
    spec = importlib.util.spec_from_file_location("replay_training_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_from_a_replay_can_be_launched(training_launch_module):
    from launch import LaunchContext

    declared = {a.name: a for a in training_launch_module.generate_launch_description().get_launch_arguments()}
    assert set(declared) == TRAINING_ARGUMENTS
    assert all("." in argument.description for argument in declared.values())
    context = LaunchContext()
    context.launch_configurations.update({"bag": "/a bag", "out": "/a run"})
    for argument in declared.values():
        argument.execute(context)
    node, *_ = training_launch_module._start_node(context)
    assert node.node_executable in ("trainer_node", sys.executable)
    show = training_launch_module.OCCUPANCY.show
    assert show(context, "trainer_node") == []
    context.launch_configurations.update({"rviz": "true", "namespace": "car"})
    (rviz,) = show(context, "trainer_node")
    assert rviz.node_executable == "rviz2"
    remaps = {"".join(p.text for p in a): "".join(p.text for p in b) for a, b in rviz._Node__remappings}
    assert remaps["/occupancy_node/occupancy"] == "/car/trainer_node/occupancy"
    assert remaps["/lidar_top"] == "/car/lidar_top"
    context.launch_configurations["config"] = "/none.yaml"
    with pytest.raises(FileNotFoundError, match="config:=/none.yaml does not exist"):
        training_launch_module._start_node(context)
