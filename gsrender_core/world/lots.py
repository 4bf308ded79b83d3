"""Furnishing of lots, the land along a road: houses, yards, parks, parking, plazas, walls and building sites."""

import numpy as np

from gsrender_core.world import scenery, street_objects, vehicles
from gsrender_core.world.placing import Placer
from gsrender_core.world.street import Lot, Road


class LotFurnisher(Placer):
    """Furnishes a lot by its kind: ``_<kind>(road, lot)``."""

    def _out(self, road: Road, lot: Lot, distance: float) -> float:
        """Offset t [m] of what stands ``distance`` behind the back of the sidewalk."""
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
