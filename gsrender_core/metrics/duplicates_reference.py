"""The readable twin of ``duplicates``: one ray after another, its voxels from sorted plane crossings; plain numpy."""

import numpy as np

from gsrender_core.classes import FLAT_IDS, FREE
from gsrender_core.metrics.duplicates import BEHIND, COUNTS, FIRST_TRUE, FRONT, MERGE, OBSERVED, VEHICLE_IDS, CameraRays
from gsrender_core.voxel_grid import VoxelGrid


def voxels_along(start: np.ndarray, direction: np.ndarray, shape: tuple[int, int, int]) -> list[tuple[tuple, float]]:
    """Voxels that a ray (voxel units) passes through, in order, with the length inside each."""
    crossings = [0.0]
    for axis in range(3):
        if direction[axis] != 0:
            crossings += list((np.arange(shape[axis] + 1) - start[axis]) / direction[axis])
    crossings = sorted(t for t in crossings if t >= 0)
    passed = []
    for a, b in zip(crossings[:-1], crossings[1:], strict=True):
        voxel = tuple(int(i) for i in np.floor(start + (a + b) / 2 * direction))
        if b - a > 1e-9 and all(0 <= i < n for i, n in zip(voxel, shape, strict=True)):
            passed.append((voxel, b - a))
    return passed


def apart(a: tuple, b: tuple) -> int:
    """Chebyshev distance of two voxels."""
    return max(abs(i - j) for i, j in zip(a, b, strict=True))


def runs_of(voxels: list[tuple]) -> list[list[tuple]]:
    """Cut a series of voxels where two neighbours lie more than ``MERGE`` apart."""
    runs = []
    for voxel in voxels:
        if runs and apart(runs[-1][-1], voxel) <= MERGE:
            runs[-1].append(voxel)
        else:
            runs.append([voxel])
    return runs


def count_runs_reference(
    prediction: np.ndarray,
    truth: np.ndarray,
    rays: CameraRays,
    grid: VoxelGrid | None = None,
    observed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Arguments and results as ``duplicates.count_runs``."""
    grid = grid or VoxelGrid()
    known = (truth != FREE) if observed is None else (truth != FREE) | (observed > 0)
    every = range(FREE)
    groups = (every, [c for c in every if c not in FLAT_IDS], VEHICLE_IDS)
    counts, thickness = np.zeros((len(rays), COUNTS), np.int32), np.zeros((len(rays), 2))
    starts = (rays.origins_ego - np.array(grid.min_m)) / grid.voxel_size_m
    for r, (start, direction) in enumerate(zip(starts, rays.directions_ego, strict=True)):
        path = voxels_along(start, direction, grid.shape)
        by_group = []  # runs of the three groups, predicted, then true
        for which, semantics in enumerate((prediction, truth)):
            for ids in groups:
                by_group.append(runs_of([voxel for voxel, _ in path if semantics[voxel] in ids]))
            lengths = [length for voxel, length in path if semantics[voxel] != FREE]
            thickness[r, which] = sum(lengths[1:])
        predicted, true = by_group[0], by_group[3]
        counts[r, :6] = [len(runs) for runs in by_group]
        counts[r, OBSERVED] = sum(any(known[voxel] for voxel in run) for run in predicted)
        counts[r, FIRST_TRUE] = truth[true[0][0]] if true else FREE
        if not true:
            counts[r, FRONT] = len(predicted)
            continue
        order = {voxel: n for n, (voxel, _) in enumerate(path)}
        first, last = true[0][0], true[0][-1]
        counts[r, FRONT] = sum(order[run[-1]] < order[first] and apart(run[-1], first) > MERGE for run in predicted)
        counts[r, BEHIND] = sum(order[run[0]] > order[last] and apart(run[0], last) > MERGE for run in predicted)
    return counts, thickness * grid.voxel_size_m
