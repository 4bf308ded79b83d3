"""Stand-in for ``tf_transformations``: quaternion helpers (xyzw) over ``transforms3d`` (wxyz)."""

import numpy as np
from transforms3d import quaternions

from gsrender_ros.transform_history import quaternion_slerp

__all__ = ["quaternion_from_matrix", "quaternion_matrix", "quaternion_slerp"]


def quaternion_matrix(quaternion) -> np.ndarray:
    """Homogeneous rotation matrix float64 [4, 4] of a quaternion (x, y, z, w)."""
    x, y, z, w = quaternion
    matrix = np.identity(4)
    matrix[:3, :3] = quaternions.quat2mat((w, x, y, z))
    return matrix


def quaternion_from_matrix(matrix) -> np.ndarray:
    """Unit quaternion (x, y, z, w) float64 [4] of a homogeneous matrix [4, 4]."""
    w, x, y, z = quaternions.mat2quat(np.asarray(matrix, dtype=np.float64)[:3, :3])
    return np.array([x, y, z, w])
