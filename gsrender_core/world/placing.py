"""Placing of objects on a layout: only where the whole footprint lies in the zone an object belongs to."""

from dataclasses import dataclass

import numpy as np

from gsrender_core.world.parts import Blueprint
from gsrender_core.world.street import Layout, Road


@dataclass
class Placement:
    """An object that stays where it is: position [m] and heading [rad]; ``level`` keeps it upright on slopes."""

    blueprint: Blueprint
    x: float
    y: float
    yaw: float
    level: bool = True


class Placer:
    """Places objects on a layout, each only where all of its footprint lies in the zone it belongs to."""

    def __init__(self, rng, layout: Layout, ego_offset: float):
        self.rng, self.layout, self.ground = rng, layout, layout.ground
        self.ego_offset = ego_offset  # m left of the main road's centre line
        self.placements: list[Placement] = []
        self.parked: list[tuple[int, float, float, float]] = []  # road, s, t, half length

    def zone_at(self, x, y) -> np.ndarray:
        g = self.ground
        i = np.clip(np.round((np.asarray(x) - g.x0) / g.res).astype(int), 0, g.zone.shape[0] - 1)
        j = np.clip(np.round((np.asarray(y) - g.y0) / g.res).astype(int), 0, g.zone.shape[1] - 1)
        return g.zone[i, j]

    def fits(self, x, y, yaw, half_length, half_width, zone: int) -> bool:
        """Whether the whole footprint lies in ``zone`` and inside the known ground."""
        g = self.ground
        n = max(3, int(half_length / 1.5) * 2 + 1)
        a, b = np.meshgrid(np.linspace(-half_length, half_length, n), np.linspace(-half_width, half_width, 5))
        px, py = x + a * np.cos(yaw) - b * np.sin(yaw), y + a * np.sin(yaw) + b * np.cos(yaw)
        nx, ny = g.zone.shape
        if (
            px.min() < g.x0 + 2
            or py.min() < g.y0 + 2
            or px.max() > g.x0 + g.res * nx - 2
            or py.max() > g.y0 + g.res * ny - 2
        ):
            return False
        return bool(np.all(self.zone_at(px, py) == zone))

    def put(self, blueprint: Blueprint, road: Road, s, t, zone: int, turn=0.0, level=True, half=None) -> bool:
        """Place at road coordinates if the footprint (``half`` sizes, default from the box) fits the zone."""
        x, y, heading = road.at(s, t)
        half = half or (max(blueprint.size[0] / 2, 0.3), max(blueprint.size[1] / 2, 0.3))
        if not self.fits(x, y, heading + turn, *half, zone):
            return False
        self.placements.append(Placement(blueprint, float(x), float(y), float(heading + turn), level))
        return True
