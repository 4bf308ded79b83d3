"""The recent messages of one topic by stamp: for streams that are matched with the images of a frame."""

import threading
from bisect import bisect_left

LONGEST = 64


class StampedMessages:
    """Keeps the newest messages; filled by one thread, read by another.

    Args:
        topic: its name, for explanations.
        mark: of a message as it comes; which marks have been seen is in ``marks``.
        limit: messages that are kept.
    """

    def __init__(self, topic: str, mark=lambda message: None, limit: int = LONGEST):
        self.topic, self._mark, self._limit = topic, mark, limit
        self.marks: set = set()
        self._lock = threading.Lock()
        self._stamps: list[int] = []  # rising
        self._messages: list[tuple] = []  # message and mark
        self.received = 0

    def add(self, stamp_ns: int, message) -> None:
        """Take a message; the one with the smallest stamp goes when there are too many."""
        mark = self._mark(message)
        with self._lock:
            self.received += 1
            self.marks.add(mark)
            at = bisect_left(self._stamps, stamp_ns)
            self._stamps.insert(at, stamp_ns)
            self._messages.insert(at, (message, mark))
            if len(self._stamps) > self._limit:
                del self._stamps[0], self._messages[0]

    def clear(self) -> None:
        """Forget all: time jumped back."""
        with self._lock:
            self._stamps, self._messages = [], []

    def reaches(self, stamp_ns: int) -> bool:
        """Whether a message of this stamp or a later one has come: the nearest is then known."""
        with self._lock:
            return bool(self._stamps) and self._stamps[-1] >= stamp_ns

    def nearest(self, stamp_ns: int, mark=None) -> tuple[int, object] | None:
        """Stamp and message nearest in time, the earlier of two as near; with ``mark`` of those that have it.

        None where there is none.
        """
        with self._lock:
            having = [i for i, (_, m) in enumerate(self._messages) if mark is None or m == mark]
            if not having:
                return None
            at = min(having, key=lambda i: abs(self._stamps[i] - stamp_ns))
            return self._stamps[at], self._messages[at][0]
