"""The frames before the current one, for networks that look back (``view.history``, ``view.stereo``)."""

import numpy as np

from gsrender_core.data.frame import Frame


class FrameHistory:
    """Keeps processed frames and finds those about ``interval_s`` apart; one thread.

    The network learnt from frames at a fixed interval (nuScenes' keyframes: 0.5 s). Only frames between half
    and twice of it apart count as consecutive; where there is none, the network does without, as at the start of
    a recording, and so with frames of other cameras: stereo compares each camera with itself.

    Args:
        count: how many frames the network looks back; 0 keeps nothing.
        interval_s: between consecutive frames, s.
        max_speed_mps: frames further apart than this speed explains are not of one drive: the pose has jumped.
    """

    def __init__(self, count: int, interval_s: float, max_speed_mps: float = 100.0):
        self._max_speed_mps = max_speed_mps
        self.count, self.interval_ns = count, round(interval_s * 1e9)
        self._frames: list[Frame] = []  # newest first

    def before(self, frame: Frame) -> list[Frame]:
        """At most ``count`` frames before ``frame``, newest first, each the nearest to ``interval_s`` earlier."""
        found: list[Frame] = []
        same = [f for f in self._frames if f.camera_names == frame.camera_names and self._continues(f, frame)]
        while len(found) < self.count:
            wanted_ns = (found[-1] if found else frame).stamp_ns - self.interval_ns
            fitting = [f for f in same if -self.interval_ns <= f.stamp_ns - wanted_ns <= self.interval_ns / 2]
            if not fitting:
                break
            found.append(min(fitting, key=lambda f: abs(f.stamp_ns - wanted_ns)))
        return found

    def _continues(self, earlier: Frame, later: Frame) -> bool:
        distance_m = np.linalg.norm((later.T_global_ego - earlier.T_global_ego)[:3, 3])
        return distance_m <= self._max_speed_mps * (later.stamp_ns - earlier.stamp_ns) / 1e9

    def add(self, frame: Frame) -> None:
        """Keep a frame that has been processed; frames too old to be found again go."""
        if self.count == 0:
            return
        # Half the interval apart at least: images at full rate would fill the memory.
        if self._frames and 2 * (frame.stamp_ns - self._frames[0].stamp_ns) < self.interval_ns:
            return
        self._frames.insert(0, frame)
        oldest_ns = frame.stamp_ns - 2 * (self.count + 1) * self.interval_ns
        self._frames = [f for f in self._frames if f.stamp_ns >= oldest_ns]

    def clear(self) -> None:
        """Forget everything: time jumped back, or poses do not continue."""
        self._frames = []
