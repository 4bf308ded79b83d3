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
    """

    def __init__(self, buffer, ego_frame: str, fixed_frame: str, wait_s: float):
        self._buffer = buffer
        self.ego_frame = ego_frame
        self.fixed_frame = fixed_frame
        self._wait_s = wait_s

    def rig_pose(self, stamp_ns: int, cameras: list[tuple[str, int]], cancelled=lambda: False) -> RigPose:
        """Pose of the rig at ``stamp_ns``, every camera (frame, its own stamp in ns) where it stood when it fired.

        Raises:
            FrameDropped: reason no_tf; names the frames, the stamp, the wait and the frames that exist.
        """
        started = time.monotonic()
        deadline = started + self._wait_s
        T_ego_cam = [
            self._look_up(deadline, cancelled, self.ego_frame, stamp_ns, frame, camera_ns)
            for frame, camera_ns in cameras
        ]
        T_global_ego = self._look_up(deadline, cancelled, self.fixed_frame, stamp_ns, self.ego_frame, stamp_ns)
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
                if time.monotonic() >= deadline or cancelled():
                    known = ", ".join(known_frames(self._buffer)) or "none; is anything publishing /tf and /tf_static?"
                    raise FrameDropped(
                        "no_tf",
                        f"No transform {target} <- {source} at {source_ns / 1e9:.3f} (waited {self._wait_s:.2f} s, "
                        f"through {self.fixed_frame}): {str(error).strip()} Known: {known}.",
                    ) from error
            time.sleep(POLL_S)
