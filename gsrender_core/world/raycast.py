"""Ray casting against the synthetic world: a height field, and solids found through a 2D grid (numba).

All lengths are metres in the scene's global frame (z up). A ray is origin + t * direction with a unit
direction, so t is the range. Solids are boxes, ellipsoids and elliptic cylinders in frames of their own.
"""

import math
from typing import NamedTuple

import numpy as np

from gsrender_core.world.ground import NO_HIT, Ground, trace_ground
from gsrender_core.world.noise import kernel

BOX, ELLIPSOID, CYLINDER = 0, 1, 2
GROUND_ID, SKY_ID = -1, -2  # what a ray may hit besides a solid
GRID_CELL_M = 4.0


class Solids(NamedTuple):
    """Flat arrays of N solids. ``geometry`` [N, 16]: centre, half sizes, rows of
    ``R_local_global``, bounding radius."""

    geometry: np.ndarray  # float32 [N, 16]
    shape: np.ndarray  # uint8 [N]
    seg: np.ndarray  # uint8 [N], lidarseg id
    material: np.ndarray  # uint8 [N]
    color: np.ndarray  # float32 [N, 6], two RGB albedos
    seed: np.ndarray  # int64 [N]
    instance: np.ndarray  # int32 [N], -1 for what carries no annotation


class Grid(NamedTuple):
    """Which solids lie in which 4 m column: ``ids[start[c]:start[c + 1]]`` for column c, and its vertical limits."""

    start: np.ndarray  # int32 [C + 1]
    ids: np.ndarray  # int32
    top: np.ndarray  # float32 [C] m, of the highest solid
    floor: np.ndarray  # float32 [C] m, of the lowest ground: whatever is lower lies underground
    x0: float
    y0: float
    nx: int
    ny: int


@kernel
def _nonzero(q):
    return q if abs(q) > 1e-12 else 1e-12


@kernel
def intersect(geometry, shape, k, ox, oy, oz, dx, dy, dz):
    """Range at which a ray enters solid k, or NO_HIT (also when it starts inside)."""
    rx = ox - geometry[k, 0]
    ry = oy - geometry[k, 1]
    rz = oz - geometry[k, 2]
    px = geometry[k, 6] * rx + geometry[k, 7] * ry + geometry[k, 8] * rz
    py = geometry[k, 9] * rx + geometry[k, 10] * ry + geometry[k, 11] * rz
    pz = geometry[k, 12] * rx + geometry[k, 13] * ry + geometry[k, 14] * rz
    qx = geometry[k, 6] * dx + geometry[k, 7] * dy + geometry[k, 8] * dz
    qy = geometry[k, 9] * dx + geometry[k, 10] * dy + geometry[k, 11] * dz
    qz = geometry[k, 12] * dx + geometry[k, 13] * dy + geometry[k, 14] * dz
    if shape[k] == BOX:
        ix, iy, iz = 1.0 / _nonzero(qx), 1.0 / _nonzero(qy), 1.0 / _nonzero(qz)
        rx, ry, rz = abs(geometry[k, 3] * ix), abs(geometry[k, 4] * iy), abs(geometry[k, 5] * iz)
        near = max(max(-px * ix - rx, -py * iy - ry), -pz * iz - rz)
        far = min(min(-px * ix + rx, -py * iy + ry), -pz * iz + rz)
        if near > far or near <= 0:
            return NO_HIT
        return near
    px /= geometry[k, 3]
    qx /= geometry[k, 3]
    py /= geometry[k, 4]
    qy /= geometry[k, 4]
    if shape[k] == ELLIPSOID:
        pz /= geometry[k, 5]
        qz /= geometry[k, 5]
        a = qx * qx + qy * qy + qz * qz
        b = px * qx + py * qy + pz * qz
        c = px * px + py * py + pz * pz - 1
        root = b * b - a * c
        if root < 0 or c < 0:
            return NO_HIT
        t = (-b - math.sqrt(root)) / a
        return t if t > 0 else NO_HIT
    # Cylinder along its local z: the side, or whichever cap the ray enters first.
    near = -NO_HIT
    far = NO_HIT
    if abs(qz) < 1e-12:
        if abs(pz) > geometry[k, 5]:
            return NO_HIT
    else:
        near = (-geometry[k, 5] - pz) / qz
        far = (geometry[k, 5] - pz) / qz
        if near > far:
            near, far = far, near
    a = qx * qx + qy * qy
    c = px * px + py * py - 1
    if a < 1e-12:
        if c > 0:
            return NO_HIT
    else:
        b = px * qx + py * qy
        root = b * b - a * c
        if root < 0:
            return NO_HIT
        root = math.sqrt(root)
        near = max(near, (-b - root) / a)
        far = min(far, (-b + root) / a)
    if near > far or near <= 0:
        return NO_HIT
    return near


@kernel
def trace_solids(solids, grid, ox, oy, oz, dx, dy, dz, t_max, any_hit):
    """Nearest solid before ``t_max``: (range, index), or (t_max, SKY_ID). ``any_hit`` stops at the first found.

    The ray is followed until it is underground for sure; it may have met the ground a little before.
    """
    geometry, shape = solids.geometry, solids.shape
    starts, ids, tops, floors = grid.start, grid.ids, grid.top, grid.floor
    ny = grid.ny
    best = t_max
    found = np.intp(SKY_ID)
    i = int(math.floor((ox - grid.x0) / GRID_CELL_M))
    j = int(math.floor((oy - grid.y0) / GRID_CELL_M))
    if i < 0 or j < 0 or i >= grid.nx or j >= grid.ny:
        return best, found
    step_i = 1 if dx > 0 else -1
    step_j = 1 if dy > 0 else -1
    next_x = NO_HIT
    next_y = NO_HIT
    delta_x = NO_HIT
    delta_y = NO_HIT
    if abs(dx) > 1e-12:
        delta_x = GRID_CELL_M / abs(dx)
        next_x = (grid.x0 + (i + (1 if dx > 0 else 0)) * GRID_CELL_M - ox) / dx
    if abs(dy) > 1e-12:
        delta_y = GRID_CELL_M / abs(dy)
        next_y = (grid.y0 + (j + (1 if dy > 0 else 0)) * GRID_CELL_M - oy) / dy
    entered = 0.0
    while entered < best:
        leaves = min(next_x, next_y)
        cell = np.uintp(i * ny + j)  # unsigned: no test for indices counted from the end
        if oz + dz * entered < floors[cell]:
            break
        lowest = oz + dz * (entered if dz > 0 else min(leaves, best))
        if lowest < tops[cell]:
            for n in range(np.uintp(starts[cell]), np.uintp(starts[np.uintp(i * ny + j + 1)])):
                k = np.uintp(ids[n])
                # Most candidates fail here: the ray's line passes their bounding sphere, or it lies too far.
                rx = ox - geometry[k, 0]
                ry = oy - geometry[k, 1]
                rz = oz - geometry[k, 2]
                toward = rx * dx + ry * dy + rz * dz
                reach = geometry[k, 15]
                if rx * rx + ry * ry + rz * rz - toward * toward > reach * reach:
                    continue
                if toward > reach or -toward - reach > best:
                    continue
                t = intersect(geometry, shape, k, ox, oy, oz, dx, dy, dz)
                if t < best:
                    best = t
                    found = np.intp(k)
                    if any_hit:
                        return best, found
        if next_x < next_y:
            i += step_i
            entered = next_x
            next_x += delta_x
            if i < 0 or i >= grid.nx:
                break
        else:
            j += step_j
            entered = next_y
            next_y += delta_y
            if j < 0 or j >= grid.ny:
                break
    return best, found


@kernel
def trace(ground, solids, grid, above, ox, oy, oz, dx, dy, dz, t_max):
    """First thing a ray meets: (range, solid index | GROUND_ID | SKY_ID); ``above`` as for ``trace_ground``."""
    t, k = trace_solids(solids, grid, ox, oy, oz, dx, dy, dz, t_max, False)
    # The ground is the dearer of the two: most rays meet a solid first and need not look for the ground behind it.
    t_ground = trace_ground(ground, above, ox, oy, oz, dx, dy, dz, t)
    if k >= 0 and t < t_ground:
        return t, k
    if t_ground < t_max:
        return t_ground, GROUND_ID
    return NO_HIT, SKY_ID


@kernel
def _fill_grid(bounds, top_z, nx, ny, ids, start, top):
    """Count (``ids`` empty) or fill the columns of solids with cell bounds [N, 4]."""
    counting = ids.shape[0] == 0
    for k in range(bounds.shape[0]):
        for i in range(max(bounds[k, 0], 0), min(bounds[k, 1], nx - 1) + 1):
            for j in range(max(bounds[k, 2], 0), min(bounds[k, 3], ny - 1) + 1):
                c = i * ny + j
                if counting:
                    start[c + 1] += 1
                    top[c] = max(top[c], top_z[k])
                else:
                    ids[start[c]] = k
                    start[c] += 1


def column_floor(ground: Ground, size: tuple[int, int]) -> np.ndarray:
    """Lowest ground of every 4 m column, float32 [nx * ny] m, for a grid of ``size`` at the raster's origin."""
    floor = ground.height
    for axis in range(2):
        last = floor.shape[axis] - 1
        edges = np.arange(size[axis] + 1) * GRID_CELL_M / ground.res
        # A column reaches one raster cell into its neighbours, because heights are interpolated.
        low, high = np.clip(np.floor(edges[:-1]) - 1, 0, last), np.clip(np.ceil(edges[1:]) + 1, 0, last)
        parts = [floor.take(range(int(a), int(b) + 1), axis).min(axis) for a, b in zip(low, high, strict=True)]
        floor = np.stack(parts, axis)
    return floor.reshape(-1)


def build_grid(
    geometry: np.ndarray,
    shape: np.ndarray,
    origin: tuple[float, float],
    size: tuple[int, int],
    floor: np.ndarray | None = None,
) -> Grid:
    """Column grid of solids: ``geometry`` [N, 16], ``origin`` (x, y) m, ``size`` in 4 m cells.

    ``floor`` [nx * ny] m is the lowest ground of every column; without it nothing is taken to be underground.
    """
    nx, ny = size
    R = geometry[:, 6:15].reshape(-1, 3, 3).astype(np.float64)
    half = geometry[:, 3:6].astype(np.float64)
    extent = np.einsum("nij,ni->nj", np.abs(R), half)  # of the box around the solid, for every shape
    low = geometry[:, :2] - extent[:, :2] - 1e-3
    high = geometry[:, :2] + extent[:, :2] + 1e-3
    bounds = np.empty((len(geometry), 4), dtype=np.int64)
    for axis in range(2):
        bounds[:, 2 * axis] = np.floor((low[:, axis] - origin[axis]) / GRID_CELL_M)
        bounds[:, 2 * axis + 1] = np.floor((high[:, axis] - origin[axis]) / GRID_CELL_M)
    top_z = (geometry[:, 2] + extent[:, 2] + 1e-3).astype(np.float32)
    start = np.zeros(nx * ny + 1, dtype=np.int64)
    top = np.full(nx * ny, -1e9, dtype=np.float32)
    _fill_grid(bounds, top_z, nx, ny, np.empty(0, dtype=np.int32), start, top)
    start = np.cumsum(start)
    ids = np.empty(max(int(start[-1]), 1), dtype=np.int32)
    _fill_grid(bounds, top_z, nx, ny, ids, start.copy(), top)
    if floor is None:
        floor = np.full(nx * ny, -1e9, dtype=np.float32)
    return Grid(start.astype(np.int32), ids, top, floor, float(origin[0]), float(origin[1]), nx, ny)
