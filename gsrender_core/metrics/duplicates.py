"""Duplicate predictions: how often a camera ray meets more separate things in the prediction than in the truth.

Supervision by images alone constrains what a ray meets first; what stands behind is left to chance, and one object
tends to be predicted several times along the rays that see it. mIoU inside ``mask_camera`` cannot see it (the copies
lie where no camera looks), RayIoU sees a part. Definitions:

- **Ray**: from a camera's real position through one pixel of a regular ``COLUMNS`` x ``ROWS`` lattice over its image
  (9,216 rays for six cameras), as far as the grid reaches.
- **Run**: a maximal series of occupied voxels along a ray in which each lies at most ``MERGE`` = 2 indices from the
  one before along every axis: voxels that touch at a corner, or that a single free voxel parts, are one run. A wall
  crossed diagonally, or one with a hole of a voxel, is one run; a run's length does not matter, so a ground plane at
  a grazing angle is one as well. A run of a *group* is the same among the voxels of that group alone; groups are
  all classes, objects (all but the flat classes) and vehicles.
- **Extra runs** of a ray: ``max(0, runs predicted - runs in the truth)``. Counts, not places, are compared: a surface
  predicted at a wrong depth is no duplicate (RayIoU punishes it), and a ray that misses one thing and doubles another
  counts nothing, which the vehicle figure, taken on rays that do see a vehicle, makes up for.
- **In front**: predicted runs that end before the first occupied voxel of the truth and are no part of a run with it.
  The camera sees that this space is free, so they are wrong beyond doubt: floaters, or a surface placed too near.
- **Behind**: predicted runs that begin beyond the truth's first run, above the number the truth has there.
- **Observed**: space behind the first surface is unseen, and recorded truth (Occ3D's) says free there where it knows
  nothing. The ``_observed`` figure leaves out predicted runs without a single voxel that is observed or occupied in
  the truth; all other figures take the truth as complete, which the synthetic world's is.
- **Thickness**: metres of a ray inside occupied voxels after it has left the first one; the truth's beside it.

An emptier grid always has fewer extra runs: compare at equal tau and at equal predicted occupancy only
(``tau_curves``). So has a grid that is filled throughout: copies that touch are one long run. Where a network predicts
several times the truth's voxels, read the thickness first, and count runs at the truth's occupancy.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np

from gsrender_core.classes import CLASSES, FLAT_IDS, FREE
from gsrender_core.data.frame import Frame
from gsrender_core.numba_threads import numba_threads
from gsrender_core.voxel_grid import VoxelGrid

COLUMNS, ROWS = 64, 24  # pixels of the lattice: 11 px apart at 704 x 256, two voxels at 40 m
MERGE = 2
VEHICLE_IDS = tuple(c.id for c in CLASSES if c.dynamic and c.name != "pedestrian")
GROUPS = ("all", "object", "vehicle")
_TRUE = len(GROUPS)  # the truth's groups follow the prediction's
_OBSERVED_BIT = 1 << 2 * _TRUE
_CHUNK = 256  # rays a task
_EPSILON = 1e-9  # voxels; a ray that only touches a voxel's corner does not enter it
_NOWHERE = -(1 << 20)

# Columns of what is counted on a ray: the runs of GROUPS in the prediction, then in the truth, then these.
OBSERVED, FRONT, BEHIND, FIRST_TRUE = range(2 * _TRUE, 2 * _TRUE + 4)
COUNTS = 2 * _TRUE + 4


@dataclass(frozen=True)
class CameraRays:
    """Rays of a frame: ``origins_ego`` float64 [N, 3] m, ``directions_ego`` float64 [N, 3] unit vectors."""

    origins_ego: np.ndarray
    directions_ego: np.ndarray

    def __post_init__(self):
        for name, array in (("origins_ego", self.origins_ego), ("directions_ego", self.directions_ego)):
            if array.shape != (len(self.origins_ego), 3) or not np.isfinite(array).all() or len(array) == 0:
                raise ValueError(f"{name}: shape {array.shape}, expected finite [N, 3] with N of at least 1")

    def __len__(self) -> int:
        return len(self.origins_ego)


def camera_rays(frame: Frame, columns: int = COLUMNS, rows: int = ROWS) -> CameraRays:
    """Rays through the centres of ``columns`` x ``rows`` equal cells of every image, cameras in order, rows first."""
    width, height = frame.image_size
    u, v = np.meshgrid((np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows)
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
    directions = np.einsum("cij,cjk,nk->cni", frame.T_ego_cam[:, :3, :3], np.linalg.inv(frame.Ks), pixels)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    origins = np.broadcast_to(frame.T_ego_cam[:, None, :3, 3], directions.shape)
    return CameraRays(origins.reshape(-1, 3).copy(), directions.reshape(-1, 3))


def group_bits(prediction: np.ndarray, truth: np.ndarray, observed: np.ndarray | None) -> np.ndarray:
    """Which groups hold a voxel, uint8: bits 0..2 predicted, 3..5 true, in the order of ``GROUPS``; 6 observed."""
    table = np.zeros(FREE + 1, np.uint8)
    table[:FREE] = 1
    table[[c.id for c in CLASSES if c.id not in FLAT_IDS]] |= 2
    table[list(VEHICLE_IDS)] |= 4
    bits = table[prediction] | table[truth] << np.uint8(_TRUE)
    known = truth != FREE if observed is None else (truth != FREE) | (observed != 0)
    return bits | known.astype(np.uint8) * np.uint8(_OBSERVED_BIT)


@numba.njit(cache=True, error_model="numpy")
def _walk(bits, truth, start, direction, counts, thickness):
    """Follow one ray (voxel units) and write ``counts`` int32 [COUNTS] and ``thickness`` float64 [2] voxels."""
    enter, leave_grid = 0.0, np.inf
    for a in range(3):
        if direction[a] != 0:
            low, high = -start[a] / direction[a], (bits.shape[a] - start[a]) / direction[a]
            enter, leave_grid = max(enter, min(low, high)), min(leave_grid, max(low, high))
        elif start[a] < 0 or start[a] >= bits.shape[a]:
            return
    if enter >= leave_grid:
        return
    voxel, step = np.empty(3, np.int64), np.empty(3, np.int64)
    border, delta = np.empty(3), np.empty(3)
    for a in range(3):
        inside = int(math.floor(start[a] + enter * direction[a]))
        voxel[a] = min(max(inside, 0), bits.shape[a] - 1)
        step[a] = 1 if direction[a] >= 0 else -1
        border[a] = (voxel[a] + (step[a] > 0) - start[a]) / direction[a] if direction[a] != 0 else np.inf
        delta[a] = step[a] / direction[a] if direction[a] != 0 else np.inf
    last = np.full((2 * _TRUE, 3), _NOWHERE)  # of each group, the voxel met last
    run_observed, met = False, np.zeros(2, np.bool_)
    t = enter
    while True:
        axis = 0 if border[0] < border[1] and border[0] < border[2] else 1 if border[1] < border[2] else 2
        leave = border[axis]
        here = bits[voxel[0], voxel[1], voxel[2]]
        if here & ~_OBSERVED_BIT and leave - t > _EPSILON:
            # The truth first: whether a predicted run begins behind its first run depends on it.
            for slot in range(2 * _TRUE):
                group = (slot + _TRUE) % (2 * _TRUE)
                if not here & (1 << group):
                    continue
                if group == _TRUE and counts[_TRUE] == 0:
                    counts[FIRST_TRUE] = truth[voxel[0], voxel[1], voxel[2]]
                    counts[FRONT] = counts[0] - (_apart(voxel, last[0]) <= MERGE)
                begins = _apart(voxel, last[group]) > MERGE
                last[group] = voxel
                if begins:
                    counts[group] += 1
                if group == 0:
                    if begins:
                        run_observed = False
                        if counts[_TRUE] > 1 or (counts[_TRUE] == 1 and _apart(voxel, last[_TRUE]) > MERGE):
                            counts[BEHIND] += 1
                    if not run_observed and here & _OBSERVED_BIT:
                        run_observed = True
                        counts[OBSERVED] += 1
                if group == 0 or group == _TRUE:
                    which = 0 if group == 0 else 1
                    if met[which]:
                        thickness[which] += leave - t
                    met[which] = True
        voxel[axis] += step[axis]
        if voxel[axis] < 0 or voxel[axis] >= bits.shape[axis]:
            break
        t = max(t, leave)
        border[axis] += delta[axis]
    if counts[_TRUE] == 0:
        counts[FRONT] = counts[0]


@numba.njit(cache=True, inline="always")
def _apart(a, b):
    """Chebyshev distance of two voxels."""
    return max(abs(a[0] - b[0]), abs(a[1] - b[1]), abs(a[2] - b[2]))


@numba.njit(cache=True)
def _walk_chunk(bits, truth, starts, directions, counts, thickness):
    for r in range(len(starts)):
        _walk(bits, truth, starts[r], directions[r], counts[r], thickness[r])


@numba.njit(cache=True, parallel=True)
def _walk_all(bits, truth, starts, directions, counts, thickness):
    chunks = (len(starts) + _CHUNK - 1) // _CHUNK
    for c in numba.prange(chunks):
        a, b = c * _CHUNK, min((c + 1) * _CHUNK, len(starts))
        _walk_chunk(bits, truth, starts[a:b], directions[a:b], counts[a:b], thickness[a:b])


def count_runs(
    prediction: np.ndarray,
    truth: np.ndarray,
    rays: CameraRays,
    grid: VoxelGrid | None = None,
    observed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What every ray meets.

    Args:
        prediction, truth: uint8 [X, Y, Z], 17 where free.
        rays: N rays in the ego frame of the grid.
        grid: default Occ3D's.
        observed: [X, Y, Z], nonzero where the truth knows the voxel; default where it is occupied.

    Returns:
        int32 [N, COUNTS] and the thickness of prediction and truth, float64 [N, 2] metres. ``FIRST_TRUE`` is the
        class that the ray meets first in the truth, 17 for none.

    Raises:
        ValueError: wrong shapes, dtypes or ids.
    """
    grid = grid or VoxelGrid()
    for name, array in (("prediction", prediction), ("truth", truth)):
        if array.shape != tuple(grid.shape) or array.dtype != np.uint8 or array.max(initial=0) > FREE:
            raise ValueError(
                f"{name} must be uint8 {tuple(grid.shape)} with ids 0..{FREE}, got {array.dtype} {array.shape}, "
                f"highest id {array.max(initial=0)}"
            )
    if observed is not None and observed.shape != truth.shape:
        raise ValueError(f"observed has shape {observed.shape}, the truth {truth.shape}")
    bits = np.ascontiguousarray(group_bits(prediction, truth, observed))
    counts = np.zeros((len(rays), COUNTS), np.int32)
    counts[:, FIRST_TRUE] = FREE
    thickness = np.zeros((len(rays), 2))
    starts = (rays.origins_ego - np.array(grid.min_m)) / grid.voxel_size_m
    with numba_threads():
        _walk_all(bits, np.ascontiguousarray(truth), starts, rays.directions_ego, counts, thickness)
    return counts, thickness * grid.voxel_size_m


class Duplicates:
    """Accumulates runs over a split; every figure is pooled over all rays.

    ``sums`` holds the numerators by name, ``rays`` and ``vehicle_rays`` the denominators.
    """

    def __init__(self, grid: VoxelGrid | None = None):
        self.grid = grid or VoxelGrid()
        self.sums: dict[str, float] = {}
        self.rays = self.vehicle_rays = 0

    def update(
        self, prediction: np.ndarray, truth: np.ndarray, rays: CameraRays, observed: np.ndarray | None = None
    ) -> None:
        """Add one sample; arguments and errors as ``count_runs``."""
        counts, thickness = count_runs(prediction, truth, rays, self.grid, observed)
        extra = np.maximum(counts[:, :_TRUE] - counts[:, _TRUE : 2 * _TRUE], 0)
        vehicle = np.isin(counts[:, FIRST_TRUE], VEHICLE_IDS)
        self.rays += len(rays)
        self.vehicle_rays += int(vehicle.sum())
        for name, values in (
            ("runs", counts[:, 0]),
            ("true_runs", counts[:, _TRUE]),
            ("extra_runs", extra[:, 0]),
            ("extra_runs_observed", np.maximum(counts[:, OBSERVED] - counts[:, _TRUE], 0)),
            ("extra_runs_object", extra[:, 1]),
            ("extra_run_rays", extra[:, 0] > 0),
            ("extra_runs_front", counts[:, FRONT]),
            ("extra_runs_behind", np.maximum(counts[:, BEHIND] - np.maximum(counts[:, _TRUE] - 1, 0), 0)),
            ("extra_runs_vehicle", extra[vehicle, 2]),
            ("thickness_m", thickness[:, 0]),
            ("true_thickness_m", thickness[:, 1]),
        ):
            self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())

    def merge(self, other: "Duplicates") -> None:
        """Add what another accumulator has seen."""
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.rays += other.rays
        self.vehicle_rays += other.vehicle_rays

    def result(self) -> dict[str, float]:
        """Means a ray; NaN where no ray was counted.

        ``runs``, ``true_runs``: separate things met. ``extra_runs`` and, of observed runs, of objects, in front of and
        behind the first true surface: ``extra_runs_observed``, ``_object``, ``_front``, ``_behind``.
        ``extra_run_rays``: share of the rays with an extra run. ``extra_runs_vehicle``: extra runs of vehicles on the
        rays whose first true voxel is a vehicle. ``thickness_m``, ``true_thickness_m``: metres.
        """
        means = {}
        for name in FIGURES:
            rays = self.vehicle_rays if name == "extra_runs_vehicle" else self.rays
            means[name] = self.sums[name] / rays if rays else float("nan")
        return means


FIGURES = (
    "runs", "true_runs", "extra_runs", "extra_runs_observed", "extra_runs_object", "extra_run_rays",
    "extra_runs_front", "extra_runs_behind", "extra_runs_vehicle", "thickness_m", "true_thickness_m",
)  # fmt: skip
