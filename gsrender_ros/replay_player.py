"""Plays a rosbag2 as topics and /clock, where ``ros2 bag play`` is not installed.

Messages go out as the bytes that the bag holds. Latched topics (/tf_static) are played first, whatever
the start offset. While playing, ``~/pause`` (std_srvs/SetBool) stops and continues messages and /clock.

    python -m gsrender_ros.replay_player BAG [--rate R] [--loop] [--start S] [--delay S] [--wait-for TOPIC]
        [--wait-timeout S] [--clock [HZ]]
"""

import argparse
import contextlib
import logging
import sqlite3
import sys
import time
from collections import Counter
from dataclasses import dataclass

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader, ReaderError
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool

from gsrender_ros.bag_reading import BagError, first_line, message_class, open_bag
from gsrender_ros.environment import prepare_environment
from gsrender_ros.ros_arguments import explain_name, start_rclpy, without_ros_arguments
from gsrender_ros.stop_signal import StopSignal

CLOCK_HZ = 100.0
LONGEST_S = 1e9
WAIT_TIMEOUT_S = 60.0
DRAIN_S = 2.0
SERVICE_PERIOD_S = 0.02  # how often a pause may be asked for while messages are behind their time


@dataclass(frozen=True)
class PlayOptions:
    """How a bag is played.

    Attributes:
        rate: speed; 2.0 plays twice as fast as recorded.
        loop: start again at the end, with /clock jumping back.
        start_s: offset of the first message, seconds from the bag's start.
        delay_s: wait before playing, for subscribers to be discovered.
        wait_for: topics that must have a subscriber before playing starts.
        wait_timeout_s: how long to wait for them; played anyway then, with a warning.
        clock_hz: /clock ticks so often between two messages, in wall time, and with every message.
    """

    rate: float = 1.0
    loop: bool = False
    start_s: float = 0.0
    delay_s: float = 1.0
    wait_for: tuple[str, ...] = ()
    wait_timeout_s: float = WAIT_TIMEOUT_S
    clock_hz: float = CLOCK_HZ

    def __post_init__(self):
        if not 0.001 <= self.rate <= 1000.0:
            raise ValueError(f"rate is {self.rate:g}, must lie in 0.001 to 1000")
        if not 1.0 <= self.clock_hz <= 1000.0:
            raise ValueError(f"clock is {self.clock_hz:g} Hz, must lie in 1 to 1000 Hz")
        for name in ("start_s", "delay_s", "wait_timeout_s"):
            value = getattr(self, name)
            if not 0.0 <= value <= LONGEST_S:  # refuses nan as well
                raise ValueError(
                    f"{name[:-2].replace('_', '-')} is {value:g} s, must be finite and lie in 0 to {LONGEST_S:g} s"
                )


class ReplayPlayer(Node):
    """Publishes the messages of an open bag in time.

    Topics whose type is not installed are left out: ``skipped`` counts their messages.
    """

    def __init__(self, reader: Reader, options: PlayOptions, stop=False, **node_options):
        super().__init__("replay_player", **node_options)
        self._stop = stop  # anything that turns true
        self._reader = reader
        self._options = options
        self.paused = False
        self._paused_s = 0.0  # so much later than planned since the start of this round
        self._served_at = 0.0
        self._service = self.create_service(SetBool, "~/pause", self._on_pause)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10)
        self.published: Counter = Counter()
        self.skipped: Counter = Counter()
        self._publishers_by_topic: dict[str, object] = {}
        self._latched: set[str] = set()
        for connection in reader.connections:
            if connection.topic == "/clock":
                continue  # ours follows rate and loop
            try:
                kind = message_class(connection.msgtype)
            except (ImportError, AttributeError, ValueError) as error:
                self.skipped[connection.topic] += connection.msgcount
                self.get_logger().warning(
                    f"{connection.topic}: {connection.msgcount} messages skipped, "
                    f"type {connection.msgtype} is not installed ({error})"
                )
                continue
            if connection.topic not in self._publishers_by_topic:
                self._publishers_by_topic[connection.topic] = self._publisher(connection, kind)

    def _publisher(self, connection, kind):
        offered = getattr(connection.ext, "offered_qos_profiles", None) or []
        latched = connection.topic == "/tf_static" or any(
            qos.durability == QosDurability.TRANSIENT_LOCAL for qos in offered
        )
        if latched:
            self._latched.add(connection.topic)
        qos = QoSProfile(
            depth=100 if connection.topic.startswith("/tf") else 10,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        return self.create_publisher(kind, connection.topic, qos)

    def _on_pause(self, request, response):
        self.paused = request.data
        response.success, response.message = True, "paused" if request.data else "playing"
        return response

    def play(self) -> None:
        """Play to the end, or for ever when looping; ends early when ``stop`` turns true.

        Raises:
            BagError: the storage is damaged behind its beginning.
        """
        start_ns = self._reader.start_time + int(self._options.start_s * 1e9)
        if start_ns > self._reader.end_time:
            raise BagError(
                f"start offset {self._options.start_s:g} s lies behind the bag's end "
                f"({(self._reader.end_time - self._reader.start_time) / 1e9:.1f} s)"
            )
        self._wait_for_subscribers()
        try:
            self._play_latched(start_ns)
            while not self._stop:
                self._play_once(start_ns)
                self._drain()
                if self._stop or not self._options.loop:
                    return
                self.get_logger().info("end of the bag: starting again")
        except (ReaderError, sqlite3.Error, OSError, ValueError) as error:
            count = self.published.total()
            raise BagError(f"{self._reader.path} is damaged behind {count} messages: {first_line(error)}") from error

    def _play_latched(self, start_ns: int) -> None:
        connections = [c for c in self._reader.connections if c.topic in self._latched]
        if connections:
            for connection, _, data in self._reader.messages(connections=connections, stop=start_ns):
                self._publish(connection.topic, data)

    def _play_once(self, start_ns: int) -> None:
        began, self._paused_s = time.monotonic(), 0.0
        connections = [c for c in self._reader.connections if c.topic in self._publishers_by_topic]
        if not connections:
            raise BagError(f"{self._reader.path} holds no topic whose type is installed")
        for connection, stamp_ns, data in self._reader.messages(connections=connections, start=start_ns):
            self._sleep_until(began, start_ns, stamp_ns)
            if self._stop:
                return
            self._publish_clock(stamp_ns)
            self._publish(connection.topic, data)

    def _sleep_until(self, began: float, start_ns: int, stamp_ns: int) -> None:
        """Sleep up to a message's moment and keep /clock ticking meanwhile."""
        period_s = 1.0 / self._options.clock_hz
        while not self._stop:
            planned = began + self._paused_s + (stamp_ns - start_ns) / 1e9 / self._options.rate
            wait_s = planned - time.monotonic()
            if wait_s > 0 or self.paused or time.monotonic() - self._served_at > SERVICE_PERIOD_S:
                self._serve(min(max(wait_s, 0.0), period_s))
            if self.paused:
                self._wait_while_paused()
                continue
            if wait_s <= 0:
                return
            if wait_s > period_s:
                self._publish_clock(stamp_ns - int((wait_s - period_s) * self._options.rate * 1e9))

    def _serve(self, timeout_s: float) -> None:
        """Answer who asks for a pause, for so long."""
        end = time.monotonic() + timeout_s
        while True:
            self._executor.spin_once(timeout_sec=max(0.0, end - time.monotonic()))
            self._served_at = time.monotonic()
            if self.paused or self._served_at >= end:
                return

    def _wait_while_paused(self) -> None:
        since = time.monotonic()
        while self.paused and not self._stop:
            self._executor.spin_once(timeout_sec=0.1)
        self._paused_s += time.monotonic() - since

    def _publish(self, topic: str, data) -> None:
        self._publishers_by_topic[topic].publish(bytes(data))
        self.published[topic] += 1

    def _publish_clock(self, stamp_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(stamp_ns, 1_000_000_000)
        self._clock_publisher.publish(message)

    def _wait_for_subscribers(self) -> None:
        deadline = time.monotonic() + self._options.wait_timeout_s
        missing = list(self._options.wait_for)
        while not self._stop and missing and time.monotonic() < deadline:
            missing = [topic for topic in missing if not self.count_subscribers(topic)]
            time.sleep(0.05)
        if missing:
            self.get_logger().warning(
                f"nobody subscribes to {', '.join(missing)} after {self._options.wait_timeout_s:g} s: playing anyway"
            )
        end = time.monotonic() + self._options.delay_s
        while not self._stop and time.monotonic() < end:
            time.sleep(0.02)

    def _drain(self) -> None:
        """Let reliable subscribers receive what is under way, before the end or a jump back."""
        if self._stop:
            return
        for publisher in self._publishers_by_topic.values():
            publisher.wait_for_all_acked(Duration(seconds=DRAIN_S))


def _options(arguments: list[str]) -> tuple[str, PlayOptions]:
    parser = argparse.ArgumentParser(prog="replay_player", description="Play a rosbag2 as topics and /clock.")
    parser.add_argument("bag", help="folder of the bag")
    parser.add_argument("--rate", type=float, default=1.0, help="speed, 1 = as recorded")
    parser.add_argument("--loop", action="store_true", help="start again at the end")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="offset of the first message, seconds")
    parser.add_argument("--delay", type=float, default=1.0, metavar="S", help="wait before playing, seconds")
    parser.add_argument(
        "--wait-for", action="append", default=[], metavar="TOPIC", help="wait until TOPIC is subscribed to"
    )
    parser.add_argument("--wait-timeout", type=float, default=WAIT_TIMEOUT_S, metavar="S", help="longest wait, seconds")
    parser.add_argument(
        "--clock",
        type=float,
        nargs="?",
        default=CLOCK_HZ,
        const=CLOCK_HZ,
        metavar="HZ",
        help=f"rate of /clock, which is always published; default {CLOCK_HZ:g}",
    )
    given = parser.parse_args(arguments)
    try:
        return given.bag, PlayOptions(
            rate=given.rate,
            loop=given.loop,
            start_s=given.start,
            delay_s=given.delay,
            wait_for=tuple(given.wait_for),
            wait_timeout_s=given.wait_timeout,
            clock_hz=given.clock,
        )
    except ValueError as error:
        parser.error(str(error))


def main(args: list[str] | None = None) -> int:
    """Play until the end, SIGINT or SIGTERM; 1 when the bag cannot be played, 2 for wrong arguments."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(name)s: %(message)s")
    logger = logging.getLogger("replay_player")
    prepare_environment()
    args = list(sys.argv if args is None else args)
    player = None
    try:
        bag, options = _options(without_ros_arguments(args)[1:])
        with contextlib.closing(open_bag(bag)) as reader:
            start_rclpy(args)
            player = ReplayPlayer(reader, options, StopSignal())
            player.play()
            logger.info("%d messages published, %d skipped", player.published.total(), player.skipped.total())
    except (BagError, ValueError) as error:
        logger.error("%s", error)
        return 1
    except NameValidationException as error:
        logger.error("%s", explain_name(error))
        return 1
    finally:
        if player is not None:
            player.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
