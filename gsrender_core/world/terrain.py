"""Ground rasters of a layout: heights, zones and road coordinates."""

import numpy as np

from gsrender_core.world.ground import Ground
from gsrender_core.world.noise import kernel
from gsrender_core.world.parts import SEG
from gsrender_core.world.zones import MARK_LANES, MARK_NONE, MARK_PARKING, ZoneTable

RASTER_M = 0.2
MARGIN_M = 115.0  # ground known beyond the ego's path
REACH_M = 62.0  # how far road coordinates are computed


@kernel
def _road_coordinates(xy, first_s, step, origin, res, distance, along, across):
    """Keep, per cell, the nearest segment's distance, arc length and signed offset (in place)."""
    nx, ny = distance.shape
    for k in range(xy.shape[0] - 1):
        ax, ay = xy[k]
        ux, uy = xy[k + 1, 0] - ax, xy[k + 1, 1] - ay
        length = np.sqrt(ux * ux + uy * uy)
        if length < 1e-9:
            continue
        ux /= length
        uy /= length
        i0 = max(int((min(ax, xy[k + 1, 0]) - REACH_M - origin[0]) / res), 0)
        i1 = min(int((max(ax, xy[k + 1, 0]) + REACH_M - origin[0]) / res), nx - 1)
        j0 = max(int((min(ay, xy[k + 1, 1]) - REACH_M - origin[1]) / res), 0)
        j1 = min(int((max(ay, xy[k + 1, 1]) + REACH_M - origin[1]) / res), ny - 1)
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                px = origin[0] + i * res - ax
                py = origin[1] + j * res - ay
                forward = px * ux + py * uy
                left = ux * py - uy * px
                clamped = min(max(forward, 0.0), length)
                d = np.sqrt((forward - clamped) ** 2 + left * left)
                if d < distance[i, j]:
                    distance[i, j] = d
                    along[i, j] = first_s + k * step + clamped * step / length
                    across[i, j] = d if left > 0 else -d


def _smoothstep(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _waves(rng, x, y, wavelength, grade):
    """Sum of four plane waves over the raster with axes ``x``, ``y`` [m]; their slopes add up to about ``grade``."""
    rows, columns = [], []  # sin(a + b) = sin a cos b + cos a sin b: sines along the axes only
    for _ in range(4):
        length, direction = rng.uniform(*wavelength), rng.uniform(0, 2 * np.pi)
        k = 2 * np.pi / length
        a, b = k * x * np.cos(direction), k * y * np.sin(direction) + rng.uniform(0, 2 * np.pi)
        rows += [grade / 2 / k * np.sin(a), grade / 2 / k * np.cos(a)]
        columns += [np.cos(b), np.sin(b)]
    return np.stack(rows, axis=1) @ np.stack(columns)


def build_ground(rng, roads, zones: ZoneTable, path, style: str) -> Ground:
    low, high = path.min(axis=0) - MARGIN_M, path.max(axis=0) + MARGIN_M
    nx, ny = (np.ceil((high - low) / RASTER_M)).astype(int) + 1
    backland = zones.of_kind("grass")
    edge = np.full((nx, ny), 1e3, np.float32)  # distance to the nearest road's edge
    along, across = np.zeros((nx, ny), np.float32), np.zeros((nx, ny), np.float32)
    nearest = np.zeros((nx, ny), np.uint8)
    on_road, walk = np.zeros((nx, ny), np.uint8), np.zeros((nx, ny), bool)
    for index, road in enumerate(roads):
        d, s, t = np.full((nx, ny), 1e3, np.float32), np.zeros((nx, ny), np.float32), np.zeros((nx, ny), np.float32)
        _road_coordinates(road.xy[::4].copy(), 0.0, 4.0, low, RASTER_M, d, s, t)
        d -= road.half_width
        closer = d < edge
        edge, along, across = np.where(closer, d, edge), np.where(closer, s, along), np.where(closer, t, across)
        nearest[closer] = index
        on_road += d < 0
        walk |= d < road.walk_width
    zone = np.full((nx, ny), backland, np.uint16)
    mark = np.zeros((nx, ny), np.uint8)
    for index, road in enumerate(roads):
        mine = nearest == index
        for side in (-1, 1):
            lots = [lot for lot in road.lots if lot.side == side]
            here = mine & (across * side > 0) & (edge < 45)
            which = np.clip(np.searchsorted([lot.s1 for lot in lots], along[here]), 0, len(lots) - 1)
            inside = edge[here] - road.walk_width < np.array([lot.depth for lot in lots])[which]
            zone[here] = np.where(inside, np.array([lot.zone for lot in lots])[which], backland)
            parking = np.array([lot.kind == "parking" for lot in lots])[which] & inside
            mark[here] = np.where(parking, MARK_PARKING, MARK_NONE)
        zone[mine & walk] = road.walk_zone
    tables = zones.arrays()
    for index, road in enumerate(roads):
        surface = (nearest == index) & (on_road > 0)
        zone[surface] = road.zone
        mark[surface] = np.where(on_road[surface] > 1, MARK_NONE, MARK_LANES)
        tables[2][road.zone, 7] = road.half_width
    mark[walk & (on_road == 0)] = MARK_NONE
    x, y = low[0] + RASTER_M * np.arange(nx), low[1] + RASTER_M * np.arange(ny)
    grade = rng.choice([0.006, 0.018, 0.036], p=[0.25, 0.4, 0.35])
    height = _waves(rng, x, y, (90, 280), grade)
    bank = 0.4 if style == "urban" else rng.uniform(0.5, 1.6)
    height += (_waves(rng, x, y, (60, 140), 0.1) / 1.8 * bank + 0.4 * bank) * _smoothstep((edge - 3.5) / 14)
    height += (
        0.1 * (zones_of(tables, "flat.terrain")[zone]) * _waves(rng, x, y, (5, 14), 0.25) * _smoothstep((edge - 2) / 4)
    )
    driveable = zones_of(tables, "flat.driveable_surface")[zone]
    height += np.where(driveable, 0.0, rng.uniform(0.11, 0.19))
    return Ground(height.astype(np.float32), zone, along, across, mark, *tables, float(low[0]), float(low[1]), RASTER_M)


def zones_of(tables, seg: str) -> np.ndarray:
    """Boolean [Z]: which zones are of a lidarseg category."""
    return tables[0] == SEG[seg]
