"""Many subscribers of the node's outputs, or slow ones: ``python -m gsrender_ros.trials.subscribers COUNT SLEEP_S``."""

import sys
import time

import rclpy
from rclpy.executors import ExternalShutdownException

from gsrender_ros.environment import prepare_environment
from gsrender_ros.trials.trial import LATCHED, TOPICS


def main(arguments: list[str] | None = None) -> int:
    """Subscribe COUNT times to every output and sleep SLEEP_S at every message, until the process is ended."""
    count, sleep_s = int((arguments or sys.argv[1:])[0]), float((arguments or sys.argv[1:])[1])
    prepare_environment()
    rclpy.init()
    node = rclpy.create_node("subscribers")
    for topic, kind in TOPICS.items():
        for _ in range(count):
            node.create_subscription(kind, f"/occupancy_node/{topic}", lambda _: time.sleep(sleep_s), LATCHED, raw=True)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
