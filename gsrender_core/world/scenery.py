"""Blueprints of plants, buildings and street furniture."""

import numpy as np

from gsrender_core.world.parts import BARK, BUILDING, CABIN, GLASS, LEAVES, MASONRY, METAL, PAINT, Blueprint, paint
from gsrender_core.world.raycast import BOX, CYLINDER, ELLIPSOID


def tree(rng, small: bool = False) -> Blueprint:
    height = rng.uniform(2.6, 4.5) if small else rng.uniform(4.8, 10)
    b = Blueprint("static.vegetation")
    base = np.array(
        rng.choice(
            [[0.10, 0.22, 0.05], [0.17, 0.27, 0.07], [0.07, 0.17, 0.07], [0.28, 0.25, 0.07], [0.33, 0.19, 0.06]],
            p=[0.33, 0.33, 0.18, 0.1, 0.06],
        )
    ) * rng.uniform(0.75, 1.3)
    radius = 0.07 + 0.02 * height * rng.uniform(0.6, 1.2)
    if rng.random() < 0.22:  # conifer
        for n in range(4):
            z = height * (0.22 + 0.22 * n)
            r = height * 0.2 * (1.15 - 0.25 * n)
            b.add(ELLIPSOID, (0, 0, z), (r, r, 0.17 * height), LEAVES, (base * 0.8, base * 0.35))
        b.add(CYLINDER, (0, 0, 0.12 * height), (radius, radius, 0.15 * height), BARK, (0.2, 0.15, 0.1))
        return b
    clear = height * rng.uniform(0.2, 0.36)
    b.add(
        CYLINDER,
        (0, 0, clear / 2),
        (radius, radius, clear / 2 + 0.3),
        BARK,
        np.array([0.24, 0.18, 0.12]) * rng.uniform(0.5, 1.3),
    )
    crown = height * rng.uniform(0.24, 0.34)
    for _ in range(rng.integers(3, 6)):
        offset = rng.uniform(-0.55, 0.55, 2) * crown
        r = crown * rng.uniform(0.6, 0.95)
        b.add(
            ELLIPSOID,
            (*offset, rng.uniform(clear + 0.5 * r, height - 0.6 * r)),
            (r, r * rng.uniform(0.8, 1.1), r * rng.uniform(0.65, 0.9)),
            LEAVES,
            (base, base * 0.3),
        )
    return b


def bush(rng) -> Blueprint:
    b = Blueprint("static.vegetation")
    base = np.array([0.13, 0.22, 0.06]) * rng.uniform(0.6, 1.5) + rng.uniform(-0.02, 0.05, 3)
    for _ in range(rng.integers(1, 4)):
        r = rng.uniform(0.4, 0.95)
        b.add(
            ELLIPSOID,
            (*rng.uniform(-0.7, 0.7, 2), r * 0.5),
            (r, r, r * rng.uniform(0.7, 1.1)),
            LEAVES,
            (base, base * 0.3),
        )
    return b


def hedge(rng, length: float) -> Blueprint:
    b = Blueprint("static.vegetation")
    base = np.array([0.11, 0.2, 0.06]) * rng.uniform(0.7, 1.5)
    h = rng.uniform(0.45, 1.0)
    b.add(BOX, (0, 0, h - 0.3), (length / 2, rng.uniform(0.35, 0.7), h + 0.3), LEAVES, (base, base * 0.3))
    return b


def lamp(rng) -> Blueprint:
    h = rng.uniform(5.5, 9)
    grey = rng.uniform(0.12, 0.5) * np.ones(3)
    b = Blueprint("static.manmade")
    b.add(CYLINDER, (0, 0, h / 2 - 0.2), (0.09, 0.09, h / 2 + 0.2), METAL, grey)
    b.add(BOX, (0.8, 0, h), (0.85, 0.06, 0.06), METAL, grey)
    return b


def sign(rng) -> Blueprint:
    h = rng.uniform(2.2, 3.2)
    b = Blueprint("static.manmade")
    b.add(CYLINDER, (0, 0, h / 2 - 0.1), (0.045, 0.045, h / 2 + 0.1), METAL, (0.4, 0.4, 0.4))
    b.add(
        BOX,
        (0.06, 0, h - 0.3),
        (0.02, 0.36, 0.36),
        PAINT,
        rng.choice([[0.6, 0.08, 0.08], [0.1, 0.2, 0.55], [0.7, 0.6, 0.1], [0.1, 0.4, 0.2]]),
    )
    return b


def signal(rng) -> Blueprint:
    b = Blueprint("static.manmade")
    b.add(CYLINDER, (0, 0, 2.7), (0.1, 0.1, 2.9), METAL, (0.2, 0.2, 0.2))
    b.add(BOX, (0, 1.7, 5.4), (0.07, 1.7, 0.07), METAL, (0.2, 0.2, 0.2))
    for y in (0.25, 3.2):
        b.add(BOX, (0.1, y, 5.0 if y > 1 else 2.9), (0.12, 0.17, 0.45), PAINT, (0.1, 0.1, 0.09))
    return b


def bus_stop(rng) -> Blueprint:
    b = Blueprint("static.manmade")
    b.add(BOX, (0, 0.6, 1.2), (2.0, 0.05, 1.2), CABIN, ((0.3, 0.3, 0.32), GLASS))
    b.add(BOX, (0, 0, 2.45), (2.2, 0.8, 0.08), METAL, (0.25, 0.25, 0.27))
    b.add(BOX, (-1.95, 0, 1.2), (0.05, 0.6, 1.2), PAINT, paint(rng))
    b.add(BOX, (0.2, 0.3, 0.45), (1.3, 0.2, 0.06), METAL, (0.35, 0.25, 0.15))
    return b


def building(rng, length: float, depth: float, height: float) -> Blueprint:
    b = Blueprint("static.manmade")
    wall = np.array(
        rng.choice(
            [
                [0.45, 0.26, 0.19],
                [0.55, 0.5, 0.43],
                [0.42, 0.42, 0.42],
                [0.6, 0.53, 0.38],
                [0.3, 0.33, 0.37],
                [0.66, 0.64, 0.6],
            ]
        )
    )
    wall = np.clip(wall * rng.uniform(0.7, 1.2) + rng.normal(0, 0.02, 3), 0.05, 0.9)
    trim = np.clip(wall * rng.uniform(0.5, 1.4), 0.05, 0.9)
    b.add(BOX, (0, 0, height / 2 - 1), (length / 2, depth / 2, height / 2 + 1), BUILDING, (wall, trim))
    if rng.random() < 0.5:  # a projecting part: bay, porch or stair
        w = rng.uniform(1.2, 3.0)
        h = rng.uniform(2.6, min(height, 9.0))
        b.add(
            BOX,
            (rng.uniform(-0.35, 0.35) * length, -depth / 2, h / 2 - 0.5),
            (w, rng.uniform(0.5, 1.4), h / 2 + 0.5),
            BUILDING,
            (trim, wall),
        )
    return b


def wall(rng, length: float) -> Blueprint:
    b = Blueprint("static.manmade")
    c = np.array(rng.choice([[0.5, 0.48, 0.44], [0.42, 0.27, 0.2], [0.32, 0.24, 0.15]])) * rng.uniform(0.7, 1.25)
    h = rng.uniform(0.9, 2.4)
    return b.add(BOX, (0, 0, h / 2 - 0.3), (length / 2, rng.uniform(0.06, 0.2), h / 2 + 0.3), MASONRY, (c, c * 0.6))
