"""Furnishing of a layout: buildings, plants, street furniture, parked vehicles and building sites."""

from dataclasses import dataclass

import numpy as np

from gsrender_core.world import scenery, street_objects, vehicles
from gsrender_core.world.parts import Blueprint
from gsrender_core.world.street import Layout, Lot, Road
from gsrender_core.world.zones import MARK_LANES

ANNOTATED = ("human.", "vehicle.", "movable_object.", "static_object.", "animal")  # categories with boxes


@dataclass
class Placement:
    """An object that stays where it is: position [m] and heading [rad]; ``level`` keeps it upright on slopes."""

    blueprint: Blueprint
    x: float
    y: float
    yaw: float
    level: bool = True


class Furnisher:
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

    def furnish(self, wish: str) -> list[Placement]:
        """Everything that stands still; ``wish`` names the rare thing this scene must show near the ego's path."""
        for index, road in enumerate(self.layout.roads):
            self._curbside(index, road, wish if index == 0 else "")
            self._sidewalk(road)
            for lot in road.lots:
                getattr(self, f"_{lot.kind}")(road, lot)
        for s, index in self.layout.junctions:
            self._signals(s, index)
        self._backland()
        return self.placements

    # Lots: t runs outwards from the back of the sidewalk.
    def _out(self, road: Road, lot: Lot, distance: float) -> float:
        return lot.side * (road.half_width + road.walk_width + distance)

    def _building(self, road, lot, height=None):
        rng = self.rng
        length = lot.s1 - lot.s0 - rng.uniform(0, 3)
        depth = min(rng.uniform(10, 18), lot.depth - lot.setback - 0.5)
        height = height or rng.choice([rng.uniform(4, 8), rng.uniform(8, 22)])
        for shrink in (1.0, 0.7, 0.45):
            b = scenery.building(rng, length * shrink, depth, height)
            middle = self._out(road, lot, lot.setback + depth / 2)
            if self.put(
                b,
                road,
                (lot.s0 + lot.s1) / 2,
                middle,
                lot.zone,
                0 if lot.side > 0 else np.pi,
                half=(length * shrink / 2, depth / 2),
            ):
                break
        for s in np.arange(lot.s0 + 1, lot.s1 - 1, rng.uniform(2.5, 7)):
            if lot.setback > 2.5 and rng.random() < 0.6:
                plant = scenery.bush(rng) if rng.random() < 0.7 else scenery.tree(rng, small=True)
                self.put(plant, road, s, self._out(road, lot, rng.uniform(1.0, lot.setback - 1)), lot.zone)

    def _yard(self, road, lot):
        rng = self.rng
        if rng.random() < 0.65:
            front = scenery.hedge if rng.random() < 0.6 else scenery.wall
            length = (lot.s1 - lot.s0) / 2 - 1.5
            for s in (lot.s0 + length / 2 + 0.3, lot.s1 - length / 2 - 0.3):
                self.put(front(rng, length), road, s, self._out(road, lot, 0.8), lot.zone, half=(length / 2, 0.4))
        self._building(road, lot, rng.uniform(4, 8))
        self._trees(road, lot, rng.integers(3, 8), 0.5)

    def _trees(self, road, lot, count, small):
        for _ in range(int(count)):
            t = self._out(road, lot, self.rng.uniform(2, lot.depth - 1))
            b = scenery.tree(self.rng, self.rng.random() < small)
            self.put(b, road, self.rng.uniform(lot.s0, lot.s1), t, lot.zone, half=(0.8, 0.8))

    def _park(self, road, lot):
        rng = self.rng
        self._trees(road, lot, rng.integers(8, 18), 0.25)
        for _ in range(rng.integers(3, 12)):
            self.put(
                scenery.bush(rng),
                road,
                rng.uniform(lot.s0, lot.s1),
                self._out(road, lot, rng.uniform(1, lot.depth)),
                lot.zone,
            )
        if rng.random() < 0.4:
            n = lot.s1 - lot.s0 - 1
            self.put(
                scenery.hedge(rng, n),
                road,
                (lot.s0 + lot.s1) / 2,
                self._out(road, lot, rng.uniform(0.8, 8)),
                lot.zone,
                half=(n / 2, 0.4),
            )
        if rng.random() < 0.4:
            self.put(
                street_objects.clutter(rng),
                road,
                rng.uniform(lot.s0, lot.s1),
                self._out(road, lot, 1.5),
                lot.zone,
                rng.uniform(-3, 3),
            )

    def _parking(self, road, lot):
        rng = self.rng
        fullness = rng.uniform(0.1, 0.6)
        for row in (3.0, 12.0):
            for s in np.arange(lot.s0 + 1.5, lot.s1 - 1.2, 2.7):
                if rng.random() < fullness and row + 3 < lot.depth:
                    b = vehicles.car(rng) if rng.random() < 0.93 else vehicles.truck(rng)
                    self.put(
                        b,
                        road,
                        s,
                        self._out(road, lot, row),
                        lot.zone,
                        rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.03),
                        False,
                    )

    def _plaza(self, road, lot):
        rng = self.rng
        self._trees(road, lot, rng.integers(0, 4), 0.7)
        for _ in range(rng.integers(0, 4)):
            self.put(
                street_objects.clutter(rng),
                road,
                rng.uniform(lot.s0, lot.s1),
                self._out(road, lot, rng.uniform(1, lot.depth)),
                lot.zone,
                rng.uniform(-3, 3),
            )
        if rng.random() < 0.6:
            b = scenery.building(rng, lot.s1 - lot.s0 - 2, 6, rng.uniform(5, 18))
            self.put(
                b,
                road,
                (lot.s0 + lot.s1) / 2,
                self._out(road, lot, lot.depth - 4),
                lot.zone,
                0 if lot.side > 0 else np.pi,
                half=((lot.s1 - lot.s0 - 2) / 2, 3),
            )

    def _wall(self, road, lot):
        n = lot.s1 - lot.s0
        self.put(
            scenery.wall(self.rng, n),
            road,
            (lot.s0 + lot.s1) / 2,
            self._out(road, lot, self.rng.uniform(0.5, 3)),
            lot.zone,
            half=(n / 2 - 0.2, 0.2),
        )
        self._trees(road, lot, self.rng.integers(4, 11), 0.3)
        if self.rng.random() < 0.6:
            self._building(road, lot)

    def _site(self, road, lot):
        rng = self.rng
        color = (
            np.array([0.7, 0.2, 0.12]) if rng.random() < 0.5 else np.array([0.55, 0.54, 0.5]) * rng.uniform(0.7, 1.2)
        )
        for s in np.arange(lot.s0 + 1.2, lot.s1 - 1, 2.1):
            self.put(street_objects.barrier(rng, color), road, s, self._out(road, lot, 0.7), lot.zone)
        for _ in range(rng.integers(1, 3)):
            self.put(
                vehicles.excavator(rng),
                road,
                rng.uniform(lot.s0 + 3, lot.s1 - 3),
                self._out(road, lot, rng.uniform(5, 12)),
                lot.zone,
                rng.uniform(-3, 3),
                False,
            )
        for _ in range(rng.integers(2, 6)):
            self.put(
                street_objects.cone(rng),
                road,
                rng.uniform(lot.s0, lot.s1),
                self._out(road, lot, rng.uniform(1.5, 6)),
                lot.zone,
            )
        for _ in range(2):
            self.put(
                street_objects.clutter(rng),
                road,
                rng.uniform(lot.s0, lot.s1),
                self._out(road, lot, rng.uniform(2, 8)),
                lot.zone,
                rng.uniform(-3, 3),
            )
        self.put(
            street_objects.person(rng, "human.pedestrian.construction_worker"),
            road,
            (lot.s0 + lot.s1) / 2,
            self._out(road, lot, 3),
            lot.zone,
        )

    def _sidewalk(self, road: Road):
        rng = self.rng
        for side in (-1, 1):
            avenue = rng.random() < 0.55
            gap = rng.uniform(7, 14)
            edge = side * (road.half_width + 0.5)
            for s in np.arange(rng.uniform(2, 9), road.length, gap):
                what = rng.random()
                back = side * (road.half_width + road.walk_width - 0.6)
                if avenue and what < 0.75:
                    self.put(scenery.tree(rng, rng.random() < 0.3), road, s, edge + side * 0.15, road.walk_zone)
                elif what < 0.82:
                    self.put(
                        scenery.sign(rng), road, s, edge, road.walk_zone, 0 if side < 0 else np.pi, half=(0.2, 0.2)
                    )
                elif what < 0.9:
                    self.put(street_objects.clutter(rng), road, s + 2, back, road.walk_zone, 0 if side > 0 else np.pi)
                elif what < 0.93 and road.walk_width > 2.4:
                    self.put(
                        scenery.bus_stop(rng),
                        road,
                        s,
                        back - side * 0.3,
                        road.walk_zone,
                        0 if side > 0 else np.pi,
                        half=(2.1, 0.5),
                    )
                elif what < 0.965:
                    b = vehicles.bicycle(rng, False) if rng.random() < 0.6 else vehicles.motorcycle(rng, False)
                    self.put(b, road, s, back, road.walk_zone, rng.uniform(-0.5, 0.5), False)
            for s in np.arange(rng.uniform(2, 20), road.length, rng.uniform(24, 34)):
                self.put(
                    scenery.lamp(rng), road, s, edge - side * 0.1, road.walk_zone, -side * np.pi / 2, half=(0.2, 0.2)
                )

    def _curbside(self, index: int, road: Road, wish: str):
        """Parked vehicles and lane closures along the curbs, clear of the ego's lane and of oncoming traffic."""
        rng = self.rng
        for side in (-1, 1):
            room = road.half_width - 2.3 > 2.6 if index else abs(side * road.half_width - self.ego_offset) > 3.9
            if not room and not (wish and side == 1):
                continue
            share = rng.choice([0.0, 0.2, 0.5])
            s = rng.uniform(0, 10)
            wish_s = self.layout.start_s + self.layout.travel / 2 + rng.uniform(-5, 15)
            while s < road.length:
                b = None
                if wish and side == 1 and s >= wish_s:
                    b, wish = (
                        {"bus": vehicles.bus, "truck": vehicles.truck, "trailer": vehicles.trailer}.get(
                            wish, vehicles.car
                        )(rng),
                        "",
                    )
                elif rng.random() < share and room:
                    u = rng.random()
                    b = (
                        vehicles.car(rng)
                        if u < 0.86
                        else vehicles.truck(rng)
                        if u < 0.93
                        else vehicles.motorcycle(rng, False)
                    )
                if b is None:
                    s += rng.uniform(4, 8)
                    continue
                s += b.size[0] / 2
                t = side * (road.half_width - b.size[1] / 2 - 0.2)
                marked = self.ground.mark[self._cell(*road.at(s, t)[:2])] == MARK_LANES
                if marked and self.put(b, road, s, t, road.zone, 0 if side < 0 else np.pi, False):
                    self.parked.append((index, s, t, b.size[0] / 2))
                s += b.size[0] / 2 + rng.uniform(0.7, 2.0)
        if rng.random() < 0.35:
            self._closure(index, road)

    def _closure(self, index: int, road: Road):
        rng = self.rng
        side = 1 if index == 0 else rng.choice([-1, 1])
        s0 = (
            self.layout.start_s + rng.uniform(0, 25 + self.layout.travel)
            if index == 0
            else rng.uniform(20, road.length - 30)
        )
        color = np.array([0.7, 0.2, 0.12]) if rng.random() < 0.5 else np.array([0.5, 0.5, 0.48])
        t = side * (road.half_width - 0.5)
        for n in range(rng.integers(3, 9)):
            s = s0 + 2.3 * n
            if all(k != index or abs(s - p) > h + 1.3 or t * q < 0 for k, p, q, h in self.parked):
                b = street_objects.barrier(rng, color) if rng.random() < 0.45 else street_objects.cone(rng)
                self.put(b, road, s, t, road.zone)

    def _cell(self, x, y):
        g = self.ground
        return (
            int(np.clip((x - g.x0) / g.res, 0, g.zone.shape[0] - 1)),
            int(np.clip((y - g.y0) / g.res, 0, g.zone.shape[1] - 1)),
        )

    def _signals(self, s: float, index: int):
        main, other = self.layout.roads[0], self.layout.roads[index]
        if self.rng.random() < 0.5:
            for offset, side in ((-1, -1), (1, 1)):
                self.put(
                    scenery.signal(self.rng),
                    main,
                    s + offset * (other.half_width + 1.6),
                    side * (main.half_width + 0.6),
                    main.walk_zone,
                    0 if side < 0 else np.pi,
                    half=(0.2, 0.2),
                )

    def _backland(self):
        """Behind the lots: loose trees and large buildings, so that the view ends somewhere."""
        rng, g = self.rng, self.ground
        nx, ny = g.zone.shape
        backland = int(np.bincount(g.zone[[0, 0, -1, -1], [0, -1, 0, -1]]).argmax())
        for _ in range(int(nx * ny * g.res**2 / 180)):
            x, y = g.x0 + rng.uniform(3, nx * g.res - 3), g.y0 + rng.uniform(3, ny * g.res - 3)
            yaw = rng.uniform(0, np.pi)
            if rng.random() < 0.2:
                length, depth = rng.uniform(12, 30), rng.uniform(10, 16)
                if self.fits(x, y, yaw, length / 2, depth / 2, backland):
                    self.placements.append(
                        Placement(scenery.building(rng, length, depth, rng.uniform(5, 24)), x, y, yaw)
                    )
            elif self.fits(x, y, yaw, 1, 1, backland):
                self.placements.append(Placement(scenery.tree(rng), x, y, yaw))
