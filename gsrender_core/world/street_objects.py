"""Blueprints of people and of small things on streets."""

import numpy as np

from gsrender_core.world.parts import BARRIER, BLACK, CLOTH, CONE, METAL, PAINT, RIBS, SKIN, WHEEL, Blueprint, paint
from gsrender_core.world.raycast import BOX, CYLINDER, ELLIPSOID


def person(rng, category: str = "human.pedestrian.adult", scale: float | None = None) -> Blueprint:
    s = rng.uniform(0.9, 1.08) if scale is None else scale
    b = Blueprint(category, (0.65 * s, 0.65 * s, 1.76 * s))
    shirt, trousers = np.clip(paint(rng) + 0.05, 0, 0.85), rng.uniform(0.04, 0.3) * rng.uniform(0.6, 1.3, 3)
    skin = np.array([0.75, 0.55, 0.42]) * rng.uniform(0.35, 1.05)
    stride = rng.uniform(0.05, 0.4)
    for side in (-1, 1):
        b.add(
            BOX,
            (side * stride * 0.4 * s, side * 0.1 * s, 0.42 * s),
            (0.09 * s, 0.085 * s, 0.43 * s),
            CLOTH,
            trousers,
            (0, -side * stride, 0),
        )
        b.add(
            BOX,
            (-side * stride * 0.25 * s, side * 0.28 * s, 1.12 * s),
            (0.06 * s, 0.06 * s, 0.32 * s),
            CLOTH,
            shirt * 0.9,
            (0, side * stride, 0),
        )
    b.add(ELLIPSOID, (0, 0, 1.15 * s), (0.17 * s, 0.25 * s, 0.37 * s), CLOTH, (shirt, shirt * 0.7))
    b.add(ELLIPSOID, (0.02, 0, 1.62 * s), (0.12 * s, 0.11 * s, 0.15 * s), SKIN, (skin, rng.uniform(0.03, 0.25, 3)))
    return b


def cone(rng) -> Blueprint:
    s = rng.uniform(0.85, 1.25)
    b = Blueprint("movable_object.trafficcone", (0.42 * s, 0.42 * s, 0.78 * s))
    color = np.array([0.85, 0.28, 0.06]) * rng.uniform(0.6, 1.1)
    b.add(BOX, (0, 0, 0.03 * s), (0.2 * s, 0.2 * s, 0.03 * s), CONE, (color * 0.6, color * 0.6))
    b.add(CYLINDER, (0, 0, 0.26 * s), (0.13 * s, 0.13 * s, 0.22 * s), CONE, (color, (0.85, 0.85, 0.82)))
    b.add(CYLINDER, (0, 0, 0.62 * s), (0.075 * s, 0.075 * s, 0.16 * s), CONE, (color, (0.85, 0.85, 0.82)))
    return b


def barrier(rng, color) -> Blueprint:
    b = Blueprint("movable_object.barrier", (2.0, 0.55, 0.95))
    b.add(BOX, (0, 0, 0.16), (1.0, 0.27, 0.16), BARRIER, color)
    b.add(BOX, (0, 0, 0.62), (0.98, 0.13, 0.33), BARRIER, color)
    return b


def clutter(rng) -> Blueprint:
    """Things nuScenes files under "others": bins, carts, bicycle racks, debris, strollers, animals."""
    kind = rng.choice(["bin", "rack", "debris", "bench", "animal", "stroller"], p=[0.36, 0.12, 0.14, 0.26, 0.05, 0.07])
    c = np.clip(paint(rng), 0.05, 0.6)
    if kind == "bin":
        b = Blueprint("movable_object.pushable_pullable", (0.7, 0.65, 1.15))
        return b.add(BOX, (0, 0, 0.55), (0.33, 0.3, 0.5), PAINT, c).add(
            BOX, (0, 0, 1.1), (0.36, 0.33, 0.05), PAINT, c * 0.6
        )
    if kind == "rack":
        b = Blueprint("static_object.bicycle_rack", (3.0, 0.6, 0.9))
        for x in np.linspace(-1.3, 1.3, 5):
            b.add(BOX, (x, 0, 0.45), (0.05, 0.3, 0.45), METAL, (0.45, 0.45, 0.47))
        return b
    if kind == "debris":
        b = Blueprint("movable_object.debris", (0.8, 0.6, 0.5))
        return b.add(BOX, (0, 0, 0.2), (0.38, 0.28, 0.22), PAINT, np.array([0.45, 0.32, 0.18]) * rng.uniform(0.7, 1.2))
    if kind == "bench":
        b = Blueprint("static.other")
        return (
            b.add(BOX, (0, 0, 0.42), (0.85, 0.22, 0.06), RIBS, (0.35, 0.22, 0.12))
            .add(BOX, (0, 0.22, 0.75), (0.85, 0.04, 0.22), RIBS, (0.35, 0.22, 0.12))
            .add(BOX, (0, 0, 0.2), (0.6, 0.15, 0.2), METAL, (0.2, 0.2, 0.2))
        )
    if kind == "animal":
        b = Blueprint("animal", (0.9, 0.3, 0.65))
        fur = np.array([0.35, 0.25, 0.15]) * rng.uniform(0.3, 1.6)
        return (
            b.add(ELLIPSOID, (0, 0, 0.42), (0.38, 0.15, 0.16), CLOTH, fur)
            .add(ELLIPSOID, (0.42, 0, 0.58), (0.14, 0.1, 0.1), CLOTH, fur)
            .add(BOX, (0, 0, 0.17), (0.3, 0.1, 0.18), CLOTH, fur)
        )
    b = Blueprint("human.pedestrian.stroller", (0.9, 0.55, 1.0))
    return (
        b.add(BOX, (0, 0, 0.6), (0.35, 0.24, 0.22), CLOTH, c)
        .add(BOX, (-0.4, 0, 0.85), (0.06, 0.24, 0.12), METAL, BLACK)
        .add(BOX, (0, 0, 0.2), (0.35, 0.24, 0.1), WHEEL, BLACK)
    )
