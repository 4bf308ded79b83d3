"""The node as a process of its own, a synthetic vehicle that feeds it, and a listener that sees what it answers."""

import logging
import os
import struct
import time
from collections import deque
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid as OccupancyMap
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from gsrender_ros.environment import prepare_environment
from gsrender_ros.programs import Program
from gsrender_ros.trials.synthetic_rig import RigOptions, SyntheticRig

logger = logging.getLogger("trial")

READY_TIMEOUT_S = 180.0
NODE_MODULE = "gsrender_ros.occupancy_node"
TOPICS = {"occupancy": PointCloud2, "occupancy/markers": MarkerArray, "occupancy/map": OccupancyMap}
_STAMP_AT, _STAMP = 4, struct.Struct("<iI")  # behind the four bytes that name the encoding: header.stamp
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class NodeWatch:
    """What the node says: clouds as they arrive (time, stamp in ns, bytes), and its last diagnostics.

    ``statuses`` holds (level 0 to 3, message) by the status's name, ``values`` the pairs of the first status.
    """

    def __init__(self, node: Node):
        self.clouds: deque[tuple[float, int, bytes]] = deque(maxlen=150)
        self.counts = dict.fromkeys(TOPICS, 0)
        self.statuses: dict[str, tuple[int, str]] = {}
        self.values: dict[str, str] = {}
        self.heard = 0
        for topic, kind in TOPICS.items():
            node.create_subscription(
                kind, f"/occupancy_node/{topic}", lambda data, t=topic: self._on_output(t, data), LATCHED, raw=True
            )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_output(self, topic: str, data: bytes) -> None:
        self.counts[topic] += 1
        if topic == "occupancy":
            seconds, nanoseconds = _STAMP.unpack_from(data, _STAMP_AT)
            self.clouds.append((time.monotonic(), seconds * 10**9 + nanoseconds, data))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if not message.status or not message.status[0].name.startswith("occupancy_node"):
            return
        self.heard += 1
        self.statuses = {
            status.name.partition(": ")[2]: (int.from_bytes(status.level, "little"), status.message)
            for status in message.status
        }
        self.values = {pair.key: pair.value for status in message.status for pair in reversed(status.values)}

    def count(self, key: str) -> int:
        """A whole number among the values."""
        return int(self.values.get(key) or 0)

    @property
    def dropped(self) -> dict[str, int]:
        """Frames dropped by reason."""
        return {k.removeprefix("dropped."): int(v) for k, v in self.values.items() if k.startswith("dropped.")}

    @property
    def balance(self) -> int:
        """Frames in that are neither out, nor dropped, nor pending: 0 where every one is accounted for."""
        accounted = self.count("frames_out") + sum(self.dropped.values()) + self.count("frames_pending")
        return self.count("frames_in") - accounted


class Trial:
    """Starts everything in a DDS domain of its own; a context manager that leaves no process behind.

    Args:
        out: folder of the logs.
        options: of the rig.
        parameters: of the node, by name.
        domain: ROS_DOMAIN_ID.
        module: that is started as the node.

    ``checkpoint`` is the file that the node has its network from, where a fault shall overwrite it.
    """

    def __init__(self, out: Path, options: RigOptions, parameters: dict, domain: int, module: str = NODE_MODULE):
        self._out, self._options, self._parameters, self._module = out, options, parameters, module
        self.environment = {"ROS_DOMAIN_ID": str(domain), "RCUTILS_LOGGING_USE_STDOUT": "0"}
        self.programs: list[Program] = []
        self.occupancy_node: Program | None = None
        self.checkpoint: Path | None = None
        self.started_at = 0.0

    def __enter__(self) -> "Trial":
        self._out.mkdir(parents=True, exist_ok=True)
        os.environ.update(self.environment)
        prepare_environment()
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("trial")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.rig = SyntheticRig(self.node, self._options)
        self.watch = NodeWatch(self.node)
        return self

    def __exit__(self, *_) -> None:
        for program in self.programs:
            program.stop()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def start_node(self, name: str = "occupancy_node") -> Program:
        """Start the node; its log is named ``name``."""
        arguments = [text for key, value in self._parameters.items() for text in ("-p", f"{key}:={value}")]
        command = [self._module, "--ros-args", *arguments]
        self.started_at = time.monotonic()
        self.occupancy_node = self.start(name, command)
        return self.occupancy_node

    def start(self, name: str, command: list[str]) -> Program:
        """Start ``python -m command...`` in the trial's domain."""
        self.programs.append(Program(name, command, self._out, self.environment))
        return self.programs[-1]

    def spin(self, condition=lambda: False, timeout_s: float = READY_TIMEOUT_S) -> bool:
        """Publish what is due and listen until a condition holds; False where it did not within the time."""
        end = time.monotonic() + timeout_s
        while not condition():
            now = time.monotonic()
            if now >= end:
                return False
            self._executor.spin_once(timeout_sec=min(self.rig.publish_due(), end - now))
        return True

    def wait_for_output(self, count: int = 1, timeout_s: float = READY_TIMEOUT_S) -> bool:
        """Spin until that many more clouds arrived."""
        wanted = self.watch.counts["occupancy"] + count
        return self.spin(lambda: self.watch.counts["occupancy"] >= wanted, timeout_s)
