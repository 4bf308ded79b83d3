"""Procedural streets: roads and the lots along them."""

from dataclasses import dataclass, field

import numpy as np

from gsrender_core.world.ground import Ground
from gsrender_core.world.terrain import build_ground
from gsrender_core.world.zones import MARK_CROSSWALK, MARK_LANES, ZoneTable

LEAD_M = 150.0  # main road before the ego's start and after its end
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
                depth = {"building": 24, "yard": 24, "parking": 20, "plaza": 22, "park": 26, "wall": 22, "site": 22}[
                    kind
                ]
                ground = {
                    "building": rng.choice(
                        ["grass", "walk", "plaza", "gravel", "road"], p=[0.56, 0.16, 0.06, 0.06, 0.16]
                    ),
                    "yard": "grass",
                    "parking": "road",
                    "plaza": rng.choice(["plaza", "gravel"], p=[0.75, 0.25]),
                    "park": rng.choice(["grass", "dirt"], p=[0.85, 0.15]),
                    "wall": "grass",
                    "site": "dirt",
                }[kind]
                setback = rng.uniform(0.8, 4.0) if style == "urban" else rng.uniform(1.5, 8.0)
                road.lots.append(
                    Lot(s, s + length, side, str(kind), depth + rng.uniform(0, 8), setback, zones.of_kind(ground))
                )
                s += length


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
    layout = Layout(roads, junctions, build_ground(rng, roads, zones, path, style), LEAD_M, travel)
    _paint_crosswalks(rng, layout)
    return layout
