"""Procedural streets: roads, lots along them, and the ground rasters they make."""

from dataclasses import dataclass, field

import numpy as np

from gsrender_core.world.noise import kernel
from gsrender_core.world.parts import SEG
from gsrender_core.world.raycast import Ground

RASTER_M = 0.2
MARGIN_M = 115.0  # ground known beyond the ego's path
LEAD_M = 150.0  # main road before the ego's start and after its end
REACH_M = 62.0  # how far road coordinates are computed
# Ground textures (shading.py) and paint codes.
ASPHALT, PAVING, PLAZA, GRASS, DIRT, GRAVEL = range(6)
MARK_NONE, MARK_LANES, MARK_CROSSWALK, MARK_PARKING = range(4)

STYLES = {  # how often a lot is of a kind
    "urban": {"building": 0.66, "parking": 0.06, "plaza": 0.08, "park": 0.12, "wall": 0.08},
    "suburban": {"yard": 0.5, "building": 0.16, "park": 0.14, "wall": 0.14, "parking": 0.06},
    "green": {"park": 0.42, "yard": 0.24, "building": 0.14, "wall": 0.13, "parking": 0.07},
    "industrial": {"building": 0.5, "parking": 0.18, "site": 0.08, "park": 0.16, "plaza": 0.08},
}


@dataclass
class Lot:
    """A stretch [s0, s1] m of one side (+1 left, -1 right) of a road, ``depth`` m deep behind the sidewalk."""

    s0: float
    s1: float
    side: int
    kind: str
    depth: float
    setback: float
    zone: int


@dataclass
class Road:
    """A road: centre line [n, 2] m at 1 m steps with headings [n] rad, half widths in metres."""

    xy: np.ndarray
    heading: np.ndarray
    half_width: float
    walk_width: float
    zone: int = 0
    walk_zone: int = 0
    lots: list[Lot] = field(default_factory=list)

    @property
    def length(self) -> float:
        return len(self.xy) - 1.0

    def at(self, s, t=0.0):
        """Position x, y [m] and heading [rad] at arc length ``s``, offset ``t`` to the left; arrays welcome."""
        grid = np.arange(len(self.xy))
        heading = np.interp(s, grid, self.heading)
        x = np.interp(s, grid, self.xy[:, 0]) - np.sin(heading) * t
        y = np.interp(s, grid, self.xy[:, 1]) + np.cos(heading) * t
        return x, y, heading


@dataclass
class Layout:
    """The streets of one scene. ``junctions``: (arc length on the main road, crossing road's index)."""

    roads: list[Road]
    junctions: list[tuple[float, int]]
    ground: Ground
    start_s: float
    travel: float


class ZoneTable:
    """Rows of the zone tables: what a patch of ground is and how it looks."""

    def __init__(self, rng):
        self.rng, self.rows = rng, []

    def add(self, seg: str, texture: int, color, scale: float = 1.0, half_width: float = 0.0) -> int:
        second = np.clip(np.asarray(color) * self.rng.uniform(0.75, 1.2) + self.rng.normal(0, 0.015, 3), 0.02, 0.9)
        look = [*np.clip(color, 0.02, 0.9), *second, scale, half_width]
        self.rows.append((SEG[seg], texture, look, int(self.rng.integers(1 << 30))))
        return len(self.rows) - 1

    def of_kind(self, kind: str) -> int:
        """A new zone of a kind of ground, colours drawn so that kinds overlap."""
        u = self.rng.uniform
        grey = u(0.24, 0.5) * (1 + u(-0.08, 0.1, 3) * [1, 0.4, -1])
        if kind == "road":
            return self.add("flat.driveable_surface", ASPHALT, u(0.13, 0.34) * (1 + u(-0.05, 0.05, 3)))
        if kind == "walk":
            return self.add("flat.sidewalk", PAVING, grey, u(0.6, 1.6))
        if kind == "plaza":
            warm = grey * [1.15, 0.95, 0.8] if self.rng.random() < 0.6 else grey
            return self.add("flat.other", PLAZA, warm, u(0.7, 1.8))
        if kind == "gravel":
            return self.add("flat.other", GRAVEL, grey * [1.08, 1.0, 0.86], 1.0)
        if kind == "dirt":
            return self.add("flat.terrain", DIRT, np.array([0.36, 0.27, 0.18]) * u(0.7, 1.25), 1.0)
        green = np.array([[0.14, 0.22, 0.06], [0.22, 0.26, 0.09], [0.33, 0.3, 0.14]][self.rng.integers(3)])
        return self.add("flat.terrain", GRASS, green * u(0.8, 1.25), 1.0)

    def arrays(self):
        seg, texture, look, seed = zip(*self.rows, strict=True)
        return np.array(seg, np.uint8), np.array(texture, np.uint8), np.array(look, np.float32), np.array(seed, np.int64)


def _center_line(rng, length: float, start, heading: float, bend: float):
    """Points at 1 m steps whose curvature changes smoothly and never turns far off ``heading``."""
    n = int(length) + 1
    knots, value, turned = [], [], 0.0
    s = 0.0
    while s < length:
        step = rng.uniform(25, 60)
        curvature = 0.0 if rng.random() < 0.3 else rng.uniform(-bend, bend)
        if abs(turned + curvature * step) > 1.1:
            curvature = -np.sign(turned) * abs(curvature)
        turned += curvature * step
        knots.append(s + step / 2)
        value.append(curvature)
        s += step
    curvature = np.interp(np.arange(n), knots, value)
    angle = heading + np.concatenate([[0], np.cumsum(curvature)[:-1]])
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(start) + np.concatenate([[[0, 0]], np.cumsum(steps, axis=0)[:-1]]), angle


def _roads(rng, travel: float, style: str):
    urban = style in ("urban", "industrial")
    bend = rng.choice([0.002, 0.01, 0.025], p=[0.3, 0.4, 0.3])
    xy, heading = _center_line(rng, travel + 2 * LEAD_M, rng.uniform(600, 900, 2), rng.uniform(-np.pi, np.pi), bend)
    roads = [Road(xy, heading, rng.uniform(3.6, 7.0) if not urban else rng.uniform(4.6, 7.5), rng.uniform(1.6, 3.2))]
    junctions = []
    s = LEAD_M + rng.uniform(-45, 35)
    while s < LEAD_M + travel + 60 and len(junctions) < 4:
        x, y, direction = roads[0].at(s)
        turn = direction + rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.16)
        half, walk = rng.uniform(3.2, 6.5), rng.uniform(1.5, 2.6)
        ahead, angle = _center_line(rng, 140, (x, y), turn, 0.008)
        if rng.random() < 0.65:  # crossing; otherwise a T-junction
            back, back_angle = _center_line(rng, 140, (x, y), turn + np.pi, 0.008)
            ahead = np.concatenate([back[:0:-1], ahead])
            angle = np.concatenate([back_angle[:0:-1] - np.pi, angle])
        roads.append(Road(ahead, angle, half, walk))
        junctions.append((float(s), len(roads) - 1))
        s += rng.uniform(55, 120)
    return roads, junctions


def _lots(rng, roads, zones: ZoneTable, style: str, wish_site_s: float | None):
    weights = STYLES[style]
    for index, road in enumerate(roads):
        road.zone, road.walk_zone = zones.of_kind("road"), zones.of_kind("walk")
        for side in (-1, 1):
            s = 0.0
            while s < road.length:
                kind = rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values()))
                length = rng.uniform(14, 34)
                if index == 0 and side == -1 and wish_site_s is not None and s <= wish_site_s < s + length:
                    kind = "site"
                depth = {"building": 24, "yard": 24, "parking": 20, "plaza": 22, "park": 26, "wall": 22, "site": 22}[kind]
                ground = {"building": rng.choice(["grass", "walk", "plaza", "gravel", "road"], p=[0.56, 0.16, 0.06, 0.06, 0.16]),
                          "yard": "grass", "parking": "road", "plaza": rng.choice(["plaza", "gravel"], p=[0.75, 0.25]),
                          "park": rng.choice(["grass", "dirt"], p=[0.85, 0.15]), "wall": "grass", "site": "dirt"}[kind]
                setback = rng.uniform(0.8, 4.0) if style == "urban" else rng.uniform(1.5, 8.0)
                road.lots.append(Lot(s, s + length, side, str(kind), depth + rng.uniform(0, 8), setback, zones.of_kind(ground)))
                s += length


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


def _waves(rng, X, Y, wavelength, grade):
    """Sum of four plane waves whose slopes add up to about ``grade``."""
    out = np.zeros_like(X)
    for _ in range(4):
        length, direction = rng.uniform(*wavelength), rng.uniform(0, 2 * np.pi)
        k = 2 * np.pi / length
        out += grade / 2 / k * np.sin(k * (X * np.cos(direction) + Y * np.sin(direction)) + rng.uniform(0, 2 * np.pi))
    return out


def _ground(rng, roads, zones: ZoneTable, path, style: str) -> Ground:
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
    X, Y = np.meshgrid(low[0] + RASTER_M * np.arange(nx), low[1] + RASTER_M * np.arange(ny), indexing="ij")
    grade = rng.choice([0.006, 0.018, 0.036], p=[0.25, 0.4, 0.35])
    height = _waves(rng, X, Y, (90, 280), grade)
    bank = 0.4 if style == "urban" else rng.uniform(0.5, 1.6)
    height += (_waves(rng, X, Y, (60, 140), 0.1) / 1.8 * bank + 0.4 * bank) * _smoothstep((edge - 3.5) / 14)
    height += 0.1 * (zones_of(tables, "flat.terrain")[zone]) * _waves(rng, X, Y, (5, 14), 0.25) * _smoothstep((edge - 2) / 4)
    driveable = zones_of(tables, "flat.driveable_surface")[zone]
    height += np.where(driveable, 0.0, rng.uniform(0.11, 0.19))
    return Ground(height.astype(np.float32), zone, along, across, mark, *tables, float(low[0]), float(low[1]), RASTER_M)


def zones_of(tables, seg: str) -> np.ndarray:
    """Boolean [Z]: which zones are of a lidarseg category."""
    return tables[0] == SEG[seg]


def _paint_crosswalks(rng, layout: Layout):
    main, ground = layout.roads[0], layout.ground
    for s, index in layout.junctions:
        for offset in (-1, 1):
            if rng.random() < 0.25:
                continue
            first = s + offset * (layout.roads[index].half_width + 3.2)
            stripe = (ground.zone == main.zone) & (np.abs(ground.along - first) < 1.6) & (ground.mark == MARK_LANES)
            ground.mark[stripe] = MARK_CROSSWALK


def build_layout(rng, travel: float, wish_site: bool) -> Layout:
    """Streets for an ego that drives ``travel`` metres along the main road; ``wish_site`` asks for a building site."""
    style = str(rng.choice(list(STYLES), p=[0.38, 0.26, 0.2, 0.16]))
    zones = ZoneTable(rng)
    roads, junctions = _roads(rng, travel, style)
    _lots(rng, roads, zones, style, LEAD_M + rng.uniform(8, 25) + travel / 2 if wish_site else None)
    path = roads[0].xy[int(LEAD_M) : int(LEAD_M + travel) + 2]
    layout = Layout(roads, junctions, _ground(rng, roads, zones, path, style), LEAD_M, travel)
    _paint_crosswalks(rng, layout)
    return layout
