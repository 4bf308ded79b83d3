"""Odometry messages as transforms: checked, and with the jumps that localisations make."""

import numpy as np
from geometry_msgs.msg import TransformStamped

from gsrender_ros.image_conversions import stamp_to_ns

# Below it, a step is noise whatever the time between two messages.
_SMALLEST_JUMP_M = 1.0
_NORM_LIMIT = 1e-2  # tf2's own


class OdometryTransforms:
    """Turns Odometry into transforms of ``frames.ego`` in the odometry's frame.

    Args:
        ego_frame: the vehicle's frame; taken where ``child_frame_id`` is empty, as some publishers leave it.
        max_speed_mps: a pose further away than this speed explains is a jump.
        logger: an rclpy logger.

    Attributes:
        refused: how many messages held no pose.
        jumps: how many poses did not continue the ones before.
    """

    def __init__(self, ego_frame: str, max_speed_mps: float, logger):
        self._ego_frame = ego_frame.lstrip("/")
        self._max_speed_mps = max_speed_mps
        self._logger = logger
        self._said: set[str] = set()
        self._last: tuple[int, np.ndarray] | None = None
        self.refused = 0
        self.jumps = 0

    def clear(self) -> None:
        """Forget the last pose: time jumped back."""
        self._last = None

    def __call__(self, message) -> tuple[TransformStamped | None, bool]:
        """The transform of an Odometry message, None where it holds none; and whether it is a jump."""
        pose = message.pose.pose
        position = np.array([pose.position.x, pose.position.y, pose.position.z])
        quaternion = (pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w)
        problem = _problem(message.header, position, quaternion)
        if problem:
            self.refused += 1
            self._logger.warning(
                f"Odometry is not used ({self.refused} so far): {problem}; repair its publisher",
                throttle_duration_sec=5.0,
            )
            return None, False
        child = message.child_frame_id.lstrip("/")
        if not child:
            self._say_once(f"Odometry without child_frame_id: taken as the pose of frames.ego '{self._ego_frame}'")
        elif child != self._ego_frame:
            self._say_once(
                f"Odometry is the pose of '{child}', frames.ego is '{self._ego_frame}': the two must be connected on "
                f"/tf or /tf_static; if they are the same, set frames.ego:={child}"
            )
        transform = TransformStamped(header=message.header, child_frame_id=child or self._ego_frame)
        translation = transform.transform.translation
        translation.x, translation.y, translation.z = (float(value) for value in position)
        transform.transform.rotation = pose.orientation
        return transform, self._jumped(stamp_to_ns(message.header.stamp), position)

    def _jumped(self, stamp_ns: int, position: np.ndarray) -> bool:
        last, self._last = self._last, (stamp_ns, position)
        if last is None or stamp_ns <= last[0]:
            return False  # time that goes back is noticed elsewhere
        distance_m = float(np.linalg.norm(position - last[1]))
        seconds = (stamp_ns - last[0]) / 1e9
        if distance_m <= max(_SMALLEST_JUMP_M, self._max_speed_mps * seconds):
            return False
        self.jumps += 1
        self._logger.warning(
            f"Odometry jumped by {distance_m:.1f} m within {seconds:.3f} s (limit tf.max_speed_mps="
            f"{self._max_speed_mps:g}): poses before the jump are forgotten",
            throttle_duration_sec=5.0,
        )
        return True

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._logger.warning(text)


def _problem(header, position: np.ndarray, quaternion: tuple[float, ...]) -> str:
    norm = float(np.linalg.norm(quaternion))
    if stamp_to_ns(header.stamp) == 0:
        return "its stamp is 0"
    if not header.frame_id.strip("/"):
        return "its frame_id is empty"
    if not np.isfinite(position).all() or not np.isfinite(norm):
        return f"its pose is not finite: position {position.tolist()}, orientation xyzw {list(quaternion)}"
    if abs(norm - 1) > _NORM_LIMIT:
        return f"its orientation xyzw {list(quaternion)} is no rotation: norm {norm:.4f}, expected 1"
    return ""
