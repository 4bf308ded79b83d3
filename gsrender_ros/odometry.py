"""Odometry messages as transforms: checked, and with the jumps that localisations make."""

import numpy as np
from geometry_msgs.msg import TransformStamped

from gsrender_ros.image_conversions import stamp_to_ns
from gsrender_ros.odometry_rules import JumpRule, pose_problem


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
        self._rule = JumpRule(max_speed_mps)
        self._logger = logger
        self._said: set[str] = set()
        self.refused = 0
        self.jumps = 0

    def clear(self) -> None:
        """Forget the last pose: time jumped back."""
        self._rule.clear()

    def __call__(self, message) -> tuple[TransformStamped | None, bool]:
        """The transform of an Odometry message, None where it holds none; and whether it is a jump."""
        pose = message.pose.pose
        position = np.array([pose.position.x, pose.position.y, pose.position.z])
        quaternion = (pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w)
        stamp_ns = stamp_to_ns(message.header.stamp)
        problem = pose_problem(message.header.frame_id, stamp_ns, position, quaternion)
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
        return transform, self._jumped(stamp_ns, position)

    def _jumped(self, stamp_ns: int, position: np.ndarray) -> bool:
        text = self._rule(stamp_ns, position)
        if not text:
            return False
        self.jumps += 1
        self._logger.warning(f"{text}: poses before the jump are forgotten", throttle_duration_sec=5.0)
        return True

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._logger.warning(text)
