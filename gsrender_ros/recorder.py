"""Records topics into a rosbag2 (mcap), where ``ros2 bag record`` is not installed.

    python -m gsrender_ros.recorder BAG TOPIC... [--duration S] [--max-messages N]

Topics are subscribed to as soon as somebody publishes them. SIGINT or SIGTERM ends the recording properly.
"""

import argparse
import logging
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gsrender_ros.bag_messages import LATCHED
from gsrender_ros.bag_reading import message_class
from gsrender_ros.environment import prepare_environment
from gsrender_ros.nuscenes_to_bag import BAG_VERSION
from gsrender_ros.ros_arguments import start_rclpy, without_ros_arguments
from gsrender_ros.stop_signal import StopSignal

DISCOVERY_PERIOD_S = 0.1
QUEUE_DEPTH = 100


class Recorder(Node):
    """Writes every message of the given topics, as serialised, with the time of its arrival.

    Args:
        writer: an open bag writer.
        topics: absolute topic names.
    """

    def __init__(self, writer: Writer, topics: list[str], **node_options):
        super().__init__("recorder", **node_options)
        self._writer = writer
        self._missing = set(topics)
        self._typestore = get_typestore(Stores.ROS2_HUMBLE)
        self.recorded: Counter = Counter()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(DISCOVERY_PERIOD_S, self._discover, clock=steady)

    @property
    def missing(self) -> list[str]:
        """Topics that nobody has published so far."""
        return sorted(self._missing)

    def _discover(self) -> None:
        if not self._missing:
            return
        for topic, types in self.get_topic_names_and_types():
            if topic in self._missing and self.count_publishers(topic):
                self._missing.discard(topic)
                self._subscribe(topic, types[0])

    def _subscribe(self, topic: str, type_name: str) -> None:
        if type_name not in self._typestore.fielddefs:
            self.get_logger().warning(f"{topic}: type {type_name} has no known definition, not recorded")
            return
        try:
            kind = message_class(type_name)
        except (ImportError, AttributeError) as error:
            self.get_logger().warning(f"{topic}: type {type_name} is not installed ({error}), not recorded")
            return
        qos = self._matching_qos(topic)
        # Else it would be played to those alone who are there before it begins.
        offered = [LATCHED] if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL else []
        connection = self._writer.add_connection(
            topic, type_name, typestore=self._typestore, offered_qos_profiles=offered
        )
        self.create_subscription(kind, topic, lambda data: self._write(connection, data), qos, raw=True)

    def _matching_qos(self, topic: str) -> QoSProfile:
        """What every publisher of the topic offers: asking for more would get nothing."""
        offered = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        reliable = all(qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered)
        latched = all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
        return QoSProfile(
            depth=QUEUE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _write(self, connection, data: bytes) -> None:
        self._writer.write(connection, time.time_ns(), data)
        self.recorded[connection.topic] += 1


def record(bag: Path, topics: list[str], duration_s: float, max_messages: int) -> Counter:
    """Record until a limit is reached or a signal arrives; returns the number of messages a topic.

    Raises:
        OSError: the bag exists (FileExistsError), or cannot be written.
    """
    if bag.exists():
        raise FileExistsError(f"{bag} exists already; choose another name or remove it")
    bag.parent.mkdir(parents=True, exist_ok=True)
    stop = StopSignal()
    end = time.monotonic() + duration_s
    with Writer(bag, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        recorder = Recorder(writer, topics)
        try:
            while not stop and time.monotonic() < end and recorder.recorded.total() < max_messages:
                rclpy.spin_once(recorder, timeout_sec=0.1)
            if recorder.missing:
                recorder.get_logger().warning(f"nobody published {', '.join(recorder.missing)}")
            return recorder.recorded
        finally:
            recorder.destroy_node()


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="recorder", description="Record topics into a rosbag2 (mcap).")
    parser.add_argument("bag", type=Path, help="folder to write")
    parser.add_argument("topics", nargs="+", help="absolute topic names")
    parser.add_argument("--duration", type=float, default=float("inf"), metavar="S", help="end after S seconds")
    parser.add_argument("--max-messages", type=int, default=sys.maxsize, metavar="N", help="end after N messages")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bag")
    given = parser.parse_args(arguments)
    relative = [topic for topic in given.topics if not topic.startswith("/")]
    if relative:
        parser.error(f"topic names must be absolute: write /{relative[0]} instead of {relative[0]}")
    if not given.duration > 0:  # refuses nan as well
        parser.error(f"--duration is {given.duration:g} s, must be positive")
    if given.max_messages <= 0:
        parser.error(f"--max-messages is {given.max_messages}, must be positive")
    return given


def main(args: list[str] | None = None) -> int:
    """Record; 1 when that fails or a limited recording received nothing, 2 for wrong arguments."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(name)s: %(message)s")
    logger = logging.getLogger("recorder")
    args = list(sys.argv if args is None else args)
    try:
        given = _arguments(without_ros_arguments(args)[1:])
        prepare_environment()
        # Our own handlers finish the bag; rclpy's would shut the context down under the writer.
        start_rclpy(args)
    except ValueError as error:
        logger.error("%s", error)
        return 1
    try:
        if given.overwrite and (given.bag / "metadata.yaml").is_file():
            shutil.rmtree(given.bag)
        recorded = record(given.bag, given.topics, given.duration, given.max_messages)
    except FileExistsError as error:
        logger.error("%s", error)
        return 1
    except OSError as error:
        logger.error("cannot write %s: %s; choose a folder that can be written", given.bag, error)
        return 1
    finally:
        rclpy.try_shutdown()
    if not recorded.total():
        logger.warning("%s: nothing was recorded; are %s published?", given.bag, ", ".join(given.topics))
        limited = given.duration < float("inf") or given.max_messages < sys.maxsize
        return 1 if limited else 0
    counts = ", ".join(f"{topic} {count}" for topic, count in sorted(recorded.items()))
    logger.info("%s: %s", given.bag, counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
