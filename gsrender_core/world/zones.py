"""Kinds of ground: what a patch is, how it looks, what is painted on it."""

import numpy as np

from gsrender_core.world.parts import SEG

# Ground textures (shading.py) and paint codes.
ASPHALT, PAVING, PLAZA, GRASS, DIRT, GRAVEL = range(6)
MARK_NONE, MARK_LANES, MARK_CROSSWALK, MARK_PARKING = range(4)


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
        return (
            np.array(seg, np.uint8),
            np.array(texture, np.uint8),
            np.array(look, np.float32),
            np.array(seed, np.int64),
        )
