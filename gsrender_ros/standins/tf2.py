"""Stand-in for ``tf2_ros``: a transform buffer in Python with tf2's rules, texts and exceptions.

Every frame but a root keeps the history of its transform to its parent, sorted by stamp. A look-up walks
up from source and target to their common ancestor; between two stamps translation is interpolated
linearly and rotation by slerp; outside the history it is refused, never extrapolated.
"""

import threading
import time as wall_time

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.time import Time

from gsrender_core.geometry import quaternion_from_rotation
from gsrender_ros.standins.tf2_history import (
    ConnectivityException,
    ExtrapolationException,
    History,
    LookupException,
    TransformException,
    matrix,
    seconds,
)
from gsrender_ros.standins.tf2_listener import TransformListener

__all__ = [
    "Buffer",
    "ConnectivityException",
    "ExtrapolationException",
    "LookupException",
    "TransformException",
    "TransformListener",
]

DEFAULT_CACHE_S = 10.0
MAX_GRAPH_DEPTH = 1000
COMPLAINT_PERIOD_S = 5.0


class Buffer:
    """Stores transforms and looks them up; ``Buffer(cache_time=Duration, node=Node)`` as in tf2_ros."""

    def __init__(self, cache_time: Duration | None = None, node=None):
        self._cache_ns = int(DEFAULT_CACHE_S * 1e9) if cache_time is None else cache_time.nanoseconds
        self._node = node
        self._frames: dict[str, History] = {}
        self._parents: set[str] = set()
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
        norm = float(np.linalg.norm(quaternion))
        problem = ""
        if not parent or not child or parent == child:
            problem = "frame_id and child_frame_id must be set and differ"
        elif not np.isfinite(translation).all() or not np.isfinite(norm):
            problem = "the transform holds a value that is not finite"
        elif abs(norm - 1.0) > 1e-2:
            problem = f"the quaternion has norm {norm:.4f}, expected 1"
        if problem:
            if self._may_complain(child):
                get_logger("tf2_buffer").error(f"TF ignored: {parent!r} -> {child!r} from {authority}: {problem}")
            return
        stamp_ns = transform.header.stamp.sec * 1_000_000_000 + transform.header.stamp.nanosec
        with self._lock:
            history = self._frames.get(child)
            if history is None or history.static != static:
                history = self._frames[child] = History(static)
            self._parents.add(parent)
            inserted = history.insert(stamp_ns, (parent, translation, quaternion), self._cache_ns)
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
            for history in self._frames.values():
                if not history.static:
                    history.stamps, history.values = [], []

    def all_frames_as_yaml(self) -> str:
        """The known child frames with parent and span, one YAML line each ("[]" when there are none)."""
        with self._lock:
            lines = [
                f"{child}: {{parent: '{h.values[-1][0]}', oldest_transform: {seconds(h.stamps[0])}, "
                f"most_recent_transform: {seconds(h.stamps[-1])}}}"
                for child, h in sorted(self._frames.items())
                if h.stamps
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
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            for role, frame in (("target_frame", target), ("source_frame", source)):
                if frame not in self._frames and frame not in self._parents:
                    raise LookupException(f'"{frame}" passed to lookupTransform argument {role} does not exist. ')
            if target == source:
                return np.eye(4), stamp_ns
            if stamp_ns == 0:
                stamp_ns = self._latest_common(target, source)
            return self._walk(target, source, stamp_ns), stamp_ns

    def _chain(self, frame: str, stamp_ns: int) -> tuple[dict[str, np.ndarray], ExtrapolationException | None]:
        """``T_ancestor_frame`` for the frame itself and every ancestor that can be reached at the stamp."""
        reached = {frame: np.eye(4)}
        T, start = np.eye(4), frame
        while frame in self._frames:
            try:
                value = self._frames[frame].at(stamp_ns)
            except ExtrapolationException as error:
                return reached, error
            if len(reached) > MAX_GRAPH_DEPTH or value[0] in reached:
                raise LookupException(f"The tf tree is invalid because it contains a loop around {start!r}.")
            T = matrix(value) @ T
            frame = value[0]
            reached[frame] = T
        return reached, None

    def _walk(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        from_source, source_error = self._chain(source, stamp_ns)
        from_target, target_error = self._chain(target, stamp_ns)
        for frame, T_common_source in from_source.items():  # ordered from the source upwards: nearest first
            if frame in from_target:
                return np.linalg.inv(from_target[frame]) @ T_common_source
        error = target_error or source_error
        if error is not None:
            raise ExtrapolationException(
                f"{error}, when looking up transform from frame [{source}] to frame [{target}]"
            )
        raise ConnectivityException(
            f"Could not find a connection between '{target}' and '{source}' because they are not part of the "
            "same tree.Tf has two or more unconnected trees."
        )

    def _latest_common(self, target: str, source: str) -> int:
        """Latest stamp at which every non-static link between two frames exists (0 when all are static)."""
        above_source, above_target = self._links(source), self._links(target)
        shared = [frame for frame, _ in above_source if frame in dict(above_target)]
        top = shared[0] if shared else None
        stamps = []
        for links in (above_source, above_target):
            for frame, latest in links:
                if frame == top:
                    break
                if latest is not None:
                    stamps.append(latest)
        return min(stamps, default=0)

    def _links(self, frame: str) -> list[tuple[str, int | None]]:
        """The frame and its ancestors with the latest stamp of the link upwards (None: static or root)."""
        links = []
        while len(links) <= MAX_GRAPH_DEPTH:
            history = self._frames.get(frame)
            if history is None or not history.stamps:
                links.append((frame, None))
                break
            links.append((frame, None if history.static else history.stamps[-1]))
            frame = history.values[-1][0]
        return links


def _message(T: np.ndarray, target: str, source: str, stamp_ns: int) -> TransformStamped:
    message = TransformStamped()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id, message.child_frame_id = target, source
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = (float(v) for v in T[:3, 3])
    rotation.w, rotation.x, rotation.y, rotation.z = (float(v) for v in quaternion_from_rotation(T[:3, :3]))
    return message
