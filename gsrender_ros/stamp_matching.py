"""The matching rule of ros2/message_filters' approximate synchroniser on integer nanoseconds, without ROS.

A set holds one item of every input, their stamps lie less than ``slop`` apart, every item is used at most once,
and a queue that is full drops its smallest stamp.
"""

import itertools


class StampMatcher:
    """Finds sets of items whose stamps lie close together, as they come in.

    Args:
        inputs: how many there are.
        queue_size: items kept of each input.
        slop_ns: largest distance of stamps in a set, exclusive.
    """

    def __init__(self, inputs: int, queue_size: int, slop_ns: int):
        self.queue_size, self.slop_ns = queue_size, slop_ns
        self.queues: list[dict] = [{} for _ in range(inputs)]

    def add(self, index: int, stamp_ns: int, item) -> tuple | None:
        """Take an item of input ``index``; the items of the set that it completes, or None."""
        queue = self.queues[index]
        queue[stamp_ns] = item
        while len(queue) > self.queue_size:
            del queue[min(queue)]
        if stamp_ns not in queue:
            return None
        chosen = self._match(index, stamp_ns)
        if chosen is None:
            return None
        return tuple(q.pop(key) for q, key in zip(self.queues, chosen, strict=True))

    def _match(self, index: int, stamp_ns: int) -> tuple[int, ...] | None:
        """Stamps of the set around a new item, nearest first, or None."""
        candidates = []
        for number, queue in enumerate(self.queues):
            if number == index:
                candidates.append([stamp_ns])
                continue
            near = sorted((s for s in queue if abs(s - stamp_ns) <= self.slop_ns), key=lambda s: abs(s - stamp_ns))
            if not near:
                return None
            candidates.append(near)
        for stamps in itertools.product(*candidates):
            if max(stamps) - min(stamps) < self.slop_ns:
                return stamps
        return None
