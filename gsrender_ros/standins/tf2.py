"""Stand-in for ``tf2_ros``: ``TransformTree`` with tf2's calls, messages and waits, and a lock around it."""

import threading
import time as wall_time

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.time import Time

from gsrender_core.geometry import quaternion_from_rotation
from gsrender_ros.standins.tf2_listener import TransformListener
from gsrender_ros.transform_history import (
    ConnectivityException,
    ExtrapolationException,
    LookupException,
    TransformException,
    seconds,
)
from gsrender_ros.transform_tree import TransformTree

__all__ = [
    "Buffer",
    "ConnectivityException",
    "ExtrapolationException",
    "LookupException",
    "TransformException",
    "TransformListener",
]

DEFAULT_CACHE_S = 10.0
COMPLAINT_PERIOD_S = 5.0


class Buffer:
    """Stores transforms and looks them up; ``Buffer(cache_time=Duration, node=Node)`` as in tf2_ros."""

    def __init__(self, cache_time: Duration | None = None, node=None):
        self._tree = TransformTree(int(DEFAULT_CACHE_S * 1e9) if cache_time is None else cache_time.nanoseconds)
        self._node = node
        self._lock = threading.RLock()
        self._complained_at: dict[str, float] = {}

    def set_transform(self, transform: TransformStamped, authority: str = "default_authority") -> None:
        """Add a transform with a history. What is invalid or too old is refused with a logged reason."""
        self._set(transform, authority, static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str = "default_authority") -> None:
        """Add a transform that holds at all times."""
        self._set(transform, authority, static=True)

    def _set(self, transform: TransformStamped, authority: str, static: bool) -> None:
        parent = transform.header.frame_id.lstrip("/")
        child = transform.child_frame_id.lstrip("/")
        t, q = transform.transform.translation, transform.transform.rotation
        translation, quaternion = (t.x, t.y, t.z), (q.x, q.y, q.z, q.w)
        problem = TransformTree.problem(parent, child, translation, quaternion)
        if problem:
            if self._may_complain(child):
                get_logger("tf2_buffer").error(f"TF ignored: {parent!r} -> {child!r} from {authority}: {problem}")
            return
        stamp_ns = transform.header.stamp.sec * 1_000_000_000 + transform.header.stamp.nanosec
        with self._lock:
            inserted = self._tree.add((parent, child), stamp_ns, (translation, quaternion), static)
            if not inserted and self._may_complain(child):
                get_logger("tf2_buffer").warning(
                    f"TF_OLD_DATA ignoring data from the past for frame {child} at time {seconds(stamp_ns)} "
                    f"according to authority {authority}"
                )

    def _may_complain(self, child: str) -> bool:
        """Once a period and frame; rclpy's own throttle forgets with every logger that ``get_logger`` makes."""
        with self._lock:
            now = wall_time.monotonic()
            if now - self._complained_at.get(child, -COMPLAINT_PERIOD_S) < COMPLAINT_PERIOD_S:
                return False
            self._complained_at[child] = now
            return True

    def clear(self) -> None:
        """Forget all histories; static transforms and the names of frames stay, as in tf2."""
        with self._lock:
            self._tree.clear()

    def all_frames_as_yaml(self) -> str:
        """The known child frames with parent and span, one YAML line each ("[]" when there are none)."""
        with self._lock:
            lines = [
                f"{child}: {{parent: '{h.values[-1][0]}', oldest_transform: {seconds(h.stamps[0])}, "
                f"most_recent_transform: {seconds(h.stamps[-1])}}}"
                for child, h in self._tree.histories()
            ]
        return "\n".join(lines) + "\n" if lines else "[]"

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration | None = None
    ) -> TransformStamped:
        """Transform that maps points of ``source_frame`` to ``target_frame`` at ``time`` (0: latest common).

        Blocks up to ``timeout`` (wall time).

        Raises:
            LookupException, ConnectivityException, ExtrapolationException: as tf2.
        """
        self._wait(timeout, lambda: self._lookup(target_frame, source_frame, time.nanoseconds))
        T, stamp_ns = self._lookup(target_frame, source_frame, time.nanoseconds)
        return _message(T, target_frame, source_frame, stamp_ns)

    def lookup_transform_full(  # noqa: PLR0913 (signature of the genuine call)
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration | None = None,
    ) -> TransformStamped:
        """Transform from ``source_frame`` at ``source_time`` to ``target_frame`` at ``target_time``.

        Goes through ``fixed_frame``, taken as constant in time in between. Raises as ``lookup_transform``.
        """

        def look_up():
            T_fixed_source, _ = self._lookup(fixed_frame, source_frame, source_time.nanoseconds)
            T_target_fixed, stamp_ns = self._lookup(target_frame, fixed_frame, target_time.nanoseconds)
            return T_target_fixed @ T_fixed_source, stamp_ns

        self._wait(timeout, look_up)
        T, stamp_ns = look_up()
        return _message(T, target_frame, source_frame, stamp_ns)

    def can_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration | None = None,
        return_debug_tuple: bool = False,
    ):
        """Whether ``lookup_transform`` would succeed; with ``return_debug_tuple`` also the reason."""
        self._wait(timeout, lambda: self._lookup(target_frame, source_frame, time.nanoseconds))
        try:
            self._lookup(target_frame, source_frame, time.nanoseconds)
        except TransformException as error:
            return (False, str(error)) if return_debug_tuple else False
        return (True, "") if return_debug_tuple else True

    @staticmethod
    def _wait(timeout: Duration | None, look_up) -> None:
        if timeout is None or timeout.nanoseconds <= 0:
            return
        end = wall_time.monotonic() + timeout.nanoseconds / 1e9
        while wall_time.monotonic() < end:
            try:
                look_up()
                return
            except TransformException:
                wall_time.sleep(0.02)

    def _lookup(self, target: str, source: str, stamp_ns: int) -> tuple[np.ndarray, int]:
        with self._lock:
            return self._tree.look_up(target, source, stamp_ns)


def _message(T: np.ndarray, target: str, source: str, stamp_ns: int) -> TransformStamped:
    message = TransformStamped()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id, message.child_frame_id = target, source
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = (float(v) for v in T[:3, 3])
    rotation.w, rotation.x, rotation.y, rotation.z = (float(v) for v in quaternion_from_rotation(T[:3, :3]))
    return message
