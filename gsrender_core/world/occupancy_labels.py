"""Occ3D labels of the synthetic world: voxel classes of everything there is, and what the sensors observe.

Grid (Occ3D): ego frame at the LiDAR stamp, x and y in [-40, 40] m, z in [-1, 5.4] m, 0.4 m, indexed [x, y, z].
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gsrender_core.classes import FREE, class_id, lidarseg_lookup
from gsrender_core.geometry import apply, inverse, project
from gsrender_core.world.ground import ground_height, nearest_cell
from gsrender_core.world.noise import kernel
from gsrender_core.world.raycast import BOX, ELLIPSOID
from gsrender_core.world.scene import Moment

GRID_MIN = np.array([-40.0, -40.0, -1.0])
VOXEL_M = 0.4
FREE_ID = FREE  # a constant of this module, so that the kernels can read it
GRID_SHAPE = (200, 200, 16)
# Solids deeper than this are hollow: a LiDAR never sees the inside of a house.
SHELL_M = 0.45
# A solid that reaches less than this into a voxel leaves it alone.
TOLERANCE_M = 0.05
GROUND_SAMPLES = 3  # per voxel edge
# Where solids share a voxel the rarer, smaller thing keeps it: painted in this order.
PAINT_ORDER = (
    "manmade",
    "vegetation",
    "others",
    "bus",
    "truck",
    "trailer",
    "construction_vehicle",
    "car",
    "barrier",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "pedestrian",
)


@kernel
def _paint_ground(ground, T, lookup, votes, labels, lowest):
    """Label every voxel that the ground's surface passes through; ``lowest`` [X, Y] is the deepest of a column.

    ``votes`` int32 [16, 18] is scratch memory: samples of a column by layer and class.
    """
    step = VOXEL_M / GROUND_SAMPLES
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            votes[:] = 0
            lowest[i, j] = 99
            for a in range(GROUND_SAMPLES):
                for b in range(GROUND_SAMPLES):
                    x = -40.0 + i * VOXEL_M + (a + 0.5) * step
                    y = -40.0 + j * VOXEL_M + (b + 0.5) * step
                    z = 0.0
                    gx = gy = 0.0
                    for _ in range(3):  # the ego's z axis is nearly vertical: converges at once
                        gx = T[0, 0] * x + T[0, 1] * y + T[0, 2] * z + T[0, 3]
                        gy = T[1, 0] * x + T[1, 1] * y + T[1, 2] * z + T[1, 3]
                        gz = T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3]
                        z += (ground_height(ground, gx, gy) - gz) / T[2, 2]
                    k = int(np.floor((z + 1.0) / VOXEL_M))
                    lowest[i, j] = min(lowest[i, j], k)
                    if 0 <= k < 16:
                        ci, cj = nearest_cell(ground, gx, gy)
                        votes[k, lookup[ground.zone_seg[ground.zone[ci, cj]]]] += 1
            for k in range(16):
                best = 0
                for c in range(17):
                    if votes[k, c] > best:
                        best = votes[k, c]
                        labels[i, j, k] = c


class _Extents(NamedTuple):
    """Where in the grid N solids can lie, and by how much they grow."""

    low: np.ndarray  # int64 [N, 3], first voxel
    high: np.ndarray  # int64 [N, 3], last voxel
    grow: np.ndarray  # float64 [N, 3] m, on every side, along each local axis

    @classmethod
    def of(cls, center, half, axes, shape) -> "_Extents":
        box = np.einsum("nij,ni->nj", np.abs(axes), half)  # of the box around the solid, along the grid's axes
        low = np.floor((center - box - GRID_MIN) / VOXEL_M).astype(np.int64)
        high = np.floor((center + box - GRID_MIN) / VOXEL_M).astype(np.int64)
        # Half a voxel's extent along the solid's local axis, less the tolerance; thin solids lose none.
        reach = np.where(shape[:, None] == BOX, 0.5 * np.abs(axes).sum(axis=2), 0.65) * VOXEL_M
        grow = reach - np.minimum(TOLERANCE_M, 0.5 * half)
        return cls(np.maximum(low, 0), np.minimum(high, np.array(GRID_SHAPE) - 1), grow)


@kernel
def _paint_solids(order, center, half, axes, shape, classes, hollow, extents, lowest, labels):
    """Label voxels that overlap solids given in the ego frame; ``axes`` [N, 3, 3] rows are their local axes."""
    for n in range(order.shape[0]):
        s = order[n]
        R = axes[s]
        low, high, grow = extents.low[s], extents.high[s], extents.grow[s]
        for i in range(low[0], high[0] + 1):
            x = -40.0 + (i + 0.5) * VOXEL_M - center[s, 0]
            for j in range(low[1], high[1] + 1):
                y = -40.0 + (j + 0.5) * VOXEL_M - center[s, 1]
                for k in range(max(low[2], lowest[i, j]), high[2] + 1):
                    z = -1.0 + (k + 0.5) * VOXEL_M - center[s, 2]
                    p = R[0, 0] * x + R[0, 1] * y + R[0, 2] * z
                    q = R[1, 0] * x + R[1, 1] * y + R[1, 2] * z
                    r = R[2, 0] * x + R[2, 1] * y + R[2, 2] * z
                    if abs(p) > half[s, 0] + grow[0] or abs(q) > half[s, 1] + grow[1] or abs(r) > half[s, 2] + grow[2]:
                        continue
                    if shape[s] != BOX:
                        u = (p / (half[s, 0] + grow[0])) ** 2 + (q / (half[s, 1] + grow[1])) ** 2
                        if shape[s] == ELLIPSOID:
                            u += (r / (half[s, 2] + grow[2])) ** 2
                        if u > 1:
                            continue
                    if hollow[s]:
                        inside = min(half[s, 0] - abs(p), half[s, 1] - abs(q), half[s, 2] - abs(r))
                        if inside > SHELL_M:
                            # The room is neither ground nor wall.
                            if labels[i, j, k] != classes[s]:
                                labels[i, j, k] = FREE_ID
                            continue
                    labels[i, j, k] = classes[s]


@kernel
def _observe(labels, ox, oy, oz, ends, mask):
    """Mark the voxels that rays pass through from the origin up to the first occupied one or their end.

    Origin and ``ends`` [N, 3] in voxel units; rays may start outside the grid and may leave it.
    """
    nx, ny, nz = labels.shape
    for n in range(ends.shape[0]):
        dx, dy, dz = ends[n, 0] - ox, ends[n, 1] - oy, ends[n, 2] - oz
        i, j, k = int(np.floor(ox)), int(np.floor(oy)), int(np.floor(oz))
        si, sj, sk = (1 if dx > 0 else -1), (1 if dy > 0 else -1), (1 if dz > 0 else -1)
        ddx = 1 / max(abs(dx), 1e-12)
        ddy = 1 / max(abs(dy), 1e-12)
        ddz = 1 / max(abs(dz), 1e-12)
        tx = ((i + 1 - ox) if dx > 0 else (ox - i)) * ddx
        ty = ((j + 1 - oy) if dy > 0 else (oy - j)) * ddy
        tz = ((k + 1 - oz) if dz > 0 else (oz - k)) * ddz
        while True:
            if 0 <= i < nx and 0 <= j < ny and 0 <= k < nz:
                mask[i, j, k] = 1
                if labels[i, j, k] != FREE_ID:
                    break
            elif (
                (i < 0 and si < 0)
                or (i >= nx and si > 0)
                or (j < 0 and sj < 0)
                or (j >= ny and sj > 0)
                or (k < 0 and sk < 0)
                or (k >= nz and sk > 0)
            ):
                break
            if tx < ty and tx < tz:
                if tx > 1:
                    break
                i += si
                tx += ddx
            elif ty < tz:
                if ty > 1:
                    break
                j += sj
                ty += ddy
            else:
                if tz > 1:
                    break
                k += sk
                tz += ddz


@kernel
def _move(T, points, out):
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        for a in range(3):
            out[n, a] = x * T[a, 0] + y * T[a, 1] + z * T[a, 2] + T[a, 3]


def move(T_dst_src: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``geometry.apply`` for float64 [N, 3] without BLAS, whose threads would spin while two scenes share the CPU."""
    out = np.empty_like(points)
    _move(T_dst_src, points, out)
    return out


def semantics(moment: Moment, T_global_ego: np.ndarray) -> np.ndarray:
    """Voxel classes uint8 [200, 200, 16] of the whole world around the ego, seen or not (17: free)."""
    labels = np.full(GRID_SHAPE, FREE, np.uint8)
    lowest = np.empty(GRID_SHAPE[:2], np.int64)
    lookup = lidarseg_lookup()
    _paint_ground(moment.ground, T_global_ego, lookup, np.empty((16, 18), np.int32), labels, lowest)
    g, T_ego_global = moment.solids.geometry.astype(np.float64), inverse(T_global_ego)
    center = apply(T_ego_global, g[:, :3])
    near = np.flatnonzero((np.abs(center[:, :2]) < 40 + g[:, 15:16]).all(axis=1))
    axes = g[near, 6:15].reshape(-1, 3, 3) @ T_ego_global[:3, :3].T
    classes = lookup[moment.solids.seg[near]]
    rank = np.zeros(256, np.int64)
    for position, name in enumerate(PAINT_ORDER):
        rank[class_id(name)] = position
    order = np.argsort(rank[classes], kind="stable")
    hollow = (classes == class_id("manmade")) & (g[near, 3:6].min(axis=1) > 1.0)
    center, half, shape = center[near], g[near, 3:6], moment.solids.shape[near]
    extents = _Extents.of(center, half, axes, shape)
    _paint_solids(order, center, half, axes, shape, classes, hollow, extents, np.maximum(lowest, 0), labels)
    return labels


def observe(labels: np.ndarray, origin_ego: np.ndarray, ends_ego: np.ndarray, mask: np.ndarray) -> None:
    """Add to ``mask`` uint8 [200, 200, 16] what rays from ``origin_ego`` [3] to ``ends_ego`` [N, 3] (m) observe."""
    o = (np.asarray(origin_ego, np.float64) - GRID_MIN) / VOXEL_M
    ends = (np.asarray(ends_ego, np.float64) - GRID_MIN) / VOXEL_M
    _observe(labels, o[0], o[1], o[2], np.ascontiguousarray(ends), mask)


@dataclass
class View:
    """A camera's rays: ``K`` [3, 3] px, ``T_ego_cam`` [4, 4] m, image (width, height) px."""

    K: np.ndarray
    T_ego_cam: np.ndarray
    image_size: tuple[int, int]

    def pixel_ray_ends(self, reach_m: float = 70.0) -> np.ndarray:
        """Far ends float64 [N, 3] m (ego) of rays through pixels less than a voxel apart at the grid's border."""
        K = self.K
        rays = _pixel_rays(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), *self.image_size)
        return move(self.T_ego_cam, rays * reach_m)

    def surface_ray_ends(self, surface: np.ndarray) -> np.ndarray:
        """Those of the ``surface`` points [N, 3] m (ego) that lie inside the image; see ``surface_points``.

        At grazing angles neighbouring pixels meet the ground metres apart; rays between them see it too.
        """
        pixels, depth = project(self.K, move(inverse(self.T_ego_cam), surface))
        u, v = pixels[:, 0], pixels[:, 1]
        width, height = self.image_size
        return surface[(depth > 0.1) & (u >= 0) & (v >= 0) & (u < width) & (v < height)]


@lru_cache(maxsize=16)  # the rig's cameras stay the same from frame to frame
def _pixel_rays(fx: float, fy: float, cx: float, cy: float, width: int, height: int) -> np.ndarray:
    """Unit rays float64 [N, 3] in the camera frame, read-only."""
    stride = max(1, int(fx * VOXEL_M / 56.0 / 1.3))  # the grid's corner lies 56 m away
    u, v = np.meshgrid(np.arange(0.5 * stride, width, stride), np.arange(0.5 * stride, height, stride))
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], axis=-1).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    rays.setflags(write=False)
    return rays


def surface_points(labels: np.ndarray) -> np.ndarray:
    """Points float64 [N, 3] m (ego) just under the top of every occupied voxel."""
    index = np.stack(np.unravel_index(np.flatnonzero(labels != FREE), labels.shape), axis=1)
    return GRID_MIN + (index + [0.5, 0.5, 0.9975]) * VOXEL_M
