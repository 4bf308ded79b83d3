"""The readable twin of ``ray_iou``: plain numpy, all rays in lock-step, about 100 times slower."""

import numpy as np

from gsrender_core.classes import FREE, NUM_CLASSES
from gsrender_core.metrics.ray_iou import MAX_STEPS, THRESHOLDS_M, RayHits, check_origins, grid_coordinates, lidar_rays
from gsrender_core.voxel_grid import VoxelGrid


def cast_rays_reference(
    semantics: np.ndarray, origins: np.ndarray, grid: VoxelGrid | None = None, rays: np.ndarray | None = None
) -> RayHits:
    """Cast rays as SparseOcc's reference does; arguments as ``cast_rays``, any unit ``rays`` float32 [R, 3]."""
    grid = grid or VoxelGrid()
    rays = lidar_rays() if rays is None else rays
    start, end = grid_coordinates(check_origins(origins), rays, grid)
    casts = [_cast_from(semantics, o, e) for o, e in zip(start, end, strict=True)]
    labels = np.stack([label for label, _ in casts])
    voxels = np.stack([distance for _, distance in casts])
    return RayHits(labels, voxels.astype(np.float32) * np.float32(grid.voxel_size_m))


def _cast_from(semantics: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels [R] and distances [R] in voxels of the rays from ``start`` [3] through ``end`` [R, 3]."""
    o = start.astype(np.float64)
    direction = end.astype(np.float64) - o
    direction /= np.sqrt((direction**2)[:, 0] + (direction**2)[:, 1] + (direction**2)[:, 2])[:, None]
    n = len(direction)
    voxel = np.tile(np.trunc(o).astype(np.int64), (n, 1))
    step = np.where(direction >= 0, 1, -1)
    huge = np.finfo(np.float64).max
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t_max = np.where(direction != 0, (voxel + (step > 0) - o) / direction, huge)
        t_delta = np.where(direction != 0, step / direction, huge)

    hit_voxel = np.zeros((n, 3), dtype=np.int64)  # never inside: voxel (0, 0, 0) at distance -1
    hit_distance = np.full(n, -1.0)
    was_inside = np.zeros(n, dtype=bool)
    done = np.zeros(n, dtype=bool)
    ray = np.arange(n)
    for _ in range(MAX_STEPS):
        inside = np.all((voxel >= 0) & (voxel < semantics.shape), axis=1)
        done |= was_inside & ~inside
        if done.all():
            break
        tx, ty, tz = t_max.T
        axis = np.where(tx < ty, np.where(tx < tz, 0, 2), np.where(ty < tz, 1, 2))
        leave = t_max[ray, axis]
        # Inside and not yet stopped: this voxel is the answer so far, for good if it is occupied.
        here = inside & ~done
        hit_voxel[here] = voxel[here]
        hit_distance[here] = leave[here]
        was_inside |= here
        done[here] |= semantics[tuple(voxel[here].T)] != FREE
        voxel[ray, axis] += step[ray, axis]
        with np.errstate(over="ignore"):
            t_max[ray, axis] += t_delta[ray, axis]
    return semantics[tuple(hit_voxel.T)], hit_distance


def ray_iou_reference(samples) -> np.ndarray:
    """IoU [3, 17] of ``samples``, an iterable of (prediction, truth) casts, counted class by class."""
    rays_truth, rays_prediction = np.zeros(NUM_CLASSES), np.zeros(NUM_CLASSES)
    true_positives = np.zeros((len(THRESHOLDS_M), NUM_CLASSES))
    for prediction, truth in samples:
        counted = truth.labels != FREE
        error = np.abs(prediction.distances_m - truth.distances_m)
        for c in range(NUM_CLASSES):
            in_truth = counted & (truth.labels == c)
            in_prediction = counted & (prediction.labels == c)
            rays_truth[c] += in_truth.sum()
            rays_prediction[c] += in_prediction.sum()
            for t, threshold in enumerate(THRESHOLDS_M):
                true_positives[t, c] += (in_truth & in_prediction & (error < threshold)).sum()
    with np.errstate(invalid="ignore"):
        return true_positives / (rays_truth + rays_prediction - true_positives)
