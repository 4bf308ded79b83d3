"""The trainer as a node, fed by the player as a process over DDS; its frames against those read from the bag itself."""

import json
import signal
from contextlib import contextmanager

import numpy as np
import pytest
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_processes import CAMERAS, PERIOD_NS, START_NS, Process, listening_node, own_domain
from sensor_msgs.msg import PointCloud2
from small_drives import SIZE, write_drive, write_small_training
from std_msgs.msg import Float32, String

from gsrender_core.bag_config import BagConfig
from gsrender_core.checkpoint import load_checkpoint
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_ros import trainer_node
from gsrender_ros.bag_frames import BagFrames
from gsrender_ros.standins import GENUINE
from gsrender_ros.trainer_node import TrainerNode

needs_tf = pytest.mark.skipif(not GENUINE["tf2_msgs"], reason="tf2_msgs is not installed")
BAG = BagConfig(keyframe_interval_s=0.4, lidar_topics=("/lidar_top",), lidar_slop_s=0.05, held_out_share=0.0)
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(autouse=True)
def no_process_survives():
    yield
    Process.end_all()


@contextmanager
def running_trainer(node, folder, **changes):
    """The node in this process, spun by the listener's executor; ``changes`` of training's parameters."""
    values = {
        "cameras": list(CAMERAS),
        "device": "cpu",
        "use_sim_time": True,
        "tf.wait_s": 5.0,
        "training.config": str(write_small_training(folder / "small.yaml", bag=BAG)),
        "training.out": str(folder / "run"),
        "training.finish_steps": 3,
        "training.end_silence_s": 3.0,
        "training.ahead": 2,
        "training.publish_period_s": 0.1,
        "buffer.memory_gb": 0.1,
        "buffer.stretch": 2,
        "buffer.hold_out_every": 2,
    } | {f"training.{name}": value for name, value in changes.items()}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    trainer = TrainerNode(context=node.context, parameter_overrides=overrides)
    node.executor.add_node(trainer)
    try:
        yield trainer
    finally:
        trainer.close()


@needs_tf
def test_a_replay_is_learnt_from_and_gives_the_frames_of_its_bag(tmp_path):
    domain = own_domain(21)
    write_drive(tmp_path / "drive")
    with listening_node(domain) as (node, spin_until), running_trainer(node, tmp_path) as trainer:
        rows, losses, clouds = [], [], []
        node.create_subscription(String, "/trainer_node/training/row", lambda m: rows.append(json.loads(m.data)), 50)
        node.create_subscription(Float32, "/trainer_node/training/loss", losses.append, 50)
        node.create_subscription(PointCloud2, "/trainer_node/occupancy", clouds.append, LATCHED)
        topics = [f"/{camera}/{name}" for camera in CAMERAS for name in ("image_raw/compressed", "camera_info")]
        waits = [text for topic in (*topics, "/lidar_top", "/tf") for text in ("--wait-for", topic)]
        arguments = [tmp_path / "drive", *waits, "--delay", "1"]
        player = Process("gsrender_ros.replay_player", arguments, domain, tmp_path / "player.log")
        spin_until(lambda: trainer.frames.made == 6, player)
        spin_until(lambda: trainer.training.steps > 0, player)  # compiles what is not in the cache
        spin_until(lambda: trainer.ended, player)
        assert player.wait() == 0 and trainer.training.failure == ""
        spin_until(lambda: clouds and rows and losses and rows[-1]["step"] == trainer.training.trainer.step)
        buffer, summary = trainer.buffer, trainer.statistics.summary()

    direct = BagFrames([tmp_path / "drive"], SIZE, BAG, LabelOptions(drop_occluded=True))
    live = [buffer.frame(i) for i in range(buffer.taken_in)]
    assert [f.stamp_ns for f in live] == [direct.frame(i).stamp_ns for i in range(len(direct))]
    assert [f.stamp_ns for f in live] == [START_NS + n * PERIOD_NS for n in range(0, 12, 2)]
    for i, ours in enumerate(live):
        theirs = direct.frame(i)
        assert np.array_equal(ours.images, theirs.images) and ours.camera_names == theirs.camera_names
        for name in ("Ks", "T_ego_cam", "T_global_ego"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-9)
        assert np.array_equal(ours.labels.camera, theirs.labels.camera)
        assert np.array_equal(ours.labels.class_id, theirs.labels.class_id) and len(ours.labels) > 50
        np.testing.assert_allclose(ours.labels.uv, theirs.labels.uv, atol=1e-3)
        np.testing.assert_allclose(ours.labels.depth_m, theirs.labels.depth_m, atol=1e-4)
    for i in buffer.numbers(held_out=True):
        for ours, theirs in zip(buffer.lidar_returns(i), direct.lidar_returns(i), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)

    # Nothing is lost on the way: what the player waits for need not be dropped.
    assert summary.frames_in == 12 and summary.frames_out == 6 and summary.dropped == {"between": 6}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["replay"] == {"in": 12, "used": 6, "pending": 0, "dropped": {"between": 6}}
    assert report["frames"]["taken_in"] == 6 and report["classes_from"] == "field"
    assert report["held_out"]["frames"] == 2 and report["held_out"]["labelled_rays"] > 0
    assert losses[-1].data == pytest.approx([row["loss"] for row in rows if "loss" in row][-1])
    assert rows[-1]["returns"]["rays"] > 0  # the last validation
    assert clouds[-1].header.frame_id == "base_link"
    assert load_checkpoint(tmp_path / "run" / report["checkpoint"]).info["frames"] == 6


@needs_tf
def test_a_player_is_paused_while_the_training_is_behind_and_let_go_at_the_end(tmp_path):
    """Each frame is worth a thousand steps, so that the second one already finds the training behind."""
    domain = own_domain(25)
    write_drive(tmp_path / "drive")
    with listening_node(domain) as (node, spin_until):
        with running_trainer(node, tmp_path, steps_per_frame=1000.0, ahead=1, at_end="wait") as trainer:
            topics = [f"/{camera}/image_raw/compressed" for camera in CAMERAS]
            waits = [text for topic in (*topics, "/lidar_top", "/tf") for text in ("--wait-for", topic)]
            player = Process(
                "gsrender_ros.replay_player", [tmp_path / "drive", *waits], domain, tmp_path / "player.log"
            )
            spin_until(lambda: trainer.player.held, player)
            made, received = trainer.frames.made, trainer.statistics.summary().frames_in
            heard = []
            node.create_subscription(PointCloud2, "/lidar_top", heard.append, 10)
            spin_until(lambda: trainer.training.steps > 0, player)
            quiet = node.get_clock().now().nanoseconds + 1_500_000_000  # most of the bag's length
            spin_until(lambda: node.get_clock().now().nanoseconds > quiet, player)
            assert player.popen.poll() is None and not heard  # it holds still
            assert 2 <= made <= trainer.frames.made <= made + 1 and received < 12
            assert trainer.player.pauses == 1 and "behind" not in trainer.statistics.summary().dropped
            assert trainer.diagnostics.paused and trainer.training.takes_frames
        assert player.wait() == 0  # whoever held it back has let it go
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["player_paused"] == 1 and report["replay"]["used"] >= 2


@needs_tf
def test_an_interrupt_saves_a_checkpoint_and_the_run_goes_on(tmp_path):
    domain = own_domain(22)
    write_drive(tmp_path / "drive")
    config = write_small_training(tmp_path / "small.yaml", bag=BAG)
    given = {
        "training.out": tmp_path / "run",
        "training.config": config,
        "training.steps_per_frame": 0.0,
        "training.finish_steps": 100,
        "cameras": f"[{', '.join(CAMERAS)}]",
        "device": "cpu",
        "use_sim_time": "true",
        "buffer.hold_out_every": 0,
    }
    arguments = ["--ros-args", *(text for name, value in given.items() for text in ("-p", f"{name}:={value}"))]
    trainer = Process("gsrender_ros.trainer_node", arguments, domain, tmp_path / "trainer.log")
    with listening_node(domain) as (node, spin_until):
        rows = []
        node.create_subscription(String, "/trainer_node/training/row", rows.append, 50)
        play = [tmp_path / "drive", "--wait-for", "/cam_back/image_raw/compressed", "--delay", "1"]
        player = Process("gsrender_ros.replay_player", play, domain, tmp_path / "player.log")
        spin_until(lambda: rows, trainer, player)
        assert player.wait() == 0
    assert trainer.end(signal.SIGINT) == 0
    assert "stopped by SIGINT after step" in trainer.text and "training.resume:=true" in trainer.text
    assert "Traceback" not in trainer.text
    assert (tmp_path / "run" / "resume.pt").exists() and (tmp_path / "run" / "last.safetensors").exists()
    again = Process(
        "gsrender_ros.trainer_node", [*arguments, "-p", "training.resume:=true"], domain, tmp_path / "again.log"
    )
    with listening_node(domain) as (_, spin_until):
        spin_until(lambda: "resumed at step" in again.text, again)
    assert again.end(signal.SIGTERM) == 0 and "stopped by SIGTERM" in again.text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "training.out is empty: name the folder of the run"),
        (["-p", "training.out:=run", "-p", "training.config:=none.yaml"], "none.yaml"),
        (["-p", "training.out:=run", "-p", "training.at_end:=sleep"], "training.at_end is 'sleep', must be one of"),
        (["-p", "training.out:=run", "-p", "training.finish_steps:=9000"], "finish_steps: 9000 must lie in 1 .. steps"),
    ],
)
def test_what_cannot_be_started_is_explained_in_one_line(arguments, text, capfd, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain(23)))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert trainer_node.main(["trainer_node", "--ros-args", *arguments]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "cannot start" in line]
    assert text in line
