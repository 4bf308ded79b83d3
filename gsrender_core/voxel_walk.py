"""Rays walk through a grid to the first occupied voxel (Amanatides & Woo), exactly where they enter it.

RayIoU has a walk of its own (``metrics/ray_iou.py``), which follows SparseOcc's to the last tie.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np

from gsrender_core.classes import FREE
from gsrender_core.voxel_grid import VoxelGrid

MISS = 1e30  # ray parameter of a ray that meets nothing


@dataclass(frozen=True)
class FirstHits:
    """What N rays meet first.

    Attributes:
        voxels: int64 [N] flat index (x slowest) of the first occupied voxel; -1 where the ray meets nothing.
        labels: uint8 [N] its class; 17 (free) where the ray meets nothing.
        enter: float64 [N] ray parameter where the ray enters it: metres for unit directions, camera z for
            directions of camera z 1; 0 for a start inside it, NaN where the ray meets nothing.
    """

    voxels: np.ndarray
    labels: np.ndarray
    enter: np.ndarray

    @property
    def hit(self) -> np.ndarray:
        """bool [N]: the ray meets something."""
        return self.voxels >= 0


@numba.njit(cache=True, error_model="numpy")
def enter_box(origin, direction, low, high):
    """Where a ray enters a box: parameter, axis of the face; ``MISS`` where it does not, 0 from inside."""
    enter, leave, axis = 0.0, MISS, 2
    for a in range(3):
        if direction[a] == 0.0:
            if origin[a] < low[a] or origin[a] > high[a]:
                return MISS, axis
            continue
        near, far = (low[a] - origin[a]) / direction[a], (high[a] - origin[a]) / direction[a]
        if near > far:
            near, far = far, near
        if near > enter:
            enter, axis = near, a
        leave = min(leave, far)
    return (enter, axis) if enter < leave else (MISS, axis)


@numba.njit(cache=True, error_model="numpy")
def first_voxel(semantics, origin, direction, low, high, walk):
    """Walk to the first occupied voxel.

    Origin and direction in voxel units. ``walk`` float64 [3, 3] holds its voxel, and work space. Returns parameter
    and axis of the face that was met, ``MISS`` for none.
    """
    cell, following, delta = walk[0], walk[1], walk[2]
    t, axis = enter_box(origin, direction, low, high)
    if t == MISS:
        return MISS, axis
    for a in range(3):
        position = origin[a] + t * direction[a]
        cell[a] = min(max(math.floor(position), low[a]), high[a] - 1)
        if direction[a] == 0.0:
            following[a], delta[a] = MISS, MISS
        else:
            following[a] = (cell[a] + (direction[a] > 0) - origin[a]) / direction[a]
            delta[a] = abs(1.0 / direction[a])
    while semantics[int(cell[0]), int(cell[1]), int(cell[2])] == FREE:
        axis = 0 if following[0] < following[1] else 1
        if following[2] < following[axis]:
            axis = 2
        t = following[axis]
        following[axis] += delta[axis]
        cell[axis] += 1 if direction[axis] > 0 else -1
        if cell[axis] < low[axis] or cell[axis] >= high[axis]:
            return MISS, axis
    return t, axis


# One thread, without the interpreter lock: callers share rays out over their own threads where that pays.
@numba.njit(nogil=True, cache=True, error_model="numpy")
def _walk_rays(semantics, layers, starts, directions, voxels, enter):
    X, Y, Z = semantics.shape
    walk, low, high = np.zeros((3, 3)), np.array([0.0, 0.0, layers[0]]), np.array([float(X), float(Y), layers[1]])
    for n in range(len(starts)):
        t, _ = first_voxel(semantics, starts[n], directions[n], low, high, walk)
        if t < MISS:
            voxels[n] = (int(walk[0, 0]) * Y + int(walk[0, 1])) * Z + int(walk[0, 2])
            enter[n] = t


def first_hits(semantics: np.ndarray, origins_ego: np.ndarray, directions: np.ndarray, grid: VoxelGrid) -> FirstHits:
    """The first occupied voxel of every ray.

    Args:
        semantics: uint8 [X, Y, Z], 17 where free.
        origins_ego: float64 [N, 3], or [3] for all rays, metres; may lie outside the grid.
        directions: float64 [N, 3] of any length, ego frame.
        grid: the volume.

    Raises:
        ValueError: wrong shapes, dtypes or ids; values that are not finite, or a direction of length 0.
    """
    if semantics.shape != tuple(grid.shape) or semantics.dtype != np.uint8 or semantics.max(initial=0) > FREE:
        raise ValueError(
            f"semantics must be uint8 {tuple(grid.shape)} with ids 0..{FREE}, got {semantics.dtype} "
            f"{semantics.shape}, highest id {semantics.max(initial=0)}"
        )
    directions = np.asarray(directions, np.float64)
    if directions.ndim != 2 or directions.shape[1] != 3:
        raise ValueError(f"directions have shape {directions.shape}, expected [N, 3]")
    origins = np.broadcast_to(np.asarray(origins_ego, np.float64), directions.shape)
    if not (np.isfinite(origins).all() and np.isfinite(directions).all()) or not directions.any(axis=1).all():
        raise ValueError("rays need finite origins and finite directions that are not zero")
    voxels, enter = np.full(len(directions), -1, np.int64), np.full(len(directions), np.nan)
    filled = np.flatnonzero((semantics != FREE).any(axis=(0, 1)))
    if len(filled):  # rays into the sky, and those above all voxels, end early
        layers = float(filled[0]), float(filled[-1] + 1)
        starts = (origins - np.array(grid.min_m)) / grid.voxel_size_m
        _walk_rays(np.ascontiguousarray(semantics), layers, starts, directions / grid.voxel_size_m, voxels, enter)
    labels = np.where(voxels >= 0, semantics.reshape(-1)[voxels], np.uint8(FREE))
    return FirstHits(voxels, labels, enter)
