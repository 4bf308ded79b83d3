"""The ground of a synthetic world: a height field with zones, and rays that meet it (numba)."""

import math
from typing import NamedTuple

import numpy as np

from gsrender_core.world.noise import inlined, kernel

NO_HIT = 1e9  # range of a ray that meets nothing


class Ground(NamedTuple):
    """Rasters [nx, ny] of the ground; cell (i, j) has its centre at origin + res * (i, j)."""

    height: np.ndarray  # float32 m
    zone: np.ndarray  # uint16, index into the zone tables
    along: np.ndarray  # float32 m, arc length of the nearest road
    across: np.ndarray  # float32 m, offset from its centre line, left positive
    mark: np.ndarray  # uint8, which paint the surface carries
    zone_seg: np.ndarray  # uint8 [Z], lidarseg id
    zone_texture: np.ndarray  # uint8 [Z]
    zone_look: np.ndarray  # float32 [Z, 8]: two colours, scale, road half width
    zone_seed: np.ndarray  # int64 [Z]
    x0: float
    y0: float
    res: float


@inlined
def _bilinear(h, fx, fy):
    nx, ny = h.shape
    fx = min(max(fx, 0.0), nx - 1.001)
    fy = min(max(fy, 0.0), ny - 1.001)
    i = int(fx)
    j = int(fy)
    u = fx - i
    v = fy - j
    i0, i1, j0, j1 = np.uintp(i), np.uintp(i + 1), np.uintp(j), np.uintp(j + 1)  # unsigned: none counts from the end
    return (h[i0, j0] * (1 - u) + h[i1, j0] * u) * (1 - v) + (h[i0, j1] * (1 - u) + h[i1, j1] * u) * v


@kernel
def ground_height(ground, x, y):
    """Bilinear height at (x, y); beyond the raster the border's."""
    return _bilinear(ground.height, (x - ground.x0) / ground.res, (y - ground.y0) / ground.res)


@kernel
def nearest_cell(ground, x, y):
    """Indices of the raster cell whose centre is nearest, clamped to the raster."""
    nx, ny = ground.height.shape
    i = int((x - ground.x0) / ground.res + 0.5)
    j = int((y - ground.y0) / ground.res + 0.5)
    return min(max(i, 0), nx - 1), min(max(j, 0), ny - 1)


@kernel
def trace_ground(ground, above, ox, oy, oz, dx, dy, dz, t_max):
    """Range to the height field, or NO_HIT. Marches by the clearance, then narrows the crossing down.

    ``above`` is the origin's height over the ground [m], 0 or more; many rays share it.
    """
    heights = ground.height  # taken out of the tuple once: each access costs reference counting
    px, py = (ox - ground.x0) / ground.res, (oy - ground.y0) / ground.res
    qx, qy = dx / ground.res, dy / ground.res
    horizontal = math.sqrt(dx * dx + dy * dy)
    # A clearance c cannot be used up faster than by the ray's descent plus the ground's rise (12 %);
    # where the ground is steeper (curbs, banks) the step overshoots and the crossing is bracketed.
    closing = max(-dz + 0.12 * horizontal, 0.02)
    before_t, before = 0.0, above
    t = max(above / closing, 0.02)
    for _ in range(160):
        clearance = oz + t * dz - _bilinear(heights, px + t * qx, py + t * qy)
        if clearance < 0.0:
            low, high, c_low, c_high = before_t, t, before, clearance
            for _ in range(12):  # regula falsi, halving the end that stays (Illinois)
                middle = low + (high - low) * c_low / (c_low - c_high)
                c = oz + middle * dz - _bilinear(heights, px + middle * qx, py + middle * qy)
                if abs(c) < 0.002:
                    return middle
                if c < 0:
                    high, c_high = middle, c
                    c_low *= 0.5
                else:
                    low, c_low = middle, c
                    c_high *= 0.5
            return high
        if clearance < 0.003 + 0.0001 * t:
            return t
        if t >= t_max or (dz > 0.05 and clearance > 12.0):
            return NO_HIT
        before_t, before = t, clearance
        t += max(clearance / closing, 0.02 + 0.001 * t)
    return t if dz < 0 else NO_HIT
