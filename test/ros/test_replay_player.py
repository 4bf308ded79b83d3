"""The player: which bags it refuses and how, what it skips, and what arrives (a process over DDS)."""

import shutil

import pytest
import rclpy
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_processes import PERIOD_NS, START_NS, Process, listening_node, own_domain, write_small_bag
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_srvs.srv import SetBool

from gsrender_ros import recorder, replay_player
from gsrender_ros.bag_reading import BagError, message_class, open_bag
from gsrender_ros.player_control import PlayerControl
from gsrender_ros.replay_player import PlayOptions, ReplayPlayer
from gsrender_ros.standins import GENUINE


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "small"
    write_small_bag(path)
    return path


@pytest.fixture(autouse=True)
def no_process_survives():
    yield
    Process.end_all()


def _refusal(path) -> str:
    with pytest.raises(BagError) as error:
        open_bag(path)
    assert "\n" not in str(error.value).strip()
    return str(error.value)


def test_refusals_say_what_is_wrong(bag, tmp_path):
    assert "does not exist" in _refusal(tmp_path / "none")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    assert "rosbags-convert" in _refusal(tmp_path / "old.bag")
    assert "name its folder" in _refusal(next(bag.glob("*.mcap")))
    copy = tmp_path / "copy"
    shutil.copytree(bag, copy)
    storage = next(copy.glob("*.mcap"))
    storage.write_bytes(storage.read_bytes()[:-3000])
    assert "cannot be read" in _refusal(copy)
    (copy / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    assert "cannot be read" in _refusal(copy)
    for garbage in ("", "just text", ": : {{{ [\n\x01 garbage\n- a: b: c"):
        (copy / "metadata.yaml").write_text(garbage)
        text = _refusal(copy)
        assert text.startswith(f"{copy} cannot be read: ") and "metadata" in text and "subscriptable" not in text
        assert text.endswith(f"record or copy it again, or run `ros2 bag reindex {copy}`")
    (copy / "metadata.yaml").unlink()
    assert "holds no metadata.yaml (was the recording ended?)" in _refusal(copy)
    (copy / "v1.0-mini").mkdir()
    assert "this is a nuScenes-schema folder: `gsrender to-bag` makes a bag of it" in _refusal(copy)


def test_the_command_exits_with_1_for_a_bag_and_2_for_an_argument_it_cannot_use(tmp_path, caplog):
    assert replay_player.main(["replay_player", str(tmp_path / "none")]) == 1
    assert "does not exist" in caplog.text
    with pytest.raises(SystemExit) as wrong:
        replay_player.main(["replay_player", "bag", "--rate", "0"])
    assert wrong.value.code == 2
    with pytest.raises(ValueError, match="rate is -1"):
        PlayOptions(rate=-1)


@pytest.mark.parametrize("flag", ["--start", "--delay", "--wait-timeout", "--rate", "--clock"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_numbers_that_are_no_duration_or_rate_are_refused_in_one_line(flag, value, capsys):
    with pytest.raises(SystemExit) as wrong:
        replay_player.main(["replay_player", "bag", flag, value])
    assert wrong.value.code == 2
    assert f"error: {flag[2:]} is {value}" in capsys.readouterr().err.splitlines()[-1]


def test_clock_takes_a_rate_or_none_as_ros2_bag_play_does():
    def clock_hz(*arguments):
        return replay_player._options(["bag", *arguments])[1].clock_hz

    assert (clock_hz(), clock_hz("--clock"), clock_hz("--clock", "--loop")) == (100.0, 100.0, 100.0)
    assert (clock_hz("--clock", "25"), clock_hz("--clock=25", "--loop")) == (25.0, 25.0)


@pytest.mark.parametrize("program", [replay_player, recorder])
@pytest.mark.parametrize("arguments", [["-p"], ["-p", "bad"]])
def test_malformed_ros_arguments_give_one_line(program, arguments, caplog):
    assert program.main(["program", "bag", "/topic", "--ros-args", *arguments]) == 1
    (line,) = caplog.messages
    assert "parse" in line and "\n" not in line


def test_types_that_are_not_installed_are_skipped_and_counted(tmp_path):
    typestore = get_typestore(Stores.ROS2_HUMBLE)
    typestore.register(get_types_from_msg("float64 range_m", "radar_msgs/msg/Radar"))
    radar = typestore.types["radar_msgs/msg/Radar"]
    with Writer(tmp_path / "radar", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/radar", "radar_msgs/msg/Radar", typestore=typestore)
        for index in range(4):
            data = typestore.serialize_cdr(radar(range_m=1.0), "radar_msgs/msg/Radar")
            writer.write(connection, START_NS + index, data)
    context = Context()
    rclpy.init(context=context, domain_id=own_domain(4))
    reader = open_bag(tmp_path / "radar")
    player = ReplayPlayer(reader, PlayOptions(delay_s=0.0), context=context)
    try:
        assert player.skipped == {"/radar": 4}
        with pytest.raises(BagError, match="no topic whose type is installed"):
            player.play()
        with pytest.raises(BagError, match="start offset 9 s lies behind the bag's end"):
            ReplayPlayer(reader, PlayOptions(start_s=9.0), context=context).play()
    finally:
        player.destroy_node()
        rclpy.shutdown(context=context)
        reader.close()


def test_message_classes_are_found_by_name():
    assert message_class("sensor_msgs/msg/CameraInfo") is CameraInfo
    with pytest.raises(ImportError):
        message_class("radar_msgs/msg/Radar")


@pytest.mark.skipif(not GENUINE["tf2_msgs"], reason="tf2_msgs is not installed")
def test_start_offset_rate_clock_and_latched_topics(bag, tmp_path):
    from tf2_msgs.msg import TFMessage

    domain = own_domain(5)
    with listening_node(domain) as (node, spin_until):
        images, infos, clocks, static = [], [], [], []
        topic = "/cam_front/image_raw/compressed"
        node.create_subscription(CompressedImage, topic, images.append, 20)
        node.create_subscription(CameraInfo, "/cam_back/camera_info", infos.append, 20)
        node.create_subscription(Clock, "/clock", clocks.append, 1000)
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(TFMessage, "/tf_static", static.append, latched)
        arguments = [bag, "--start", "0.5", "--rate", "2", "--wait-for", topic, "--delay", "1"]
        player = Process("gsrender_ros.replay_player", arguments, domain, tmp_path / "player.log")
        spin_until(lambda: len(images) >= 3 and len(infos) >= 3 and static, player)
        spin_until(lambda: player.popen.poll() is not None, player)
        assert player.wait() == 0
    # six frames 0.2 s apart: 0.6, 0.8 and 1.0 s lie behind the offset
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in images]
    assert stamps == [START_NS + frame * PERIOD_NS for frame in (3, 4, 5)]
    assert {t.child_frame_id for t in static[0].transforms} == {"cam_front", "cam_back"}
    assert infos[0].k[0] == 60.0
    ticks = [c.clock.sec * 10**9 + c.clock.nanosec for c in clocks]
    assert ticks == sorted(ticks) and len(ticks) > 15
    assert ticks[0] >= START_NS + 450_000_000 and ticks[-1] == START_NS + 5 * PERIOD_NS + 20_000_000


def test_a_paused_player_stands_still_and_goes_on_where_it_was(bag, tmp_path):
    """Through ``PlayerControl``, as the trainer does it."""
    domain = own_domain(6)
    with listening_node(domain) as (node, spin_until):
        images, clocks = [], []
        topic = "/cam_front/image_raw/compressed"
        node.create_subscription(CompressedImage, topic, images.append, 20)
        node.create_subscription(Clock, "/clock", clocks.append, 1000)
        control = PlayerControl(node, ("rosbag2_player", "replay_player"))
        assert not control.available
        control.want(True)
        assert not control.held  # nobody is there to be paused
        player = Process("gsrender_ros.replay_player", [bag, "--wait-for", topic], domain, tmp_path / "player.log")
        spin_until(lambda: images and control.available, player)

        def asked(paused: bool) -> bool:
            control.want(paused)
            return control.held == paused

        spin_until(lambda: asked(True), player)
        reader = node.create_client(SetBool, "replay_player/pause")
        again = reader.call_async(SetBool.Request(data=True))  # its answer comes after all that was published before
        spin_until(again.done, player)
        assert again.result().success and again.result().message == "paused"
        seen, ticks = len(images), len(clocks)
        later = reader.call_async(SetBool.Request(data=True))
        spin_until(later.done, player)
        assert (len(images), len(clocks)) == (seen, ticks) and seen < 6 and player.popen.poll() is None
        spin_until(lambda: asked(False), player)
        spin_until(lambda: len(images) == 6, player)
        assert player.wait() == 0 and control.pauses == 1
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in images]
    assert stamps == [START_NS + frame * PERIOD_NS for frame in range(6)]
