"""Where every camera stood when it fired: extrinsics at each image's own stamp, from the transform buffer."""

import re
import time

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.time import Time

from gsrender_ros.frame_assembly import RigPose
from gsrender_ros.standins import TransformException, quaternion_from_matrix, quaternion_matrix
from gsrender_ros.statistics import FrameDropped

POLL_S = 0.005  # transforms arrive at 10 to 200 Hz; tf2's own wait sleeps 20 ms at a time
# Within the tens of milliseconds between cameras, smaller steps are noise of a localisation.
_SMALLEST_JUMP_M = 1.0
# What tf2 says of a stamp before all that it has: no transform that is still to come changes that.
_TOO_EARLY = "extrapolation into the past"


def matrix_from_message(message: TransformStamped) -> np.ndarray:
    """``T_parent_child`` float64 [4, 4] of a TransformStamped."""
    rotation, translation = message.transform.rotation, message.transform.translation
    T = quaternion_matrix([rotation.x, rotation.y, rotation.z, rotation.w])
    T[:3, 3] = translation.x, translation.y, translation.z
    return T


def message_from_matrix(T_parent_child: np.ndarray, parent: str, child: str, stamp_ns: int = 0) -> TransformStamped:
    """TransformStamped of ``T_parent_child`` [4, 4]."""
    message = TransformStamped()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id, message.child_frame_id = parent, child
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = (float(v) for v in T_parent_child[:3, 3])
    rotation.x, rotation.y, rotation.z, rotation.w = (float(v) for v in quaternion_from_matrix(T_parent_child))
    return message


def known_frames(buffer) -> list[str]:
    """Names of all frames that a buffer has transforms for, parents included."""
    text = buffer.all_frames_as_yaml()
    children = re.findall(r"^([^\s:\[{][^:]*):", text, flags=re.MULTILINE)
    parents = re.findall(r"parent: *'([^']*)'", text)
    return sorted(set(children) | set(parents))


class TransformLookup:
    """Looks rig poses up in a tf2 buffer. For the worker thread only: it waits.

    Args:
        buffer: tf2_ros Buffer or its stand-in.
        ego_frame, fixed_frame: vehicle frame, and the frame in which the world stands still.
        wait_s: longest wait for one rig pose, in wall time (simulated time may stand still).
        max_speed_mps: a vehicle that seems to move faster between two cameras was moved by its localisation.
    """

    def __init__(self, buffer, ego_frame: str, fixed_frame: str, wait_s: float, max_speed_mps: float = 100.0):
        self._buffer = buffer
        self.ego_frame = ego_frame
        self.fixed_frame = fixed_frame
        self._wait_s = wait_s
        self._max_speed_mps = max_speed_mps

    def rig_pose(self, stamp_ns: int, cameras: list[tuple[str, int]], cancelled=lambda: False) -> RigPose:
        """Pose of the rig at ``stamp_ns``, every camera (frame, its own stamp in ns) where it stood when it fired.

        Transforms that may still come are waited for, what lies before all that is known is not.

        Raises:
            FrameDropped: no_tf, names the frames, the stamp, the wait and the frames that exist; pose_jump, how far.
        """
        deadline = time.monotonic() + self._wait_s
        T_ego_cam = [
            self._look_up(deadline, cancelled, self.ego_frame, stamp_ns, frame, camera_ns)
            for frame, camera_ns in cameras
        ]
        T_global_ego = self._look_up(deadline, cancelled, self.fixed_frame, stamp_ns, self.ego_frame, stamp_ns)
        for camera_ns in {min(at_ns for _, at_ns in cameras), max(at_ns for _, at_ns in cameras)} - {stamp_ns}:
            T_ego_then = self._look_up(deadline, cancelled, self.ego_frame, stamp_ns, self.ego_frame, camera_ns)
            self._check_motion(float(np.linalg.norm(T_ego_then[:3, 3])), camera_ns, stamp_ns)
        return RigPose(np.stack(T_ego_cam), T_global_ego)

    def _look_up(self, deadline, cancelled, target, target_ns, source, source_ns) -> np.ndarray:
        while True:
            try:
                return matrix_from_message(
                    self._buffer.lookup_transform_full(
                        target, Time(nanoseconds=target_ns), source, Time(nanoseconds=source_ns), self.fixed_frame
                    )
                )
            except TransformException as error:
                now = time.monotonic()
                if now >= deadline or cancelled() or _TOO_EARLY in str(error):
                    waited_s = self._wait_s - max(0.0, deadline - now)
                    known = ", ".join(known_frames(self._buffer)) or "none; is anything publishing /tf and /tf_static?"
                    raise FrameDropped(
                        "no_tf",
                        f"No transform {target} <- {source} at {source_ns / 1e9:.3f} (waited {waited_s:.2f} s, "
                        f"through {self.fixed_frame}): {str(error).strip()} Known: {known}.",
                    ) from error
            time.sleep(POLL_S)

    def _check_motion(self, distance_m: float, camera_ns: int, stamp_ns: int) -> None:
        limit_m = max(_SMALLEST_JUMP_M, self._max_speed_mps * abs(stamp_ns - camera_ns) / 1e9)
        if distance_m > limit_m:
            raise FrameDropped(
                "pose_jump",
                f"{self.ego_frame} moved by {distance_m:.1f} m in {self.fixed_frame} between {camera_ns / 1e9:.3f} and "
                f"{stamp_ns / 1e9:.3f} (limit {limit_m:.1f} m, tf.max_speed_mps={self._max_speed_mps:g}): its "
                "localisation jumped; a frame of odometry that is continuous (frames.fixed:=odom) does not",
            )
