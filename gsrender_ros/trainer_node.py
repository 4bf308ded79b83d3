"""The ROS 2 node that learns from a replay: cameras, LiDARs and poses in, a network out. Wiring only.

Subscribes to what ``occupancy_node`` takes, and to PointCloud2 topics; publishes the occupancy of the newest frame as
it does (``~/occupancy``, ...), ``~/training/row`` (std_msgs/String, a JSON row of the log), ``~/training/loss``
(std_msgs/Float32) and /diagnostics; pauses the player while the training is behind.
"""

import dataclasses
import json
import logging
import signal
import sys
import time

import rclpy
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from std_msgs.msg import Float32, String

from gsrender_core.checkpoint import named_checkpoint
from gsrender_core.data.buffer_limits import BufferLimits
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_core.data.replay_buffer import ReplayBuffer
from gsrender_core.train import starting_config
from gsrender_ros.calibration import read_calibration
from gsrender_ros.camera_sync import CameraSync, clock_jump_text, watch_clock
from gsrender_ros.camera_topics import CameraTopics
from gsrender_ros.diagnostics import Diagnostics
from gsrender_ros.environment import prepare_environment
from gsrender_ros.health import CameraHealth, TransformHealth, output_health
from gsrender_ros.layouts import camera_names, effective
from gsrender_ros.live_frames import LiveFrames, LiveInputs
from gsrender_ros.live_training import LiveTraining
from gsrender_ros.outputs import LATCHED, OccupancyOutputs
from gsrender_ros.parameters import Settings, read_settings
from gsrender_ros.player_control import PlayerControl
from gsrender_ros.pose_source import PoseSource
from gsrender_ros.prediction import Prediction
from gsrender_ros.ros_arguments import explain_name, start_rclpy
from gsrender_ros.side_node import make_executor, spin_once
from gsrender_ros.statistics import FrameStatistics
from gsrender_ros.training_health import TrainingHealth
from gsrender_ros.training_parameters import TrainingSettings, ignored_parameters
from gsrender_ros.training_topics import TrainingTopics

PACE_S, LOOK_FOR_LIDARS_S = 0.1, 0.5
RELEASE_S = 2.0  # how long a paused player is asked to go on, at the end


class TrainerNode(Node):
    """Connects the parts; the work is done in ``LiveFrames`` (messages to frames) and ``LiveTraining``.

    Raises:
        FileNotFoundError, ValueError: parameters, configuration or calibration file are not usable; one line.
    """

    def __init__(self, **node_options):
        super().__init__("trainer_node", **node_options)
        given, self.training_settings, unknown = read_settings(self, Settings, TrainingSettings)
        self.settings = effective(given)
        for line in unknown + ignored_parameters(self.settings):
            self.get_logger().warning(line)
        settings, training = self.settings, self.training_settings
        init = named_checkpoint(training.init) if training.init else None
        config = starting_config(training.config, init)
        self.get_logger().info(f"parameters: {dataclasses.asdict(settings) | dataclasses.asdict(training)}")
        calibration = read_calibration(settings.calibration_file) if settings.calibration_file else None
        self.statistics = FrameStatistics()
        limits = BufferLimits(
            round(training.memory_gb * 1e9),
            training.stretch,
            training.hold_out_every,
            config.seed,
            config.bag.keyframe_interval_s if config.bag.keyframe_distance_m == 0 else 0.0,
        )
        self.buffer = ReplayBuffer(limits)
        self.training = LiveTraining(config, training, self.buffer, settings.device)

        self.poses = PoseSource(self, settings, calibration)
        cameras = camera_names(settings, calibration)
        self.sync = CameraSync(cameras, settings, self.statistics, self.get_clock())
        self.topics = CameraTopics(self, cameras, settings, self._on_image, calibration)
        self.streams = TrainingTopics(self, settings, config.bag)
        self.frames = LiveFrames(
            config.bag,
            config.model.image_size,
            LabelOptions(config.renderocc_labels, config.drop_occluded),
            LiveInputs(self.topics, self.poses, self.streams, settings.tf_wait_s),
            self.buffer,
            self.statistics,
        )
        self.frames.may_put = self._may_put
        self.frames.on_drop = self._on_drop
        self.sync.on_set = self.frames.submit
        self.sync.on_jump = self._on_stamp_jump
        self._clock_watch = watch_clock(self.get_clock(), self._on_clock_jump)

        self.player = PlayerControl(self, training.players)
        self.outputs = OccupancyOutputs(self, settings)
        self._rows = self.create_publisher(String, "~/training/row", LATCHED)
        self._losses = self.create_publisher(Float32, "~/training/loss", 10)
        self._health = TrainingHealth(self.training, self.player, self.frames)
        self._create_diagnostics()
        self._image_at: float | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time stands still while the player pauses
        self.create_timer(PACE_S, self._pace, clock=self._steady)
        self.create_timer(LOOK_FOR_LIDARS_S, self.streams.look_for_lidars, clock=self._steady)
        self.training.on_row, self.training.on_grid = self._on_row, self._on_grid
        self.training.wants_grid = lambda: self.outputs.listened_to
        self.training.facts = self._facts
        self.training.start()
        self.poses.start()
        self.get_logger().info(f"ready: {len(cameras)} cameras, run {training.out}, device {settings.device}")

    def _create_diagnostics(self) -> None:
        parts = (self.statistics, self.sync, self.topics)
        facts = {"device": self.settings.device, "run": self.training_settings.out}
        self.diagnostics = Diagnostics(self, self.settings, parts, lambda: facts)
        tasks = self.diagnostics.tasks
        tasks["cameras"] = CameraHealth(self.sync)
        tasks["transforms"] = TransformHealth(self.poses, self.get_clock(), self.settings.tf_cache_s)
        tasks["outputs"] = output_health(self.outputs)
        tasks["training"] = self._health

    # -- what comes in ------------------------------------------------------------------------------------------------

    def _on_image(self, index: int, message) -> None:
        self._image_at = time.monotonic()
        self.sync.add_image(index, message)

    def _on_clock_jump(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self.sync.reset(now_ns)
        self.frames.restart()
        self.poses.clock_jumped(now_ns)
        self.get_logger().warning(f"{clock_jump_text(self)}: another scene begins", throttle_duration_sec=2.0)

    def _on_stamp_jump(self, before_ns: int, after_ns: int) -> None:
        self.frames.restart()
        self.poses.stamps_jumped(after_ns)
        self.get_logger().warning(
            f"image stamps jumped back from {before_ns / 1e9:.3f} to {after_ns / 1e9:.3f}: another scene begins"
        )

    # -- pace and end -------------------------------------------------------------------------------------------------

    def _may_put(self) -> bool:
        """Whether a frame is taken: where the player can be paused it need not be dropped."""
        behind = self.training.is_behind(self.frames.made)
        return self.training.takes_frames and (not behind or self.player.available)

    def _pace(self) -> None:
        taking = self.training.takes_frames
        self.player.want(taking and self.training.is_behind(self.frames.made))
        now = time.monotonic()
        if self.player.held and self._image_at is not None:
            self._image_at = now  # silence that was asked for
        self.diagnostics.paused = self.player.held or not taking
        self.diagnostics.pause_text = "the player waits for the training" if taking else self.training.state
        silent = self._image_at is not None and now - self._image_at > self.training_settings.end_silence_s
        if taking and silent and not self.frames.backlog:
            self.get_logger().info(
                f"no image for {self.training_settings.end_silence_s:g} s: the replay has ended, "
                f"{self.training_settings.finish_steps} steps follow"
            )
            self.training.end()

    @property
    def ended(self) -> bool:
        """Whether the node has nothing more to do."""
        return self.training.over and (self.training.state == "failed" or self.training_settings.at_end == "stop")

    # -- what goes out ------------------------------------------------------------------------------------------------

    def _on_drop(self, dropped) -> None:
        if dropped.reason not in ("between", "behind"):
            self.get_logger().warning(f"frame dropped ({dropped.reason}): {dropped}", throttle_duration_sec=2.0)

    def _on_row(self, row: dict) -> None:  # the training thread
        self._rows.publish(String(data=json.dumps(row)))
        if "loss" in row:
            self._health.row = row
            self._losses.publish(Float32(data=float(row["loss"])))

    def _on_grid(self, frame, grid) -> None:  # the training thread
        moment = self.frames.moments.get(frame.token)
        if moment is not None:
            self.outputs.publish(Prediction(grid, frame, moment.stamps_ns, moment.frames))

    def _facts(self) -> dict:
        summary = self.statistics.summary()
        counts = {"in": summary.frames_in, "used": summary.frames_out, "pending": summary.pending}
        counts["dropped"] = dict(sorted(summary.dropped.items()))
        return {"replay": counts, "player_paused": self.player.pauses, "classes_from": self.frames.supervision}

    def close(self, number: int = signal.SIGTERM) -> None:
        """Let the player go on, end the training with a checkpoint, say a last time what became of the frames."""
        deadline = time.monotonic() + RELEASE_S
        while self.player.held and self.executor is not None and time.monotonic() < deadline:
            self.player.want(False)
            self.executor.spin_once(timeout_sec=0.05)
        self.frames.stop()
        self.poses.close()
        self.training.stop(number)
        self.outputs.close()
        self.diagnostics.publish()
        self.destroy_node()


def main(args: list[str] | None = None) -> int:
    """Run until the training is over, SIGINT or SIGTERM; 1 when it cannot start or the training fails."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(name)s: %(message)s")
    prepare_environment()
    try:
        start_rclpy(args)
    except ValueError as error:
        logging.getLogger("trainer_node").error("cannot start: %s", error)
        return 1
    number: list[int] = []
    for known in (signal.SIGINT, signal.SIGTERM):
        signal.signal(known, lambda arrived, frame: number.append(arrived))
    try:
        node = TrainerNode()
    except (FileNotFoundError, ValueError, RuntimeError, NameValidationException) as error:
        text = explain_name(error) if isinstance(error, NameValidationException) else str(error)
        rclpy.logging.get_logger("trainer_node").fatal(f"cannot start: {text}")
        rclpy.try_shutdown()
        return 1
    executor = make_executor()
    executor.add_node(node)
    try:
        while not number and not node.ended:
            spin_once(executor, node.get_logger())
    except ExternalShutdownException:
        pass
    finally:
        node.close(*number[:1])
        rclpy.try_shutdown()
    return 1 if node.training.state == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
