"""Stand-in for ``message_filters``: subscriber filter and approximate-time synchroniser.

Follows the calls of ros2/message_filters' Python module (BSD-3-Clause), written anew; the matching rule is
``stamp_matching``'s.
"""

import threading

from rclpy.clock import ROSClock
from rclpy.logging import get_logger

from gsrender_ros.stamp_matching import StampMatcher


class SimpleFilter:
    """A source of messages that others connect to with ``registerCallback``."""

    def __init__(self):
        self.callbacks = {}

    def registerCallback(self, cb, *args):  # noqa: N802 (name of the genuine call)
        """Call ``cb(*messages, *args)`` for every output; returns the connection's number."""
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *msg):  # noqa: N802
        """Hand one output to everything connected."""
        for cb, args in list(self.callbacks.values()):
            cb(*(msg + args))


class Subscriber(SimpleFilter):
    """A ROS 2 subscription as a filter: ``Subscriber(node, type, topic, qos_profile=..., **create_subscription's)``."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.node, self.topic = args[0], args[2]
        kwargs.setdefault("qos_profile", 10)
        self.sub = self.node.create_subscription(*args[1:], self.callback, **kwargs)

    def callback(self, msg):
        """Pass one message on."""
        self.signalMessage(msg)

    def getTopic(self):  # noqa: N802
        """Name of the topic as it was asked for."""
        return self.topic


class ApproximateTimeSynchronizer(SimpleFilter):
    """Call back with one message of every filter whose header stamps lie less than ``slop`` seconds apart.

    Args:
        fs: filters (anything with ``registerCallback``).
        queue_size: messages kept of each filter.
        slop: largest distance of stamps in a set, seconds, exclusive.
        allow_headerless: give messages without a header the current ROS time instead of ignoring them.
    """

    def __init__(self, fs, queue_size, slop, allow_headerless=False):
        super().__init__()
        self.matcher = StampMatcher(len(fs), queue_size, int(slop * 1e9))
        self.allow_headerless = allow_headerless
        self.lock = threading.Lock()
        self.queues = self.matcher.queues
        self.input_connections = [
            f.registerCallback(self.add, queue, index)
            for index, (f, queue) in enumerate(zip(fs, self.queues, strict=True))
        ]

    def _stamp_ns(self, msg):
        header = getattr(msg, "header", None)
        if header is not None and hasattr(header, "stamp"):
            return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        return ROSClock().now().nanoseconds if self.allow_headerless else None

    def add(self, msg, my_queue, my_queue_index=None):
        """Take one message of the input whose queue is given; signals the set it completes, if any."""
        stamp = self._stamp_ns(msg)
        if stamp is None:
            get_logger("message_filters_approx").warning(
                "a message without header cannot be synchronised; set allow_headerless to use its arrival time"
            )
            return
        index = next(n for n, queue in enumerate(self.queues) if queue is my_queue)
        with self.lock:
            messages = self.matcher.add(index, stamp, msg)
            if messages is not None:
                self.signalMessage(*messages)
