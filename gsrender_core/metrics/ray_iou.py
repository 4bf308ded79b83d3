"""RayIoU (SparseOcc): how well rays cast into the prediction match rays cast into the truth.

The numba traversal here follows SparseOcc's reference to the last tie; ``ray_iou_reference`` is its slow,
readable twin.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np

from gsrender_core.classes import CLASS_NAMES, FREE, NUM_CLASSES
from gsrender_core.metrics.miou import mean_of_known
from gsrender_core.voxel_grid import VoxelGrid

THRESHOLDS_M = (1.0, 2.0, 4.0)
MAX_STEPS = 1001  # SparseOcc gives up after its step counter has passed 1000
_HUGE = np.finfo(np.float64).max
_FARTHEST_ORIGIN_M = 1e5  # farther out, float32 no longer resolves a ray
_PREDICTION, _TRUTH = 1, 2  # bits of a voxel that say in which grid it is occupied


@lru_cache(maxsize=1)
def lidar_rays() -> np.ndarray:
    """Directions of the rays, float32 [14040, 3] unit vectors: 39 pitches x 360 azimuths, azimuth fastest.

    Ten pitches look at rings on the ground at 1 .. 10 sensor heights; their last spacing is then
    repeated until 0.21 rad is passed.
    """
    pitches = [-(math.pi / 2 - math.atan(k + 1)) for k in range(10)]
    while pitches[-1] < 0.21:
        pitches.append(pitches[-1] + (pitches[-1] - pitches[-2]))
    azimuths = np.deg2rad(np.arange(0, 360, 1))
    pitch = np.array(pitches)[:, None]
    x = np.cos(pitch) * np.cos(azimuths)
    y = np.cos(pitch) * np.sin(azimuths)
    z = np.broadcast_to(np.sin(pitch), x.shape)
    rays = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)
    rays.flags.writeable = False
    return rays


@dataclass(frozen=True)
class RayHits:
    """What rays [n origins, R rays] met.

    Attributes:
        labels: uint8 [n, R]: class of the first occupied voxel; 17 (free) where the ray met nothing.
        distances_m: float32 [n, R]: where the ray **leaves** that voxel, or the grid.
    """

    labels: np.ndarray
    distances_m: np.ndarray


def grid_coordinates(origins: np.ndarray, rays: np.ndarray, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Origins [n, 3] and ray ends [n, R, 3] in voxel units, rounded to float32 as the reference does."""
    low, size = np.array(grid.min_m), grid.voxel_size_m
    start = ((origins - low) / size).astype(np.float32)
    end = ((rays[None] + origins[:, None] - low) / size).astype(np.float32)
    return start, end


def check_origins(origins: np.ndarray, source: str = "ray origins") -> np.ndarray:
    """Return ray origins as float64 [n, 3].

    Raises:
        ValueError: another shape, none at all, not floating point, or not finite.
    """
    origins = np.asarray(origins)
    if origins.ndim != 2 or origins.shape[1] != 3 or len(origins) == 0:
        raise ValueError(f"{source}: shape {origins.shape}, expected [n, 3] with n of at least 1, metres, ego frame")
    if not np.issubdtype(origins.dtype, np.floating):
        raise ValueError(f"{source}: dtype {origins.dtype}, expected float64")
    if not np.isfinite(origins).all():
        bad = int((~np.isfinite(origins).all(axis=1)).sum())
        raise ValueError(f"{source}: {bad} of {len(origins)} are not finite; drop those keyframes")
    farthest = float(np.abs(origins).max())
    if farthest > _FARTHEST_ORIGIN_M:
        raise ValueError(
            f"{source}: {farthest:.3g} m from the ego, limit {_FARTHEST_ORIGIN_M:.0g}; global coordinates?"
        )
    return origins.astype(np.float64)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _traverse(wanted, occupied, start, end, voxels, distances):
    """Walk rays of one origin through ``occupied`` until every grid of ``wanted`` (bits) was hit.

    Writes the flat voxel index int64 [2, R] and the distance in voxels float32 [2, R] for prediction
    and truth: of the first occupied voxel, else of the last voxel inside; 0 and -1 if never inside.
    """
    X, Y, Z = occupied.shape
    flat = occupied.reshape(-1)
    ox, oy, oz = np.float64(start[0]), np.float64(start[1]), np.float64(start[2])
    for r in range(len(end)):
        dx, dy, dz = np.float64(end[r, 0]) - ox, np.float64(end[r, 1]) - oy, np.float64(end[r, 2]) - oz
        norm = math.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / norm, dy / norm, dz / norm
        # Truncation toward zero, as the reference: a start within one voxel below the grid counts as in it.
        x, y, z = int(ox), int(oy), int(oz)
        step_x, step_y, step_z = 1 if dx >= 0 else -1, 1 if dy >= 0 else -1, 1 if dz >= 0 else -1
        tx = (x + (step_x > 0) - ox) / dx if dx != 0 else _HUGE
        ty = (y + (step_y > 0) - oy) / dy if dy != 0 else _HUGE
        tz = (z + (step_z > 0) - oz) / dz if dz != 0 else _HUGE
        delta_x = step_x / dx if dx != 0 else _HUGE
        delta_y = step_y / dy if dy != 0 else _HUGE
        delta_z = step_z / dz if dz != 0 else _HUGE
        open_bits, last, t = wanted, -1, -1.0
        for _ in range(MAX_STEPS):
            inside = 0 <= x < X and 0 <= y < Y and 0 <= z < Z
            if inside:
                last = (x * Y + y) * Z + z
            elif last >= 0:
                break
            if tx < ty:
                along_x, along_y = tx < tz, False
            else:
                along_x, along_y = False, ty < tz
            if along_x:
                leave = tx
                x += step_x
                tx += delta_x
            elif along_y:
                leave = ty
                y += step_y
                ty += delta_y
            else:
                leave = tz
                z += step_z
                tz += delta_z
            if inside:
                t = leave
                hit = flat[last] & open_bits
                if hit:
                    for g in range(2):
                        if hit & (1 << g):
                            voxels[g, r] = last
                            distances[g, r] = leave
                    open_bits &= ~hit
                    if open_bits == 0:
                        break
        for g in range(2):
            if open_bits & (1 << g):
                voxels[g, r] = max(last, 0)
                distances[g, r] = t


@numba.njit(nogil=True, cache=True)
def _count(predicted, predicted_m, truth, truth_m, thresholds, counts):
    """Add to ``counts`` int64 [2 + T, 18]: truth rays, predicted rays, true positives at each threshold."""
    for i in range(len(truth)):
        if truth[i] == FREE:
            continue
        counts[0, truth[i]] += 1
        counts[1, predicted[i]] += 1
        if predicted[i] == truth[i]:
            error = abs(predicted_m[i] - truth_m[i])
            for t in range(len(thresholds)):
                if error < thresholds[t]:
                    counts[2 + t, truth[i]] += 1


def _cast(grids: dict[int, np.ndarray], origins: np.ndarray, grid: VoxelGrid) -> dict[int, RayHits]:
    """Cast the same rays into one or two grids ``{bit: semantics}`` in one traversal."""
    rays = lidar_rays()
    start, end = grid_coordinates(check_origins(origins), rays, grid)
    occupied = np.zeros(grid.shape, dtype=np.uint8)
    for bit, semantics in grids.items():
        if semantics.shape != tuple(grid.shape) or semantics.dtype != np.uint8 or semantics.max(initial=0) > FREE:
            raise ValueError(
                f"semantics must be uint8 {tuple(grid.shape)} with ids 0..{FREE}, got {semantics.dtype} "
                f"{semantics.shape}, highest id {semantics.max(initial=0)}"
            )
        occupied |= (semantics != FREE).astype(np.uint8) * np.uint8(bit)
    wanted = sum(grids)
    voxels = np.zeros((len(start), 2, len(rays)), dtype=np.int64)
    distances = np.zeros((len(start), 2, len(rays)), dtype=np.float32)

    def walk(n: int) -> None:
        _traverse(wanted, occupied, start[n], end[n], voxels[n], distances[n])

    # Threads over origins rather than numba's parallel loops: those abort in forked or concurrent callers.
    with ThreadPoolExecutor(min(len(start), os.cpu_count() or 1)) as pool:
        list(pool.map(walk, range(len(start))))
    metres = distances * np.float32(grid.voxel_size_m)
    slot = {_PREDICTION: 0, _TRUTH: 1}
    return {
        bit: RayHits(semantics.reshape(-1)[voxels[:, slot[bit]]], metres[:, slot[bit]])
        for bit, semantics in grids.items()
    }


def cast_rays(semantics: np.ndarray, origins: np.ndarray, grid: VoxelGrid | None = None) -> RayHits:
    """Cast all rays from every origin into one grid.

    Args:
        semantics: uint8 [X, Y, Z], 17 where free.
        origins: float64 [n, 3], metres, ego frame.
        grid: default Occ3D's.

    Raises:
        ValueError: wrong shapes, dtypes, ids or origins.
    """
    return _cast({_TRUTH: semantics}, origins, grid or VoxelGrid())[_TRUTH]


class RayIoU:
    """Accumulates ray counts over a split.

    ``counts`` is int64 [5, 18]: rays a class in the truth, in the prediction, and true positives (same
    class, distances closer than 1, 2, 4 m), over rays whose truth is not free.
    """

    def __init__(self, grid: VoxelGrid | None = None):
        self.grid = grid or VoxelGrid()
        self.counts = np.zeros((2 + len(THRESHOLDS_M), FREE + 1), dtype=np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray, origins: np.ndarray) -> None:
        """Add one sample: semantics uint8 [X, Y, Z] of both, ray origins float64 [n, 3] (m, ego).

        Raises:
            ValueError: wrong shapes, dtypes, ids or origins.
        """
        hits = _cast({_PREDICTION: prediction, _TRUTH: truth}, origins, self.grid)
        self.update_hits(hits[_PREDICTION], hits[_TRUTH])

    def update_hits(self, prediction: RayHits, truth: RayHits) -> None:
        """Add one sample by its casts, so that the truth's can be kept between evaluations.

        Raises:
            ValueError: the casts have different numbers of rays.
        """
        if prediction.labels.shape != truth.labels.shape:
            raise ValueError(f"casts differ in shape: {prediction.labels.shape} and {truth.labels.shape}")
        arrays = (prediction.labels, prediction.distances_m, truth.labels, truth.distances_m)
        _count(*(np.ascontiguousarray(a).reshape(-1) for a in arrays), np.array(THRESHOLDS_M), self.counts)

    def merge(self, other: "RayIoU") -> None:
        """Add what another accumulator has seen."""
        self.counts += other.counts

    def iou(self) -> np.ndarray:
        """IoU float64 [3 thresholds, 17 classes]; NaN for a class that no ray met in either."""
        hits = self.counts[2:, :NUM_CLASSES]
        union = self.counts[0, :NUM_CLASSES] + self.counts[1, :NUM_CLASSES] - hits
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)

    def result(self) -> dict:
        """``rayiou``, ``rayiou@1``, ``rayiou@2``, ``rayiou@4`` in [0, 1] or NaN, ``ray_iou`` by class name."""
        iou = self.iou()
        by_class = [mean_of_known(column) for column in iou.T]
        return {
            "rayiou": mean_of_known(iou),
            **{f"rayiou@{t:g}": mean_of_known(row) for t, row in zip(THRESHOLDS_M, iou, strict=True)},
            "ray_iou": dict(zip(CLASS_NAMES, by_class, strict=True)),
        }
