"""The recent messages of one topic by stamp: for streams that are matched with the images of a frame."""

import threading
from bisect import bisect_left

LONGEST = 64


class StampedMessages:
    """Keeps the newest messages; filled by one thread, read by another.

    Args:
        topic: its name, for explanations.
        limit: messages that are kept.
    """

    def __init__(self, topic: str, limit: int = LONGEST):
        self.topic, self._limit = topic, limit
        self._lock = threading.Lock()
        self._stamps: list[int] = []  # rising
        self._messages: list = []
        self.received = 0

    def add(self, stamp_ns: int, message) -> None:
        """Take a message; the one with the smallest stamp goes when there are too many."""
        with self._lock:
            self.received += 1
            at = bisect_left(self._stamps, stamp_ns)
            self._stamps.insert(at, stamp_ns)
            self._messages.insert(at, message)
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

    def nearest(self, stamp_ns: int) -> tuple[int, object] | None:
        """Stamp and message nearest in time, the earlier of two as near; None where there is none."""
        with self._lock:
            if not self._stamps:
                return None
            at = min(range(len(self._stamps)), key=lambda i: abs(self._stamps[i] - stamp_ns))
            return self._stamps[at], self._messages[at]
