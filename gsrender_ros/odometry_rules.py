"""Which poses of an odometry are used: one rule for topics and for bags that are read. No rclpy."""

import numpy as np

# Below it, a step is noise whatever the time between two messages.
_SMALLEST_JUMP_M = 1.0
_NORM_LIMIT = 1e-2  # tf2's own


def pose_problem(frame_id: str, stamp_ns: int, position: np.ndarray, quaternion: tuple[float, ...]) -> str:
    """Why a pose (position m, quaternion xyzw) cannot be used; empty where it can."""
    norm = float(np.linalg.norm(quaternion))
    if stamp_ns == 0:
        return "its stamp is 0"
    if not frame_id.strip("/"):
        return "its frame_id is empty"
    if not np.isfinite(position).all() or not np.isfinite(norm):
        return f"its pose is not finite: position {np.asarray(position).tolist()}, orientation xyzw {list(quaternion)}"
    if abs(norm - 1) > _NORM_LIMIT:
        return f"its orientation xyzw {list(quaternion)} is no rotation: norm {norm:.4f}, expected 1"
    return ""


class JumpRule:
    """Takes poses in the order in which they come and says which do not continue the ones before.

    Args:
        max_speed_mps: a pose further away than this speed explains is a jump.
    """

    def __init__(self, max_speed_mps: float):
        self.max_speed_mps = max_speed_mps
        self._last: tuple[int, np.ndarray] | None = None

    def clear(self) -> None:
        """Forget the last pose: time jumped back."""
        self._last = None

    def __call__(self, stamp_ns: int, position: np.ndarray) -> str:
        """What jumped, in words; empty where the pose continues the last one."""
        last, self._last = self._last, (stamp_ns, position)
        if last is None or stamp_ns <= last[0]:
            return ""  # time that goes back is noticed elsewhere
        distance_m = float(np.linalg.norm(position - last[1]))
        seconds = (stamp_ns - last[0]) / 1e9
        if distance_m <= max(_SMALLEST_JUMP_M, self.max_speed_mps * seconds):
            return ""
        return (
            f"Odometry jumped by {distance_m:.1f} m within {seconds:.3f} s "
            f"(limit tf.max_speed_mps={self.max_speed_mps:g})"
        )
