"""The readable twin of ``lidar_rays``: return by return, its voxels from sorted plane crossings; plain numpy."""

import numpy as np

from gsrender_core.classes import CLASS_NAMES, FLAT_IDS, FREE, IGNORE
from gsrender_core.metrics.duplicates_reference import voxels_along
from gsrender_core.metrics.ray_iou import THRESHOLDS_M
from gsrender_core.voxel_grid import VoxelGrid


def compare_rays_reference(
    semantics: np.ndarray, origins_ego: np.ndarray, points_ego: np.ndarray, grid: VoxelGrid
) -> list[tuple[float | None, int] | None]:
    """For every return: (error in metres or None, class met first); None where it is not counted."""
    found = []
    for origin, point in zip(np.broadcast_to(origins_ego, points_ego.shape), points_ego, strict=True):
        range_m = np.linalg.norm(point - origin)
        home = tuple(np.floor((point - grid.min_m) / grid.voxel_size_m).astype(int).tolist())
        if range_m < 0.01 or not all(0 <= i < n for i, n in zip(home, grid.shape, strict=True)):
            found.append(None)
            continue
        path = voxels_along(
            (origin - grid.min_m) / grid.voxel_size_m, (point - origin) / range_m / grid.voxel_size_m, grid.shape
        )
        # The way to the grid, then the sum of the ways through its voxels.
        enters_m = _way_to_grid(origin, (point - origin) / range_m, grid)
        leaves_m = dict(zip([v for v, _ in path], enters_m + np.cumsum([length for _, length in path]), strict=True))
        first = next((voxel for voxel, _ in path if semantics[voxel] != FREE), None)
        if first is None:
            found.append((None, FREE))
        elif _grazes([voxel for voxel, _ in path], first, home, semantics):
            found.append((0.0, int(semantics[home])))
        else:
            found.append((leaves_m[first] - leaves_m[home], int(semantics[first])))
    return found


def _grazes(path: list[tuple], first: tuple, home: tuple, semantics: np.ndarray) -> bool:
    """Flat classes from the first hit to the return's voxel, which lies behind it and at most a layer apart."""
    between = path[path.index(first) : path.index(home) + 1]
    flat = all(semantics[voxel] in FLAT_IDS for voxel in between)
    return len(between) > 1 and flat and abs(first[2] - home[2]) <= 1


def _way_to_grid(origin: np.ndarray, direction: np.ndarray, grid: VoxelGrid) -> float:
    """Metres to the last of the three slabs that the ray enters; 0 from inside."""
    ways = [0.0]
    for axis in range(3):
        if direction[axis] != 0:
            borders = [grid.min_m[axis], grid.max_m[axis]]
            ways.append(min((border - origin[axis]) / direction[axis] for border in borders))
    return max(ways)


def agreement_reference(frames, grid: VoxelGrid) -> dict:
    """The main figures of ``LidarRayAgreement.result`` over (semantics, origins, points, labels or None)."""
    rays = []  # (error or None, class met, class of the return or 255)
    for semantics, origins, points, labels in frames:
        truth = [IGNORE] * len(points) if labels is None else labels
        compared = compare_rays_reference(semantics, origins, points, grid)
        rays += [(*ray, int(label)) for ray, label in zip(compared, truth, strict=True) if ray is not None]
    errors = [error for error, _, _ in rays if error is not None]
    result = {"missed": 1 - len(errors) / len(rays)}
    result["free_before_return"] = 1 - sum(error < -1e-6 for error in errors) / len(rays)
    by_class = {name: [] for name in CLASS_NAMES}
    for t in THRESHOLDS_M:
        within = sum(abs(error) < t for error in errors)
        result[f"within@{t:g}"] = within / len(rays)
        result[f"early@{t:g}"] = sum(error <= -t for error in errors) / len(rays)
        result[f"late@{t:g}"] = sum(error >= t for error in errors) / len(rays)
        result[f"occupied_rayiou@{t:g}"] = within / (len(rays) + len(errors) - within)
        for class_id, name in enumerate(CLASS_NAMES):
            known = [ray for ray in rays if ray[2] != IGNORE]
            true = {n for n, ray in enumerate(known) if ray[2] == class_id}
            predicted = {n for n, ray in enumerate(known) if ray[1] == class_id}
            right = {n for n in true & predicted if abs(known[n][0]) < t}
            if true | predicted:
                # Not the union of the sets: as in RayIoU, a ray of the right class at a wrong depth counts in both.
                by_class[name].append(len(right) / (len(true) + len(predicted) - len(right)))
    result["lidar_ray_iou"] = {name: float(np.mean(v)) if v else float("nan") for name, v in by_class.items()}
    return result
