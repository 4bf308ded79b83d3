"""Stand-in for ``tf_transformations``: quaternion helpers (xyzw) over ``transforms3d`` (wxyz)."""

import numpy as np
from transforms3d import quaternions


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
