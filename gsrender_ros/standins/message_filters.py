"""Stand-in for ``message_filters``: subscriber filter and approximate-time synchroniser.

Follows the calls and the matching rule of ros2/message_filters' Python module (BSD-3-Clause), written
anew on integer nanoseconds: a set holds one message of every input, their stamps lie less than
``slop`` apart, every message is used at most once, and a queue that is full drops its smallest stamp.
"""

import itertools
import threading

from rclpy.clock import ROSClock
from rclpy.logging import get_logger


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
        self.queue_size = queue_size
        self.slop_ns = int(slop * 1e9)
        self.allow_headerless = allow_headerless
        self.lock = threading.Lock()
        self.queues = [{} for _ in fs]
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
        with self.lock:
            my_queue[stamp] = msg
            while len(my_queue) > self.queue_size:
                del my_queue[min(my_queue)]
            if stamp not in my_queue:
                return
            chosen = self._match(stamp, my_queue)
            if chosen is None:
                return
            messages = [queue.pop(key) for queue, key in zip(self.queues, chosen, strict=True)]
            self.signalMessage(*messages)

    def _match(self, stamp, my_queue):
        """Stamps of the set around a new message, nearest first, or None."""
        candidates = []
        for queue in self.queues:
            if queue is my_queue:
                candidates.append([stamp])
                continue
            near = sorted((s for s in queue if abs(s - stamp) <= self.slop_ns), key=lambda s: abs(s - stamp))
            if not near:
                return None
            candidates.append(near)
        for stamps in itertools.product(*candidates):
            if max(stamps) - min(stamps) < self.slop_ns:
                return stamps
        return None
