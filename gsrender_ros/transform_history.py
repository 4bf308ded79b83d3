"""History of one transform over time, as tf2 keeps it: interpolation inside, refusal outside. No ROS."""

import bisect

import numpy as np

from gsrender_core.geometry import rotation_from_quaternion


class TransformException(Exception):
    """Base of all look-up failures."""


class LookupException(TransformException):
    """A frame does not exist."""


class ConnectivityException(TransformException):
    """The frames belong to different trees."""


class ExtrapolationException(TransformException):
    """The moment lies outside the stored history."""


def quaternion_slerp(quat0, quat1, fraction) -> np.ndarray:
    """Quaternion (x, y, z, w) at ``fraction`` of the shorter great arc from ``quat0`` to ``quat1``."""
    q0 = np.asarray(quat0, dtype=np.float64)
    q1 = np.asarray(quat1, dtype=np.float64)
    q0, q1 = q0 / np.linalg.norm(q0), q1 / np.linalg.norm(q1)
    cosine = float(q0 @ q1)
    if cosine < 0.0:  # q and -q turn alike: take the nearer of the two
        q1, cosine = -q1, -cosine
    if cosine > 1.0 - 1e-10:  # too close for the sine's quotient: the chord is the arc
        q = q0 + fraction * (q1 - q0)
        return q / np.linalg.norm(q)
    angle = np.arccos(cosine)
    return (np.sin((1.0 - fraction) * angle) * q0 + np.sin(fraction * angle) * q1) / np.sin(angle)


def seconds(stamp_ns: int) -> str:
    """A stamp as text in seconds."""
    return f"{stamp_ns / 1e9:.6f}"


class History:
    """Transforms of one frame to its parents over time: (parent, translation, quaternion xyzw) sorted by stamp."""

    def __init__(self, static: bool):
        self.static = static
        self.stamps: list[int] = []
        self.values: list[tuple] = []

    def insert(self, stamp_ns: int, value: tuple, cache_ns: int) -> bool:
        """Add a value, or replace the one of the same stamp; False when it is older than the cache reaches."""
        if self.static:
            self.stamps, self.values = [stamp_ns], [value]
            return True
        if self.stamps and stamp_ns < self.stamps[-1] - cache_ns:
            return False
        at = bisect.bisect_right(self.stamps, stamp_ns)
        if at and self.stamps[at - 1] == stamp_ns:
            self.values[at - 1] = value
            return True
        self.stamps.insert(at, stamp_ns)
        self.values.insert(at, value)
        old = bisect.bisect_left(self.stamps, self.stamps[-1] - cache_ns)
        if old:
            del self.stamps[:old], self.values[:old]
        return True

    def at(self, stamp_ns: int) -> tuple:
        """(parent, translation, quaternion) at a stamp; 0 means the latest. Raises ExtrapolationException."""
        if not self.stamps:
            raise ExtrapolationException(
                f"Lookup would require extrapolation at time {seconds(stamp_ns)}, but the buffer is empty"
            )
        if self.static or stamp_ns == 0:
            return self.values[-1]
        first, last = self.stamps[0], self.stamps[-1]
        if first == last and stamp_ns != first:
            raise ExtrapolationException(
                f"Lookup would require extrapolation at time {seconds(stamp_ns)}, "
                f"but only time {seconds(first)} is in the buffer"
            )
        if stamp_ns > last:
            raise ExtrapolationException(
                f"Lookup would require extrapolation into the future.  Requested time {seconds(stamp_ns)} "
                f"but the latest data is at time {seconds(last)}"
            )
        if stamp_ns < first:
            raise ExtrapolationException(
                f"Lookup would require extrapolation into the past.  Requested time {seconds(stamp_ns)} "
                f"but the earliest data is at time {seconds(first)}"
            )
        index = bisect.bisect_right(self.stamps, stamp_ns) - 1
        if self.stamps[index] == stamp_ns or self.values[index][0] != self.values[index + 1][0]:
            return self.values[index]
        older, newer = self.values[index], self.values[index + 1]
        ratio = (stamp_ns - self.stamps[index]) / (self.stamps[index + 1] - self.stamps[index])
        translation = [a + ratio * (b - a) for a, b in zip(older[1], newer[1], strict=True)]
        return older[0], translation, quaternion_slerp(older[2], newer[2], ratio)


def matrix(value: tuple) -> np.ndarray:
    """``T_parent_frame`` float64 [4, 4] of a (parent, translation, quaternion xyzw)."""
    _, translation, (x, y, z, w) = value
    T = np.eye(4)
    T[:3, :3] = rotation_from_quaternion((w, x, y, z))
    T[:3, 3] = translation
    return T
