"""What enters a tf2 buffer, so that it stays usable when time jumps."""

import threading
import time
from dataclasses import dataclass, field

from gsrender_ros.image_conversions import stamp_to_ns
from gsrender_ros.stragglers import BACKWARD_JUMP_NS, Stragglers

REFUSALS = 3  # in a row; fewer may be a late message
# How long transforms of a new time are kept for a buffer that is still to be cleared: the clock, the images and the
# transforms of one jump arrive one after the other.
NEW_TIME_S = 2.0


@dataclass
class _Child:
    """What is known of the transforms of one frame: newest stamp in the buffer, and since its stamps went back:
    the transforms, when the first came, the last stamp, and how many of them in a row the buffer must have refused.
    """

    newest_ns: int
    last_ns: int
    anew: list = field(default_factory=list)
    anew_at: float = 0.0
    refused: int = 0


class TransformGate:
    """Stands between a tf2 buffer and what fills it; safe to use from several threads.

    tf2 refuses every transform older than the newest one of its frame by more than its cache. So one of the time before
    a jump that arrives after ``clear``, or one stamp far in the future, would silence all that follow it, for as long
    as time needs to get there; and within the cache, poses would be interpolated towards it. Therefore stragglers
    of a jump are kept out, and a frame of which ``REFUSALS`` transforms in a row are too old is believed: the buffer is
    cleared. What came of the new time before the jump was noticed is not lost by clearing.

    Args:
        buffer: tf2_ros Buffer or its stand-in.
        cache_ns: its cache.
        logger: an rclpy logger.
    """

    def __init__(self, buffer, cache_ns: int, logger):
        self._buffer, self._cache_ns, self._logger = buffer, cache_ns, logger
        self._lock = threading.Lock()
        self._children: dict[str, _Child] = {}
        self._stragglers = Stragglers()

    def set_transform_static(self, transform, authority: str = "default_authority") -> None:
        """Hand on a transform that holds at all times."""
        self._buffer.set_transform_static(transform, authority)

    def set_transform(self, transform, authority: str = "default_authority") -> None:
        """Hand on a transform with a history, unless it is of the time before a jump."""
        name, stamp_ns = transform.child_frame_id.lstrip("/"), stamp_to_ns(transform.header.stamp)
        with self._lock:
            if stamp_ns == 0:  # says nothing of the time
                self._buffer.set_transform(transform, authority)
                return
            if self._stragglers.holds(name, stamp_ns):
                return
            child = self._children.setdefault(name, _Child(stamp_ns, stamp_ns))
            self._follow(child, stamp_ns, (transform, authority))
            if child.refused < REFUSALS:
                self._insert(name, stamp_ns, (transform, authority))
                return
            newest_ns = child.newest_ns
            self._clear(stamp_ns)
        self._logger.warning(
            f"the last {REFUSALS} transforms of {name} are {(newest_ns - stamp_ns) / 1e9:.1f} s older than one before "
            f"them (at {newest_ns / 1e9:.3f}; tf.cache_s={self._cache_ns / 1e9:g}): time jumped back, or that stamp "
            "was wrong; all transforms before are forgotten"
        )

    def clear(self, after_ns: int | None = None) -> None:
        """Forget all histories; static transforms stay, as in tf2.

        Args:
            after_ns: the new time, where time jumped back: what has already arrived of it is kept.
        """
        with self._lock:
            self._clear(after_ns)

    def _follow(self, child: _Child, stamp_ns: int, entry: tuple) -> None:
        """Keep account of stamps that went back."""
        now = time.monotonic()
        if stamp_ns < child.last_ns - BACKWARD_JUMP_NS:
            child.anew, child.anew_at = [entry], now
        elif child.anew and now - child.anew_at < NEW_TIME_S:
            child.anew.append(entry)
        else:
            child.anew = []
        child.last_ns = stamp_ns
        child.refused = child.refused + 1 if stamp_ns < child.newest_ns - self._cache_ns else 0

    def _insert(self, name: str, stamp_ns: int, entry: tuple) -> None:
        child = self._children[name]
        child.newest_ns = max(child.newest_ns, stamp_ns)
        self._buffer.set_transform(*entry)

    def _clear(self, after_ns: int | None) -> None:
        children, self._children = self._children, {}
        self._buffer.clear()
        if after_ns is None or not children:
            return
        before_ns = max(child.newest_ns for child in children.values())
        divide_ns, now = (before_ns + after_ns) // 2, time.monotonic()
        waited_for = []
        for name, child in children.items():
            stamped = [(stamp_to_ns(entry[0].header.stamp), entry) for entry in child.anew]
            kept = [pair for pair in stamped if pair[0] <= divide_ns] if now - child.anew_at < NEW_TIME_S else []
            for stamp_ns, entry in kept:
                self._children.setdefault(name, _Child(stamp_ns, stamp_ns)).last_ns = stamp_ns
                self._insert(name, stamp_ns, entry)
            if not kept:
                waited_for.append(name)
        self._stragglers.begin(waited_for, before_ns, after_ns)
