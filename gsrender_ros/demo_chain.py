"""Node, recorder and replay player as processes of their own, connected by DDS, watched until all is done."""

import logging
import os
import time
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from gsrender_ros.environment import prepare_environment
from gsrender_ros.layouts import camera_names
from gsrender_ros.nuscenes_to_bag import CALIBRATION_FILE
from gsrender_ros.parameters import Settings
from gsrender_ros.programs import Program
from gsrender_ros.standins import GENUINE

logger = logging.getLogger("demo")

CLOUD_TOPIC = "/occupancy_node/occupancy"
# With transforms, or nothing that plays the recording could be placed in RViz.
TRANSFORM_TOPICS = ("/tf", "/tf_static") if GENUINE["tf2_msgs"] else ()
RECORDED_TOPICS = (CLOUD_TOPIC, "/occupancy_node/occupancy/markers", "/diagnostics", *TRANSFORM_TOPICS)
START_TIMEOUT_S, SETTLE_S = 180.0, 15.0
DIAGNOSTICS_PERIOD_S = 0.5


class _NodeMonitor(Node):
    """Listens to the node's diagnostics: when it is ready, and when it has dealt with every frame."""

    def __init__(self):
        super().__init__("demo_monitor")
        self.received = 0
        self.values: dict[str, str] = {}
        self._subscription = self.create_subscription(DiagnosticArray, "/diagnostics", self._on_message, 10)

    def _on_message(self, message) -> None:
        for status in message.status:
            if status.name.endswith(": occupancy"):
                self.received += 1
                self.values = {pair.key: pair.value for pair in status.values}

    @property
    def fate(self) -> tuple:
        """Frames in, out, pending, and dropped."""
        dropped = tuple(v for k, v in sorted(self.values.items()) if k.startswith("dropped."))
        return (*(self.values.get(f"frames_{key}", "0") for key in ("in", "out", "pending")), *dropped)


def _environment() -> dict[str, str]:
    """A DDS domain of our own on this host: neither a robot nor another demo can join in."""
    discovery = {"ROS_LOCALHOST_ONLY": "1"} if os.environ.get("ROS_DISTRO") == "humble" else {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}  # fmt: skip
    return {"ROS_DOMAIN_ID": str(1 + os.getpid() % 100), **discovery}


def run_chain(out: Path, checkpoint: Path, device: str, rate: float) -> None:
    """Play ``out/bag`` to the node and record it: three processes, until the node has dealt with every frame.

    Args:
        out: folder with ``bag`` and ``logs``; ``recording`` is written there.
        checkpoint: the node's network.
        device: where it runs.
        rate: of the replay.

    Raises:
        ProgramError: a program ended early or failed, or the node did not get ready; one line that names its log.
    """
    environment, logs = _environment(), out / "logs"
    parameters = {
        "checkpoint": checkpoint.resolve(),
        "device": device,
        "use_sim_time": "true",
        "diagnostics.period_s": DIAGNOSTICS_PERIOD_S,
    }
    if not GENUINE["tf2_msgs"]:
        parameters["calibration_file"] = (out / "bag" / CALIBRATION_FILE).resolve()
    arguments = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
    images = [f"/{camera.image_topic}" for camera in camera_names(Settings())]
    waits = [text for topic in (*images, CLOUD_TOPIC) for text in ("--wait-for", topic)]
    play = ["gsrender_ros.replay_player", str(out / "bag"), "--rate", f"{rate:.6f}", *waits]
    os.environ.update(environment)
    prepare_environment()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    programs: list[Program] = []

    def start(name: str, command: list[str]) -> Program:
        programs.append(Program(name, command, logs, environment))
        return programs[-1]

    monitor = _NodeMonitor()
    try:
        node = start("occupancy_node", ["gsrender_ros.occupancy_node", "--ros-args", *arguments])
        recorder = start("recorder", ["gsrender_ros.recorder", str(out / "recording"), *RECORDED_TOPICS])
        logger.info("starting occupancy_node (log: %s)", node.log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not monitor.received:
            _spin(monitor, [node, recorder])
            if time.monotonic() > deadline:
                raise node.error(f"is not ready after {START_TIMEOUT_S:.0f} s")
        player = start("replay_player", play)
        logger.info("playing at %.2f times the recorded speed", rate)
        while not player.ended:
            _spin(monitor, [node, recorder])
        player.check_success()
        _settle(monitor, [node, recorder])
        for program in (node, recorder):
            if program.stop() != 0:
                raise program.error("did not end cleanly")
    finally:
        for program in programs:
            program.stop()
        monitor.destroy_node()
        rclpy.try_shutdown()


def _spin(monitor: _NodeMonitor, programs: list[Program]) -> None:
    rclpy.spin_once(monitor, timeout_sec=0.2)
    for program in programs:
        program.check()


def _settle(monitor: _NodeMonitor, programs: list[Program]) -> None:
    """Wait until no frame is under way any more, or nothing has happened for ``SETTLE_S``."""
    first, fate, since = monitor.received, monitor.fate, time.monotonic()
    while time.monotonic() - since < SETTLE_S:
        _spin(monitor, programs)
        if monitor.fate != fate:
            fate, since = monitor.fate, time.monotonic()
        # Two whole periods after the last image: what is pending now would be known.
        if monitor.received > first + 2 and fate[0] != "0" and fate[2] == "0":
            return
