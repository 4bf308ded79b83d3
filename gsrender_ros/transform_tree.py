"""A tree of frames with histories and tf2's look-up rules, without ROS: for bags, and inside the stand-in of tf2.

Every frame but a root keeps the history of its transform to its parent, sorted by stamp. A look-up walks
up from source and target to their common ancestor; between two stamps translation is interpolated
linearly and rotation by slerp; outside the history it is refused, never extrapolated.
"""

import numpy as np

from gsrender_ros.transform_history import (
    ConnectivityException,
    ExtrapolationException,
    History,
    LookupException,
    matrix,
)

MAX_GRAPH_DEPTH = 1000
FOREVER_NS = 2**62


class TransformTree:
    """Transforms of any number of frames over time.

    Args:
        cache_ns: history that is kept behind the newest stamp of a frame; default all.
    """

    def __init__(self, cache_ns: int = FOREVER_NS):
        self._cache_ns = cache_ns
        self._frames: dict[str, History] = {}
        self._parents: set[str] = set()

    @staticmethod
    def problem(parent: str, child: str, translation: tuple, quaternion: tuple) -> str:
        """Why a transform cannot be used; empty where it can."""
        norm = float(np.linalg.norm(quaternion))
        if not parent or not child or parent == child:
            return "frame_id and child_frame_id must be set and differ"
        if not np.isfinite(translation).all() or not np.isfinite(norm):
            return "the transform holds a value that is not finite"
        if norm < 1e-9:  # any other length is normalised, as tf2 does
            return "the quaternion is zero, expected norm 1"
        return ""

    def add(self, link: tuple[str, str], stamp_ns: int, value: tuple[tuple, tuple], static: bool = False) -> bool:
        """Add the transform of ``link`` = (parent, child), checked by ``problem``; a static one holds at all times.

        Args:
            link: names without a leading slash.
            stamp_ns: of the transform.
            value: translation (x, y, z) m and quaternion (x, y, z, w) of ``T_parent_child``.
            static: replaces whatever was known of the child.

        Returns:
            False where it is older than the history reaches.
        """
        parent, child = link
        history = self._frames.get(child)
        if history is None or history.static != static:
            history = self._frames[child] = History(static)
        self._parents.add(parent)
        return history.insert(stamp_ns, (parent, *value), self._cache_ns)

    def apart_from(self, child: str) -> "TransformTree":
        """A tree of the same histories, which both then share, but with none of ``child`` to its parent."""
        tree = TransformTree(self._cache_ns)
        tree._frames = {name: history for name, history in self._frames.items() if name != child}
        tree._parents = set(self._parents)
        return tree

    def clear(self) -> None:
        """Forget all histories; static transforms and the names of frames stay, as in tf2."""
        for history in self._frames.values():
            if not history.static:
                history.stamps, history.values = [], []

    def histories(self) -> list[tuple[str, History]]:
        """Child frames in alphabetical order with their histories, those without a transform left out."""
        return [(child, history) for child, history in sorted(self._frames.items()) if history.stamps]

    def frames(self) -> list[str]:
        """Names of all frames, parents included."""
        return sorted({child for child, _ in self.histories()} | self._parents)

    def look_up(self, target: str, source: str, stamp_ns: int) -> tuple[np.ndarray, int]:
        """``T_target_source`` float64 [4, 4] at a stamp (0: the latest common one) and that stamp.

        Raises:
            LookupException, ConnectivityException, ExtrapolationException: as tf2.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        for role, frame in (("target_frame", target), ("source_frame", source)):
            if frame not in self._frames and frame not in self._parents:
                raise LookupException(f'"{frame}" passed to lookupTransform argument {role} does not exist. ')
        if target == source:
            return np.eye(4), stamp_ns
        if stamp_ns == 0:
            stamp_ns = self._latest_common(target, source)
        return self._walk(target, source, stamp_ns), stamp_ns

    def look_up_full(self, target: tuple[str, int], source: tuple[str, int], fixed: str) -> np.ndarray:
        """``T_target_source`` float64 [4, 4] between (frame, stamp in ns) pairs, through a frame that stands still.

        Raises:
            LookupException, ConnectivityException, ExtrapolationException: as tf2.
        """
        T_fixed_source, _ = self.look_up(fixed, *source)
        T_target_fixed, _ = self.look_up(target[0], fixed, target[1])
        return T_target_fixed @ T_fixed_source

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
