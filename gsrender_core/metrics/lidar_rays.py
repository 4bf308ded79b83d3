"""Agreement of a predicted grid with a LiDAR's own rays: RayIoU's idea where no 3D labels exist.

Every return says that its ray was free up to a point and met something there. Its ray, from the sensor through the
return, is cast into the prediction; what it meets first is compared with the return. Definitions:

- **Depths** are compared as RayIoU compares them: where the ray *leaves* a voxel. The measured depth is where it leaves
  the voxel that the return lies in, so a grid of just the returns' voxels has error 0, and no error is due to where in
  its voxel a surface lies. It is at most a voxel's diagonal (0.69 m) beyond the measured range.
- **Grazing**: a ray that falls 5 cm a metre runs for 8 m inside a road's layer of 0.4 m voxels, and its return is
  somewhere in there: even a perfect grid is met metres too early. So the ray counts as met at the return (error 0, the
  class of the return's voxel) where flat classes fill its whole way from the first hit to the return's voxel, both
  included, and that is at most one layer lower or higher.
- **Error** = predicted minus measured depth: negative where the prediction is met too early.
- ``within@t``: the ray meets something and ``|error| < t`` (strictly, as RayIoU). ``early@t``, ``late@t``: error <= -t,
  >= t. ``missed``: the ray meets nothing on its whole way through the grid. The four sum to 1 for every t.
- ``free_before_return``: nothing is predicted in front of the voxel of the return, of which nothing but air is known.
- ``occupied_rayiou@t``: RayIoU's formula with all classes taken as one: ``within / (rays + rays that hit - within)``.
- ``lidar_rayiou@t`` and by class, over returns with a class: true positives are rays that meet that class with
  ``|error| < t``, the union is rays of the class in truth or prediction. RayIoU pools so as well; its rays are a
  synthetic fan into labelled voxels, these are what the sensor saw: the numbers are of one kind, not comparable.

A voxelised truth does not reach 1: rays also cut the corners of voxels that are only partly filled. On the synthetic
world's own truth (2 scenes of 3 frames, seed 77) ``within@1`` is 0.88, ``within@4`` 0.93, ``occupied_rayiou`` 0.83 and
``lidar_rayiou`` 0.58. Compare predictions on the same scans.

Only returns inside the grid count. Returns from the own vehicle are the caller's to drop: they would be early or missed
without fault of the prediction. What a LiDAR does not see (behind surfaces) is not judged.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np

from gsrender_core.classes import CLASS_NAMES, FLAT_IDS, FREE, IGNORE, NUM_CLASSES
from gsrender_core.histogram import Histogram
from gsrender_core.metrics.miou import mean_of_known
from gsrender_core.metrics.ray_iou import THRESHOLDS_M
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.voxel_walk import first_hits

SHORTEST_RANGE_M = 0.01  # below it a return has no direction
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ERROR_LIMIT_M, _ERROR_BIN_M = 120.0, 0.02  # of the histogram of errors; quantiles are exact to a bin
_SAME_VOXEL_M = 1e-6
_FLAT = np.isin(np.arange(FREE + 1), FLAT_IDS)  # by class id


@dataclass(frozen=True)
class RayComparison:
    """N counted rays, in the order of their returns.

    Attributes:
        error_m: float64 [N] predicted minus measured depth; NaN where the ray meets nothing.
        labels: uint8 [N] class that the ray meets first, or at the return where it grazes; 17 where it meets nothing.
        grazing: bool [N] the ray runs inside a flat surface up to its return.
        counted: bool [M] which of all M returns these are.
    """

    error_m: np.ndarray
    labels: np.ndarray
    grazing: np.ndarray
    counted: np.ndarray

    @property
    def hit(self) -> np.ndarray:
        """bool [N]: the ray meets something."""
        return self.labels != FREE


def compare_rays(
    semantics: np.ndarray, origins_ego: np.ndarray, points_ego: np.ndarray, grid: VoxelGrid | None = None
) -> RayComparison:
    """Cast the rays of M returns and compare depths.

    Args:
        semantics: uint8 [X, Y, Z], 17 where free.
        origins_ego: float [M, 3], or [3] for all, metres: where the sensor stood when it measured each return.
        points_ego: float [M, 3] returns, metres, in the same ego frame as the grid.
        grid: default Occ3D's.

    Raises:
        ValueError: wrong shapes, dtypes or ids, or positions that are not finite.
    """
    grid = grid or VoxelGrid()
    points = np.asarray(points_ego, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points_ego: shape {points.shape}, expected [M, 3], metres, ego frame")
    origins = np.asarray(origins_ego, np.float64)
    if origins.shape not in ((3,), points.shape):
        raise ValueError(f"origins_ego: shape {origins.shape}, expected [3] or {points.shape}, metres, ego frame")
    origins = np.broadcast_to(origins, points.shape)
    for name, array in (("points_ego", points), ("origins_ego", origins)):
        bad = int((~np.isfinite(array)).any(axis=1).sum())
        if bad:
            raise ValueError(f"{name}: {bad} of {len(array)} are not finite; drop those returns")
    range_m = np.linalg.norm(points - origins, axis=1)
    index, inside = grid.index_of(points)
    counted = inside & (range_m >= SHORTEST_RANGE_M)
    origins, index = origins[counted], index[counted]
    directions = (points[counted] - origins) / range_m[counted, None]
    hits = first_hits(semantics, origins, directions, grid)
    error_m, labels = np.full(len(directions), np.nan), hits.labels
    hit = np.flatnonzero(hits.hit)
    hit_index = np.stack(np.unravel_index(hits.voxels[hit], grid.shape), axis=-1)
    error_m[hit] = _leave_m(hit_index, origins[hit], directions[hit], grid)
    error_m[hit] -= _leave_m(index[hit], origins[hit], directions[hit], grid)
    grazing = np.zeros(len(directions), dtype=bool)
    starts = (origins[hit] - np.array(grid.min_m)) / grid.voxel_size_m
    grazing[hit] = _graze(_FLAT[semantics], starts, directions[hit], hit_index, index[hit])
    grazing &= error_m < -_SAME_VOXEL_M
    error_m[grazing], labels[grazing] = 0.0, semantics[tuple(index[grazing].T)]
    return RayComparison(error_m, labels, grazing, counted)


# The walk starts in the voxel of the first hit; a ray that only cuts its corner is in there all the same.
@numba.njit(nogil=True, cache=True, error_model="numpy")
def _graze(flat, starts, directions, first, last):
    """Which rays (voxel units) stay in ``flat`` voxels from ``first`` to ``last`` [N, 3], at most a layer apart."""
    result = np.zeros(len(starts), np.bool_)
    voxel = np.empty(3, np.int64)
    for n in range(len(starts)):
        if abs(first[n, 2] - last[n, 2]) > 1:
            continue
        voxel[:] = first[n]
        while flat[voxel[0], voxel[1], voxel[2]]:
            if voxel[0] == last[n, 0] and voxel[1] == last[n, 1] and voxel[2] == last[n, 2]:
                result[n] = True
                break
            axis, leave = 0, math.inf
            for a in range(3):
                if directions[n, a] != 0:
                    t = (voxel[a] + (directions[n, a] > 0) - starts[n, a]) / directions[n, a]
                    if t < leave:
                        axis, leave = a, t
            voxel[axis] += 1 if directions[n, axis] > 0 else -1
            if voxel[axis] < 0 or voxel[axis] >= flat.shape[axis]:
                break
    return result


def _leave_m(index: np.ndarray, origins: np.ndarray, directions: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """Where each ray leaves its voxel: the nearest of the three planes ahead."""
    border = np.array(grid.min_m) + (index + (directions > 0)) * grid.voxel_size_m
    along = np.full(directions.shape, np.inf)
    np.divide(border - origins, directions, out=along, where=directions != 0)
    return along.min(axis=1)


class LidarRayAgreement:
    """Accumulates ray comparisons over frames; every figure is pooled over all rays.

    ``counts`` (by name) are over all counted rays; ``class_counts`` is int64 [5, 18] over returns with a class: rays
    a class in the truth, in the prediction, and true positives at 1, 2, 4 m, as ``RayIoU.counts``.
    """

    def __init__(self, grid: VoxelGrid | None = None):
        self.grid = grid or VoxelGrid()
        self.counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)
        self.class_counts = np.zeros((2 + len(THRESHOLDS_M), FREE + 1), np.int64)
        limit_m = _ERROR_LIMIT_M + _ERROR_BIN_M / 2  # an error of 0, the most frequent one, is the middle of a bin
        self.errors_m = Histogram(-limit_m, limit_m, round(2 * limit_m / _ERROR_BIN_M))

    def update(
        self,
        semantics: np.ndarray,
        origins_ego: np.ndarray,
        points_ego: np.ndarray,
        labels: np.ndarray | None = None,
    ) -> RayComparison:
        """Add one frame.

        Args:
            semantics, origins_ego, points_ego: as ``compare_rays``.
            labels: uint8 [M] class ids 0..16 of the returns, 255 where unknown; None where the sensor has none.

        Returns:
            What the rays met.

        Raises:
            ValueError: as ``compare_rays``; labels of another length or with other ids.
        """
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape != (len(points_ego),) or not np.issubdtype(labels.dtype, np.integer):
                raise ValueError(f"labels: {labels.dtype} {labels.shape}, expected uint8 ({len(points_ego)},)")
            if not np.all(((labels >= 0) & (labels < NUM_CLASSES)) | (labels == IGNORE)):
                raise ValueError(f"labels hold ids beside 0..{NUM_CLASSES - 1} and {IGNORE} for unknown")
        rays = compare_rays(semantics, origins_ego, points_ego, self.grid)
        error_m = rays.error_m[rays.hit]
        self.counts["rays"] += len(rays.error_m)
        self.counts["not_counted"] += len(rays.counted) - len(rays.error_m)
        self.counts["hit"] += len(error_m)
        self.counts["grazing"] += int(rays.grazing.sum())
        self.counts["free_before_return"] += len(rays.error_m) - int((error_m < -_SAME_VOXEL_M).sum())
        for t in THRESHOLDS_M:
            self.counts[f"within@{t:g}"] += int((np.abs(error_m) < t).sum())
            self.counts[f"early@{t:g}"] += int((error_m <= -t).sum())
            self.counts[f"late@{t:g}"] += int((error_m >= t).sum())
        self.errors_m.add(error_m)
        if labels is not None:
            self._count_classes(rays, labels[rays.counted])
        return rays

    def _count_classes(self, rays: RayComparison, truth: np.ndarray) -> None:
        known = truth != IGNORE
        truth, predicted, error_m = truth[known], rays.labels[known], rays.error_m[known]
        self.class_counts[0] += np.bincount(truth, minlength=FREE + 1)
        self.class_counts[1] += np.bincount(predicted, minlength=FREE + 1)
        for row, t in enumerate(THRESHOLDS_M):
            right = (truth == predicted) & (np.abs(error_m) < t)
            self.class_counts[2 + row] += np.bincount(truth[right], minlength=FREE + 1)

    def merge(self, other: "LidarRayAgreement") -> None:
        """Add what another accumulator has seen."""
        for name, count in other.counts.items():
            self.counts[name] += count
        self.class_counts += other.class_counts
        self.errors_m.merge(other.errors_m)

    def result(self) -> dict:
        """All figures; shares in [0, 1], NaN where nothing was counted.

        ``rays``, ``not_counted`` (outside the grid or without a range), ``labelled_rays``: numbers. ``within@t``,
        ``early@t``, ``late@t`` for t of 1, 2, 4 m, ``missed``, ``free_before_return``, ``grazing``: shares of the rays.
        ``depth_error_m``: ``mean``, ``std`` and quantiles ``q05`` .. ``q95`` over rays that meet something (exact to
        0.02 m, and limited to 120 m). ``occupied_rayiou`` and ``@t``; ``lidar_rayiou`` and ``@t``: means over known
        classes (and thresholds), ``lidar_ray_iou`` by class name.
        """
        counts, rays = self.counts, self.counts["rays"]
        shares = {n: counts[n] / rays if rays else float("nan") for n in _COUNTS if n not in _NUMBERS}
        occupied = np.array([_iou(counts[f"within@{t:g}"], rays, counts["hit"]) for t in THRESHOLDS_M])
        truth, predicted = self.class_counts[:2, :NUM_CLASSES]
        iou = _iou(self.class_counts[2:, :NUM_CLASSES], truth, predicted)
        return {
            "rays": rays,
            "not_counted": counts["not_counted"],
            "labelled_rays": int(truth.sum()),
            **shares,
            "missed": 1 - counts["hit"] / rays if rays else float("nan"),
            "depth_error_m": self.errors_m.result(QUANTILES),
            "occupied_rayiou": mean_of_known(occupied),
            **{f"occupied_rayiou@{t:g}": float(v) for t, v in zip(THRESHOLDS_M, occupied, strict=True)},
            "lidar_rayiou": mean_of_known(iou),
            **{f"lidar_rayiou@{t:g}": mean_of_known(row) for t, row in zip(THRESHOLDS_M, iou, strict=True)},
            "lidar_ray_iou": dict(zip(CLASS_NAMES, (mean_of_known(column) for column in iou.T), strict=True)),
        }


_NUMBERS = ("rays", "not_counted", "hit")
_COUNTS = (
    *_NUMBERS,
    "grazing",
    "free_before_return",
    *(f"{name}@{t:g}" for name in ("within", "early", "late") for t in THRESHOLDS_M),
)


def _iou(right, truth, predicted):
    """Intersection over union of counts; NaN where the union is empty."""
    union = np.asarray(truth + predicted - right)
    return np.where(union > 0, right / np.maximum(union, 1), np.nan)
