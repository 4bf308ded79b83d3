"""Occ3D labels of the synthetic world: voxel classes of everything there is, and what the sensors observe.

Grid (Occ3D): ego frame at the LiDAR stamp, x and y in [-40, 40] m, z in [-1, 5.4] m, 0.4 m, indexed [x, y, z].
"""

from dataclasses import dataclass

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
def _paint_ground(ground, T, lookup, labels, lowest):
    """Label every voxel that the ground's surface passes through; ``lowest`` [X, Y] is the deepest of a column."""
    votes = np.zeros((16, 18), np.int32)
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


@kernel
def _paint_solids(order, center, half, axes, shape, classes, hollow, lowest, labels):
    """Label voxels that overlap solids given in the ego frame; ``axes`` [N, 3, 3] rows are their local axes."""
    for n in range(order.shape[0]):
        s = order[n]
        R = axes[s]
        low = np.empty(3, np.int64)
        high = np.empty(3, np.int64)
        grow = np.empty(3)
        for a in range(3):
            extent = abs(R[0, a]) * half[s, 0] + abs(R[1, a]) * half[s, 1] + abs(R[2, a]) * half[s, 2]
            origin = -1.0 if a == 2 else -40.0
            low[a] = max(int(np.floor((center[s, a] - extent - origin) / VOXEL_M)), 0)
            high[a] = min(int(np.floor((center[s, a] + extent - origin) / VOXEL_M)), labels.shape[a] - 1)
            # Half a voxel's extent along the solid's local axis, less the tolerance; thin solids lose none.
            reach = 0.5 * VOXEL_M * (abs(R[a, 0]) + abs(R[a, 1]) + abs(R[a, 2]))
            if shape[s] != BOX:
                reach = 0.65 * VOXEL_M
            grow[a] = reach - min(TOLERANCE_M, 0.5 * half[s, a])
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


def semantics(moment: Moment, T_global_ego: np.ndarray) -> np.ndarray:
    """Voxel classes uint8 [200, 200, 16] of the whole world around the ego, seen or not (17: free)."""
    labels = np.full(GRID_SHAPE, FREE, np.uint8)
    lowest = np.empty(GRID_SHAPE[:2], np.int64)
    lookup = lidarseg_lookup()
    _paint_ground(moment.ground, T_global_ego, lookup, labels, lowest)
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
    _paint_solids(
        order,
        center[near],
        g[near, 3:6],
        axes,
        moment.solids.shape[near],
        classes,
        hollow,
        np.maximum(lowest, 0),
        labels,
    )
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
        width, height = self.image_size
        stride = max(1, int(self.K[0, 0] * VOXEL_M / 56.0 / 1.3))  # the grid's corner lies 56 m away
        u, v = np.meshgrid(np.arange(0.5 * stride, width, stride), np.arange(0.5 * stride, height, stride))
        K = self.K
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], axis=-1).reshape(-1, 3)
        return apply(self.T_ego_cam, rays / np.linalg.norm(rays, axis=1, keepdims=True) * reach_m)

    def surface_ray_ends(self, labels: np.ndarray) -> np.ndarray:
        """Points float64 [N, 3] m (ego) just under the top of every occupied voxel inside the image.

        At grazing angles neighbouring pixels meet the ground metres apart; rays between them see it too.
        """
        index = np.argwhere(labels != FREE)
        points = GRID_MIN + (index + [0.5, 0.5, 0.9975]) * VOXEL_M
        pixels, depth = project(self.K, apply(inverse(self.T_ego_cam), points))
        inside = (depth > 0.1) & (pixels >= 0).all(axis=1) & (pixels < self.image_size).all(axis=1)
        return points[inside]
