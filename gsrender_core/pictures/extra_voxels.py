"""Which predicted voxels are duplicates: what the metric counts along rays, as places that a picture can show."""

import numba
import numpy as np

from gsrender_core.classes import FREE
from gsrender_core.data.frame import Frame
from gsrender_core.geometry import inverse
from gsrender_core.metrics.duplicates import MERGE
from gsrender_core.numba_threads import numba_threads
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.voxel_walk import MISS, first_voxel


def extra_voxels(frame: Frame, truth: np.ndarray, prediction: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Voxels that are occupied in the prediction, where nothing is, in line with something true.

    A voxel counts where it is occupied in the prediction; nothing true lies within ``MERGE`` voxels of it along every
    axis (so that a surface one voxel too thick or too near is not one); and the ray of some camera that sees its
    centre meets a true voxel before or behind it.

    Args:
        frame: its cameras.
        truth, prediction: uint8 [X, Y, Z], 17 where free.
        grid: their volume, in the frame's ego.

    Returns:
        bool [X, Y, Z].
    """
    candidates = np.argwhere((prediction != FREE) & ~dilated(truth != FREE, MERGE))
    found = np.zeros(len(candidates), dtype=bool)
    centers = np.array(grid.min_m) + (candidates + 0.5) * grid.voxel_size_m
    width, height = frame.image_size
    for K, T_ego_cam in zip(frame.Ks, frame.T_ego_cam, strict=True):
        T_cam_ego = inverse(T_ego_cam)
        x, y, z = (centers @ T_cam_ego[:3, :3].T + T_cam_ego[:3, 3]).T
        ahead = np.where(z > 1e-6, z, np.inf)
        u, v = K[0, 0] * x / ahead + K[0, 2], K[1, 1] * y / ahead + K[1, 2]
        seen = np.flatnonzero((z > 1e-6) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & ~found)
        start = (T_ego_cam[:3, 3] - np.array(grid.min_m)) / grid.voxel_size_m
        with numba_threads():
            found[seen] = _meets(np.ascontiguousarray(truth), start, candidates[seen] + 0.5)
    mask = np.zeros(truth.shape, dtype=bool)
    mask[tuple(candidates[found].T)] = True
    return mask


def dilated(mask: np.ndarray, reach: int) -> np.ndarray:
    """Grow a mask [X, Y, Z] by ``reach`` voxels along every axis, corners included."""
    for axis in range(3):
        grown = mask.copy()
        for step in range(1, reach + 1):
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(None, -step), slice(step, None)
            grown[tuple(low)] |= mask[tuple(high)]
            grown[tuple(high)] |= mask[tuple(low)]
        mask = grown
    return mask


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _meets(truth, start, targets):
    """Whether the ray from ``start`` through each target [N, 3] (voxel units) meets an occupied voxel: bool [N]."""
    result = np.zeros(len(targets), np.bool_)
    for n in numba.prange(len(targets)):
        walk, low, high = np.zeros((3, 3)), np.zeros(3), np.empty(3)
        for a in range(3):
            high[a] = truth.shape[a]
        result[n] = first_voxel(truth, start, targets[n] - start, low, high, walk)[0] < MISS
    return result
