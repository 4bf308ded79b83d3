"""After time jumped back (a looped bag), messages of the time before may still arrive: which are they?"""

import time
from collections.abc import Iterable

# A topic's stamps may arrive slightly out of order; further back than this, time itself went back.
BACKWARD_JUMP_NS = 200_000_000
# How long after a jump messages of the time before may arrive, in wall time.
STRAGGLER_S = 1.0


class Stragglers:
    """Tells the messages of the time before a jump from those after it, source by source.

    The first message of the new time ends it for its source, ``STRAGGLER_S`` for all.
    """

    def __init__(self):
        self._waited_for: set = set()
        self._divide_ns = 0
        self._over_at = 0.0

    def begin(self, sources: Iterable, before_ns: int, after_ns: int) -> None:
        """Time jumped back from ``before_ns`` to ``after_ns``; a step within the usual disorder is none."""
        if before_ns - after_ns > BACKWARD_JUMP_NS:
            self._waited_for = set(sources)
            self._divide_ns = (before_ns + after_ns) // 2
            self._over_at = time.monotonic() + STRAGGLER_S

    def holds(self, source, stamp_ns: int) -> bool:
        """Whether a message of a source is of the time before."""
        if source not in self._waited_for:
            return False
        if stamp_ns > self._divide_ns and time.monotonic() < self._over_at:
            return True
        self._waited_for.discard(source)
        return False
