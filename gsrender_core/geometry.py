"""Rigid transforms, quaternions (wxyz) and pinhole intrinsics in numpy.

``T_dst_src`` is a 4x4 matrix that maps points of frame ``src`` to frame ``dst``:
``p_dst = T_dst_src @ p_src``. Metres, right-handed; camera frames look along +z, x right, y down.
"""

import numpy as np


def rotation_from_quaternion(wxyz) -> np.ndarray:
    """Rotation matrix float64 [3, 3] of a quaternion (w, x, y, z), which is normalised first.

    Raises:
        ValueError: the quaternion has no direction (norm about 0) or is not finite.
    """
    q = np.asarray(wxyz, dtype=np.float64)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-9:
        raise ValueError(f"quaternion {q.tolist()} has norm {norm:.3g}; expected about 1")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(R: np.ndarray) -> np.ndarray:
    """Unit quaternion (w, x, y, z) float64 [4] of a rotation matrix [3, 3], w >= 0."""
    R = np.asarray(R, dtype=np.float64)
    # The largest of the four squared components keeps the division well conditioned.
    squares = np.array(
        [
            1 + R[0, 0] + R[1, 1] + R[2, 2],
            1 + R[0, 0] - R[1, 1] - R[2, 2],
            1 - R[0, 0] + R[1, 1] - R[2, 2],
            1 - R[0, 0] - R[1, 1] + R[2, 2],
        ]
    )
    largest = int(np.argmax(squares))
    rows = (
        (squares[0], R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]),
        (R[2, 1] - R[1, 2], squares[1], R[0, 1] + R[1, 0], R[0, 2] + R[2, 0]),
        (R[0, 2] - R[2, 0], R[0, 1] + R[1, 0], squares[2], R[1, 2] + R[2, 1]),
        (R[1, 0] - R[0, 1], R[0, 2] + R[2, 0], R[1, 2] + R[2, 1], squares[3]),
    )
    q = np.array(rows[largest])
    q /= np.linalg.norm(q)
    return q if q[0] >= 0 else -q


def transform(rotation, translation) -> np.ndarray:
    """``T`` float64 [4, 4] of a rotation (matrix [3, 3] or quaternion wxyz [4]) and a translation [3] in metres."""
    rotation = np.asarray(rotation, dtype=np.float64)
    T = np.eye(4)
    T[:3, :3] = rotation if rotation.shape == (3, 3) else rotation_from_quaternion(rotation)
    T[:3, 3] = translation
    return T


def inverse(T: np.ndarray) -> np.ndarray:
    """Inverse of rigid transforms [..., 4, 4]: ``T_src_dst`` of ``T_dst_src``."""
    T = np.asarray(T)
    R_t = np.swapaxes(T[..., :3, :3], -1, -2)
    out = np.zeros_like(T)
    out[..., :3, :3] = R_t
    out[..., :3, 3] = -np.einsum("...ij,...j->...i", R_t, T[..., :3, 3])
    out[..., 3, 3] = 1
    return out


def apply(T_dst_src: np.ndarray, points_src: np.ndarray) -> np.ndarray:
    """Map points [..., 3] of frame ``src`` to frame ``dst``."""
    return points_src @ T_dst_src[:3, :3].T + T_dst_src[:3, 3]


def resize_crop_intrinsics(K: np.ndarray, scale_xy: tuple[float, float], crop_xy: tuple[float, float]) -> np.ndarray:
    """Intrinsics after an image was resized and then cropped.

    Pixel coordinates put the centre of the top-left pixel at (0.5, 0.5), so a resize is a pure scale.

    Args:
        K: [3, 3] px of the source image.
        scale_xy: new width / old width, new height / old height.
        crop_xy: left and top of the crop in resized pixels.
    """
    K = np.array(K, dtype=np.float64)
    K[0] *= scale_xy[0]
    K[1] *= scale_xy[1]
    K[0, 2] -= crop_xy[0]
    K[1, 2] -= crop_xy[1]
    return K


def project(K: np.ndarray, points_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pinhole projection: points [N, 3] m -> pixels (u, v) [N, 2] and depth z [N] m.

    Points with z <= 0 give pixels without meaning; the caller filters by depth.
    """
    z = points_camera[:, 2]
    safe = np.where(np.abs(z) < 1e-9, 1e-9, z)
    u = K[0, 0] * points_camera[:, 0] / safe + K[0, 1] * points_camera[:, 1] / safe + K[0, 2]
    v = K[1, 1] * points_camera[:, 1] / safe + K[1, 2]
    return np.stack([u, v], axis=1), z
