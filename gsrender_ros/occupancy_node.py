"""The ROS 2 node: surround images, calibration and ego poses in, semantic occupancy out. Wiring only.

Subscribes to images, CameraInfo, /tf and /tf_static (or Odometry), for the self-check to a PointCloud2; publishes
``~/occupancy`` (PointCloud2, with markers, a map and debug images below it and ``~/debug``) and /diagnostics; serves
``~/reset``, ``~/pause`` and ``~/reload``.
"""

import dataclasses
import logging
import sys
import time
from concurrent.futures import Future

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from gsrender_ros.calibration import read_calibration, unused_cameras
from gsrender_ros.camera_sync import CameraSync, ImageSet, clock_jump_text, watch_clock
from gsrender_ros.camera_topics import CameraTopics
from gsrender_ros.diagnostics import Diagnostics
from gsrender_ros.environment import prepare_environment
from gsrender_ros.frame_assembly import FrameAssembler
from gsrender_ros.frame_history import FrameHistory
from gsrender_ros.health import CameraHealth, TransformHealth, network_health, output_health, self_check_health
from gsrender_ros.inference_worker import InferenceWorker
from gsrender_ros.layouts import camera_names, effective
from gsrender_ros.outputs import OccupancyOutputs
from gsrender_ros.parameters import read_settings
from gsrender_ros.pose_source import PoseSource
from gsrender_ros.prediction import Prediction
from gsrender_ros.predictor_host import PredictorHost
from gsrender_ros.ros_arguments import explain_name, start_rclpy
from gsrender_ros.self_check import SelfCheck
from gsrender_ros.services import Services
from gsrender_ros.side_node import make_executor, spin_once
from gsrender_ros.standins import GENUINE
from gsrender_ros.statistics import FrameDropped, FrameStatistics
from gsrender_ros.stop_signal import StopSignal


class OccupancyNode(Node):
    """Connects the parts; the work is done in ``CameraSync``, ``InferenceWorker`` and the conversions.

    Raises:
        FileNotFoundError, ValueError: parameters, calibration file or checkpoint are not usable; one line.
    """

    def __init__(self, **node_options):
        super().__init__("occupancy_node", **node_options)
        given, unknown = read_settings(self)
        self.settings = effective(given)
        for line in unknown:
            self.get_logger().warning(line)
        self.get_logger().info(f"parameters: {dataclasses.asdict(self.settings)}")
        self.get_logger().info(f"genuine packages: {', '.join(k for k, v in GENUINE.items() if v) or 'none'}")
        calibration = read_calibration(self.settings.calibration_file) if self.settings.calibration_file else None
        for line in unused_cameras(calibration, self.settings.cameras) if calibration else ():
            self.get_logger().warning(line)
        self.statistics = FrameStatistics()
        self.worker = InferenceWorker(self._process, self.statistics, self.get_logger())
        self.host = PredictorHost(
            self.settings.device, self.settings.runtime, len(self.settings.cameras), self.get_logger()
        )
        self.self_check: SelfCheck | None = None
        self.assemble_frame: FrameAssembler | None = None
        self.worker.start(lambda: self._use_checkpoint(self.settings.checkpoint))
        self._history_generation = 0
        self._paused = False

        self.poses = PoseSource(self, self.settings, calibration)
        cameras = camera_names(self.settings, calibration)
        self.sync = CameraSync(cameras, self.settings, self.statistics, self.get_clock())
        self.sync.on_set = self._on_set
        self.sync.on_jump = self._on_stamp_jump
        self.sync.on_missing = self.get_logger().warning
        self._clock_watch = watch_clock(self.get_clock(), self._on_clock_jump)

        self.outputs = OccupancyOutputs(self, self.settings)
        if self.settings.self_check_lidar_topic:
            self.self_check = SelfCheck(self, self.settings, self.poses.lookup)
        # After the network is loaded: a player that waits for a subscriber of the images finds a node that is ready.
        self.topics = CameraTopics(self, cameras, self.settings, self._on_image, calibration)
        self._create_diagnostics()
        self._own_services = Services(self, self.settings.checkpoint)
        self.poses.start()
        facts = "; ".join(f"{name} {value}" for name, value in self.host.facts().items())
        self.get_logger().info(f"ready: {len(cameras)} cameras; {facts}")

    def _create_diagnostics(self) -> None:
        parts = (self.statistics, self.sync, self.topics)
        self.diagnostics = Diagnostics(self, self.settings, parts, self.host.facts)
        tasks = self.diagnostics.tasks
        tasks["cameras"] = CameraHealth(self.sync)
        tasks["transforms"] = TransformHealth(self.poses, self.get_clock(), self.settings.tf_cache_s)
        tasks["network"] = network_health(self.host, self.statistics)
        tasks["outputs"] = output_health(self.outputs)
        if self.self_check is not None:
            tasks["self-check"] = self_check_health(self.self_check)

    def _on_image(self, index: int, message) -> None:
        if self.worker.idle and not self._paused and (camera := self.topics.known_intrinsics(index)) is not None:
            self.assemble_frame.expect(message, camera)
        self.sync.add_image(index, message)

    def _on_set(self, image_set: ImageSet) -> None:
        if self._paused:
            self.statistics.dropped("paused", "the node was told to pause")
        else:
            self.worker.submit(image_set)

    def _process(self, image_set: ImageSet, generation: int) -> float:
        """One set of images to published messages; the worker's thread. Returns the inference time in seconds."""
        intrinsics = self.topics.intrinsics(image_set.channels)
        cameras = list(zip(image_set.frames, image_set.stamps_ns, strict=True))

        def cancelled() -> bool:
            return self.worker.stopping or generation != self.worker.generation

        rig_pose = self.poses.lookup.rig_pose(image_set.stamp_ns, cameras, cancelled)
        frame = self.assemble_frame(image_set, intrinsics, rig_pose)
        if generation != self._history_generation:  # here, not in _forget: the worker's thread alone touches it
            self.history.clear()
            self._history_generation = generation
        started = time.monotonic()
        occupancy = self.host(frame, self.history.before(frame))
        inference_s = time.monotonic() - started
        if generation != self.worker.generation:
            raise FrameDropped("reset", "time jumped back while the network was busy")
        self.history.add(frame)
        self.outputs.publish(Prediction(occupancy, frame, image_set.stamps_ns, image_set.frames))
        if self.self_check is not None:
            self.self_check.submit(occupancy)
        return inference_s

    def load(self, checkpoint: str) -> Future:
        """Exchange the network for that of a checkpoint (empty: the packaged one), between two frames.

        The future holds the error where the file will not do; the old network then goes on.
        """
        loading = self.worker.call(lambda: self._use_checkpoint(checkpoint))
        loading.add_done_callback(self._on_loaded)
        return loading

    def _use_checkpoint(self, checkpoint: str) -> None:  # the worker's thread
        self.host.load(checkpoint)
        predictor = self.host.predictor
        if self.assemble_frame is None or self.assemble_frame.image_size != predictor.image_size:
            before, self.assemble_frame = self.assemble_frame, FrameAssembler(predictor.image_size)
            if before is not None:
                before.close()
        self.history = FrameHistory(
            predictor.frames_before, self.settings.history_interval_s, self.settings.tf_max_speed_mps
        )
        if self.self_check is not None:
            self.self_check.reset()  # its figures are those of the network before

    def _on_loaded(self, loading: Future) -> None:
        error = loading.exception()
        if error is None:
            self.get_logger().info(f"loaded {self.host.path}")
        elif not self.worker.stopping:
            self.get_logger().error(f"checkpoint not loaded, {self.host.path} stays in use: {error}")

    def pause(self, paused: bool) -> None:
        """Drop all sets of images from now on (reason ``paused``), or take them again."""
        self._paused = self.diagnostics.paused = paused
        self.get_logger().info("paused: frames are dropped and counted" if paused else "running again")

    def reset(self) -> None:
        """Forget everything that came in so far: waiting images, transforms, previous frames, outputs."""
        self.sync.reset(self.get_clock().now().nanoseconds)
        self.poses.clear()
        self._forget()
        self.get_logger().info("reset: synchroniser, transforms, history and outputs cleared")

    def _on_clock_jump(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self.sync.reset(now_ns)
        self.poses.clock_jumped(now_ns)
        self._forget()
        self.get_logger().warning(
            f"{clock_jump_text(self)}: synchroniser, transforms and markers cleared", throttle_duration_sec=2.0
        )

    def _on_stamp_jump(self, before_ns: int, after_ns: int) -> None:
        self.poses.stamps_jumped(after_ns)
        self._forget()
        self.get_logger().warning(
            f"image stamps jumped back from {before_ns / 1e9:.3f} to {after_ns / 1e9:.3f}: cleared and started anew"
        )

    def _forget(self) -> None:
        self.worker.reset()
        self.outputs.clear()
        if self.self_check is not None:
            self.self_check.reset()

    def close(self) -> None:
        """Stop the worker, say a last time how many frames there were, end."""
        self.worker.stop()
        self.poses.close()
        self.outputs.close()
        if self.self_check is not None:
            self.self_check.stop()
        self.assemble_frame.close()
        self.diagnostics.publish()
        self.destroy_node()


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 when it cannot start."""
    logging.basicConfig(level=logging.WARNING, format="[%(levelname)s] %(name)s: %(message)s")
    # That eager torch serves in place of a runtime is said by ``PredictorHost``, to /rosout as well.
    logging.getLogger("gsrender_core.engine").addFilter(lambda record: False)
    prepare_environment()
    try:
        start_rclpy(args)
    except ValueError as error:
        logging.getLogger("occupancy_node").error("cannot start: %s", error)
        return 1
    stop = StopSignal()
    try:
        node = OccupancyNode()
    except (FileNotFoundError, ValueError, RuntimeError, NameValidationException) as error:
        text = explain_name(error) if isinstance(error, NameValidationException) else str(error)
        rclpy.logging.get_logger("occupancy_node").fatal(f"cannot start: {text}")
        rclpy.try_shutdown()
        return 1
    executor = make_executor()
    executor.add_node(node)
    try:
        while not stop:
            spin_once(executor, node.get_logger())
    except ExternalShutdownException:
        pass
    finally:
        node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
