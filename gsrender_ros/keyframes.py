"""Which complete sets of images become frames of a data set: one rule for bags that are read and for replays."""

import numpy as np

from gsrender_core.bag_config import BagConfig

# Cameras trigger a little early or late: an interval counts as passed a tenth before its end.
TOLERANCE = 0.1


class KeyframeRule:
    """Takes sets in the order of their stamps, and says which to use.

    A set is used when ``keyframe_interval_s`` has passed since the last one that was used, and the vehicle has moved
    ``keyframe_distance_m``. ``due`` looks at the stamp alone, before poses are looked up.
    """

    def __init__(self, config: BagConfig):
        self.config = config
        self._last_ns: int | None = None
        self._last_at: np.ndarray | None = None

    def due(self, stamp_ns: int) -> bool:
        """Whether enough time has passed."""
        if self._last_ns is None or stamp_ns < self._last_ns:
            return True
        return stamp_ns - self._last_ns >= (1 - TOLERANCE) * self.config.keyframe_interval_s * 1e9

    def moved(self, T_global_ego: np.ndarray) -> bool:
        """Whether the vehicle is far enough from where it was."""
        if self._last_at is None:
            return True
        return float(np.linalg.norm(T_global_ego[:3, 3] - self._last_at)) >= self.config.keyframe_distance_m

    def use(self, stamp_ns: int, T_global_ego: np.ndarray) -> None:
        """Count from here on."""
        self._last_ns, self._last_at = stamp_ns, T_global_ego[:3, 3].copy()

    def restart(self) -> None:
        """Forget: time jumped back."""
        self._last_ns = self._last_at = None
