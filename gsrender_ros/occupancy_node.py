"""The ROS 2 node: surround images, calibration and ego poses in, semantic occupancy out. Wiring only.

Subscribes to images, CameraInfo, /tf and /tf_static (or Odometry); publishes ``~/occupancy``
(PointCloud2), ``~/occupancy/markers`` (MarkerArray) and /diagnostics.
"""

import dataclasses
import logging
import sys
import time

import rclpy
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from gsrender_ros.calibration import read_calibration
from gsrender_ros.camera_sync import CameraSync, ImageSet, watch_clock
from gsrender_ros.camera_topics import CameraTopics
from gsrender_ros.diagnostics import Diagnostics
from gsrender_ros.environment import prepare_environment
from gsrender_ros.frame_assembly import FrameAssembler
from gsrender_ros.frame_history import FrameHistory
from gsrender_ros.inference_worker import InferenceWorker
from gsrender_ros.layouts import camera_names, fixed_frame
from gsrender_ros.outputs import OccupancyOutputs
from gsrender_ros.parameters import Settings, read_settings
from gsrender_ros.ros_arguments import explain_name, start_rclpy
from gsrender_ros.standins import GENUINE, Buffer, TransformListener
from gsrender_ros.statistics import FrameDropped, FrameStatistics
from gsrender_ros.stop_signal import StopSignal
from gsrender_ros.tf_lookup import TransformLookup, message_from_matrix

# After the clock jumped back, the images' own jump follows at once and must not clear the new transforms.
JUMP_SETTLES_S = 2.0


class OccupancyNode(Node):
    """Connects the parts; the work is done in ``CameraSync``, ``InferenceWorker`` and the conversions.

    Raises:
        FileNotFoundError, ValueError: parameters, calibration file or checkpoint are not usable; one line.
    """

    def __init__(self, **node_options):
        super().__init__("occupancy_node", **node_options)
        self.settings, unknown = read_settings(self)
        for line in unknown:
            self.get_logger().warning(line)
        self.get_logger().info(f"parameters: {dataclasses.asdict(self.settings)}")
        self.get_logger().info(f"genuine packages: {', '.join(k for k, v in GENUINE.items() if v) or 'none'}")
        calibration = read_calibration(self.settings.calibration_file) if self.settings.calibration_file else None
        self.statistics = FrameStatistics()
        self.worker = InferenceWorker(self._process, self.statistics, self.get_logger())
        self.predictor, checkpoint = self.worker.start(lambda: _load_predictor(self.settings))
        self.assemble_frame = FrameAssembler(self.predictor.image_size)
        self.history = FrameHistory(self.predictor.frames_before, self.settings.history_interval_s)
        self._history_generation = 0
        self._cleared_at = 0.0

        self._create_transforms(calibration)
        cameras = camera_names(self.settings)
        self.sync = CameraSync(cameras, self.settings, self.statistics, self.get_clock())
        self.sync.on_set = self.worker.submit
        self.sync.on_jump = self._on_stamp_jump
        self._clock_watch = watch_clock(self.get_clock(), self._on_clock_jump)

        self.outputs = OccupancyOutputs(self, self.settings.ego_frame, self.settings.markers_max_rate_hz)
        self.topics = CameraTopics(self, cameras, self.settings, self.sync.add_image, calibration)
        facts = {"device": str(self.predictor.device), "checkpoint": checkpoint}
        self.diagnostics = Diagnostics(self, self.settings, (self.statistics, self.sync, self.topics), facts)
        self.get_logger().info(f"ready: {len(cameras)} cameras, device {facts['device']}, checkpoint {checkpoint}")

    def _create_transforms(self, calibration) -> None:
        settings, logger = self.settings, self.get_logger()
        self.buffer = Buffer(cache_time=Duration(seconds=settings.tf_cache_s), node=self)
        self.lookup = TransformLookup(self.buffer, settings.ego_frame, fixed_frame(settings), settings.tf_wait_s)
        source = settings.pose_source
        if source == "tf" and not GENUINE["tf2_msgs"]:
            raise ValueError(
                "pose_source is 'tf', but tf2_msgs is not installed: install it (make setup builds it where a C "
                "compiler is), or use pose_source:=odometry with a calibration_file"
            )
        if source == "auto":
            source = "tf" if GENUINE["tf2_msgs"] else "odometry"
            if source == "odometry":
                logger.warning("tf2_msgs is not installed: poses come from Odometry, mountings from calibration_file")
        if source == "odometry" and not GENUINE["tf2_msgs"] and calibration is None:
            raise ValueError(
                "without tf2_msgs the mounting of the cameras must come from a file: set calibration_file (bags of "
                "`gsrender to-bag` carry one beside their data), or install tf2_msgs"
            )
        if GENUINE["tf2_msgs"]:
            self._listener = TransformListener(self.buffer, self)
        if source == "odometry":
            qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._odometry = self.create_subscription(Odometry, settings.odometry_topic, self._on_odometry, qos)
        for camera in calibration.cameras.values() if calibration else ():
            if camera.T_ego_cam is not None:
                self.buffer.set_transform_static(
                    message_from_matrix(camera.T_ego_cam, calibration.ego_frame, camera.frame_id), "calibration_file"
                )

    def _on_odometry(self, message: Odometry) -> None:
        from geometry_msgs.msg import TransformStamped

        transform = TransformStamped(header=message.header, child_frame_id=message.child_frame_id)
        position = message.pose.pose.position
        translation = transform.transform.translation
        translation.x, translation.y, translation.z = position.x, position.y, position.z
        transform.transform.rotation = message.pose.pose.orientation
        if not self.settings.fixed_frame:
            self.lookup.fixed_frame = message.header.frame_id.lstrip("/")
        self.buffer.set_transform(transform, "odometry")

    def _process(self, image_set: ImageSet, generation: int) -> float:
        """One set of images to published messages; the worker's thread. Returns the inference time in seconds."""
        intrinsics = self.topics.intrinsics()
        cameras = list(zip(image_set.frames, image_set.stamps_ns, strict=True))
        rig_pose = self.lookup.rig_pose(image_set.stamp_ns, cameras, cancelled=lambda: self.worker.stopping)
        frame = self.assemble_frame(image_set, intrinsics, rig_pose)
        if generation != self._history_generation:  # here, not in _forget: the worker's thread alone touches it
            self.history.clear()
            self._history_generation = generation
        started = time.monotonic()
        occupancy = self.predictor(frame, previous=self.history.before(frame))
        inference_s = time.monotonic() - started
        if generation != self.worker.generation:
            raise FrameDropped("reset", "time jumped back while the network was busy")
        self.history.add(frame)
        self.outputs.publish(occupancy)
        return inference_s

    def _on_clock_jump(self) -> None:
        self.sync.reset(self.get_clock().now().nanoseconds)
        self._forget(clear_transforms=True)
        self.get_logger().warning("the clock jumped back: synchroniser, transforms and markers cleared")

    def _on_stamp_jump(self, before_ns: int, after_ns: int) -> None:
        self._forget(clear_transforms=time.monotonic() - self._cleared_at > JUMP_SETTLES_S)
        self.get_logger().warning(
            f"image stamps jumped back from {before_ns / 1e9:.3f} to {after_ns / 1e9:.3f}: cleared and started anew"
        )

    def _forget(self, clear_transforms: bool) -> None:
        self.worker.reset()
        if clear_transforms:
            self.buffer.clear()
            self._cleared_at = time.monotonic()
        self.outputs.clear()

    def close(self) -> None:
        """Stop the worker, say a last time how many frames there were, end."""
        self.worker.stop()
        self.assemble_frame.close()
        self.diagnostics.publish()
        self.destroy_node()


def _load_predictor(settings: Settings):
    """The predictor and the path of its checkpoint; imports torch, which takes seconds."""
    try:
        from gsrender_core.checkpoint import default_checkpoint
        from gsrender_core.predictor import Predictor
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{sys.executable} cannot import {error.name}: install it for this interpreter (console scripts of "
            "`ros2 run` ignore virtual environments)"
        ) from error
    path = settings.checkpoint or str(default_checkpoint())
    predictor = Predictor.load(path, device=settings.device)
    predictor.warm_up(len(settings.cameras))  # else the first frames wait for seconds
    return predictor, path


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 when it cannot start."""
    logging.basicConfig(level=logging.WARNING, format="[%(levelname)s] %(name)s: %(message)s")
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
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop:
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    finally:
        node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
