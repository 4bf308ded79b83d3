"""Furnishing of a layout: street furniture, plants, parked vehicles, and lots through ``LotFurnisher``."""

import numpy as np

from gsrender_core.world import scenery, street_objects, vehicles
from gsrender_core.world.lots import LotFurnisher
from gsrender_core.world.placing import Placement
from gsrender_core.world.street import Road
from gsrender_core.world.zones import MARK_LANES

ANNOTATED = ("human.", "vehicle.", "movable_object.", "static_object.", "animal")  # categories with boxes


class Furnisher(LotFurnisher):
    """Furnishes a layout with everything that stands still."""

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
