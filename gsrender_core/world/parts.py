"""Blueprints: what vehicles, people, plants and street furniture are made of.

A blueprint lists solids in the object's own frame: x forward, y left, z up, origin on the ground under
its middle, metres. Colours are RGB albedos in [0, 1].
"""

from dataclasses import dataclass, field

import numpy as np

from gsrender_core.classes import LIDARSEG_NAMES
from gsrender_core.world.raycast import BOX, CYLINDER, ELLIPSOID

# Materials: which procedural texture a solid wears (shading.py).
PAINT, BUILDING, LEAVES, BARK, BODY, CABIN, WHEEL, CLOTH, SKIN, CONE, BARRIER, RIBS, COACH, MASONRY, METAL, HAZARD = range(16)
SEG = {name: index for index, name in enumerate(LIDARSEG_NAMES)}  # lidarseg ids by name
GLASS = (0.10, 0.13, 0.16)
BLACK = (0.05, 0.05, 0.055)


@dataclass
class Blueprint:
    """Solids of one object. ``size`` is nuScenes' (length, width, height) of its box."""

    category: str
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pieces: list = field(default_factory=list)

    def add(self, shape, center, half, material, colors, turn=(0.0, 0.0, 0.0)):
        """Add a solid; ``colors`` is one or two RGB triples, ``turn`` yaw, pitch, roll in radians."""
        two = np.ravel(colors)
        two = np.concatenate([two, two])[:6]
        self.pieces.append((shape, np.array(center, float), np.array(half, float), material, two, turn))
        return self


def rotation_ypr(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation [3, 3]: ``Rz(yaw) Ry(pitch) Rx(roll)``."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def paint(rng) -> np.ndarray:
    """A vehicle colour: mostly greys, whites and blacks, some saturated."""
    if rng.random() < 0.6:
        return np.clip(rng.choice([0.06, 0.2, 0.4, 0.62, 0.8]) + rng.normal(0, 0.03, 3), 0.03, 0.9)
    color = rng.uniform(0.05, 0.25, 3)
    color[rng.integers(3)] = rng.uniform(0.35, 0.7)
    if rng.random() < 0.3:
        color[rng.integers(3)] = rng.uniform(0.3, 0.6)
    return color


def _wheels(b: Blueprint, xs, half_width, radius):
    for x in xs:
        for side in (-1, 1):
            b.add(CYLINDER, (x, side * (half_width - 0.12), radius), (radius, radius, 0.13), WHEEL, BLACK,
                  (0, 0, np.pi / 2))


def car(rng) -> Blueprint:
    kind = rng.choice(["sedan", "hatch", "suv", "van"], p=[0.4, 0.2, 0.28, 0.12])
    length, height, cabin, shift = {
        "sedan": (4.7, 1.45, 0.56, -0.06), "hatch": (4.0, 1.5, 0.62, -0.12),
        "suv": (4.7, 1.75, 0.66, -0.1), "van": (5.2, 2.05, 0.78, -0.09)}[kind]
    length *= rng.uniform(0.94, 1.06)
    height *= rng.uniform(0.96, 1.05)
    width = rng.uniform(1.75, 2.0)
    name = "vehicle.car"
    special = rng.random()
    if special < 0.015:
        name = "vehicle.emergency.police"
    b = Blueprint(name, (length, width, height))
    color = paint(rng)
    waist = 0.56 * height
    b.add(BOX, (0, 0, (0.22 + waist) / 2), (length / 2, width / 2, (waist - 0.22) / 2), BODY, (color, color * 0.6))
    c = length * cabin / 2
    b.add(BOX, (shift * length, 0, (waist + height) / 2), (c, width / 2 - 0.12, (height - waist) / 2), CABIN, (color, GLASS))
    if kind in ("sedan", "suv"):  # sloping windscreen
        b.add(BOX, (shift * length + c, 0, waist - 0.03), (0.42, width / 2 - 0.16, 0.22), CABIN, (color, GLASS), (0, 0.75, 0))
    _wheels(b, (0.31 * length, -0.31 * length), width / 2, 0.33)
    return b


def truck(rng, pulls_trailer: bool = False) -> Blueprint:
    length, width, height = (5.6, 2.5, 3.3) if pulls_trailer else (rng.uniform(6.2, 8.5), 2.35, rng.uniform(2.7, 3.5))
    b = Blueprint("vehicle.truck", (length, width, height))
    color, load = paint(rng), paint(rng)
    cab = 1.9 if not pulls_trailer else 2.3
    cab_height = min(height - 0.25, 2.6)
    b.add(BOX, (length / 2 - cab / 2, 0, 0.45 + (cab_height - 0.45) / 2), (cab / 2, width / 2 - 0.05, (cab_height - 0.45) / 2), BODY, (color, color * 0.6))
    b.add(BOX, (length / 2 - cab / 2 + 0.05, 0, cab_height * 0.72), (cab / 2, width / 2 - 0.03, 0.38), CABIN, (color, GLASS))
    if pulls_trailer or rng.random() < 0.25:
        b.add(BOX, (-cab / 2, 0, 0.85), (length / 2 - cab / 2, width / 2 - 0.1, 0.28), METAL, (0.15, 0.15, 0.16))
        if not pulls_trailer:  # dump body
            b.add(BOX, (-cab / 2, 0, 1.6), (length / 2 - cab / 2 - 0.1, width / 2 - 0.05, 0.6), RIBS, (load, load * 0.7))
    else:
        b.add(BOX, (-cab / 2, 0, 0.75 + (height - 0.75) / 2), (length / 2 - cab / 2 - 0.08, width / 2, (height - 0.75) / 2), RIBS, (load, color))
    _wheels(b, (length / 2 - 1.0, -length / 2 + 1.1, -length / 2 + 2.1), width / 2, 0.48)
    return b


def trailer(rng) -> Blueprint:
    length, width, height = rng.uniform(9.0, 12.5), 2.55, rng.uniform(3.5, 4.0)
    b = Blueprint("vehicle.trailer", (length, width, height))
    color = paint(rng)
    b.add(BOX, (0, 0, 1.1 + (height - 1.1) / 2), (length / 2, width / 2, (height - 1.1) / 2), RIBS, (color, paint(rng)))
    b.add(BOX, (0, 0, 0.95), (length / 2 - 0.2, width / 2 - 0.3, 0.16), METAL, (0.12, 0.12, 0.12))
    _wheels(b, (-length / 2 + 1.0, -length / 2 + 2.1, -length / 2 + 3.2), width / 2, 0.48)
    return b


def bus(rng) -> Blueprint:
    length, width, height = rng.uniform(10.5, 12.5), 2.7, rng.uniform(3.1, 3.6)
    b = Blueprint("vehicle.bus.rigid", (length, width, height))
    color = paint(rng)
    b.add(BOX, (0, 0, 0.35 + (height - 0.35) / 2), (length / 2, width / 2, (height - 0.35) / 2), COACH, (color, paint(rng)))
    _wheels(b, (0.32 * length, -0.28 * length), width / 2, 0.5)
    return b


def excavator(rng) -> Blueprint:
    b = Blueprint("vehicle.construction", (7.2, 2.6, 3.4))
    color = np.array([0.75, 0.5, 0.06]) * rng.uniform(0.7, 1.1) if rng.random() < 0.75 else paint(rng)
    for side in (-1, 1):
        b.add(BOX, (-1.2, side * 1.0, 0.45), (1.9, 0.3, 0.45), WHEEL, BLACK)
    b.add(BOX, (-1.5, 0, 1.45), (1.6, 1.2, 0.55), HAZARD, (color, BLACK))
    b.add(BOX, (-0.7, 0.65, 2.5), (0.75, 0.55, 0.6), CABIN, (color, GLASS))
    raised = rng.uniform(0.35, 0.8)
    reach = 2.9
    b.add(BOX, (0.3 + reach / 2 * np.cos(raised), -0.3, 1.7 + reach / 2 * np.sin(raised)), (reach / 2, 0.22, 0.26), PAINT, color, (0, -raised, 0))
    tip = np.array([0.3 + reach * np.cos(raised), -0.3, 1.7 + reach * np.sin(raised)])
    b.add(BOX, tip + [0.4, 0, -1.0], (1.25, 0.18, 0.2), PAINT, color, (0, 1.2, 0))
    b.add(BOX, tip + [0.7, 0, -2.1], (0.45, 0.5, 0.4), METAL, (0.2, 0.19, 0.18))
    return b


def person(rng, category: str = "human.pedestrian.adult", scale: float | None = None) -> Blueprint:
    s = rng.uniform(0.9, 1.08) if scale is None else scale
    b = Blueprint(category, (0.65 * s, 0.65 * s, 1.76 * s))
    shirt, trousers = np.clip(paint(rng) + 0.05, 0, 0.85), rng.uniform(0.04, 0.3) * rng.uniform(0.6, 1.3, 3)
    skin = np.array([0.75, 0.55, 0.42]) * rng.uniform(0.35, 1.05)
    stride = rng.uniform(0.05, 0.4)
    for side in (-1, 1):
        b.add(BOX, (side * stride * 0.4 * s, side * 0.1 * s, 0.42 * s), (0.09 * s, 0.085 * s, 0.43 * s), CLOTH, trousers, (0, -side * stride, 0))
        b.add(BOX, (-side * stride * 0.25 * s, side * 0.28 * s, 1.12 * s), (0.06 * s, 0.06 * s, 0.32 * s), CLOTH, shirt * 0.9, (0, side * stride, 0))
    b.add(ELLIPSOID, (0, 0, 1.15 * s), (0.17 * s, 0.25 * s, 0.37 * s), CLOTH, (shirt, shirt * 0.7))
    b.add(ELLIPSOID, (0.02, 0, 1.62 * s), (0.12 * s, 0.11 * s, 0.15 * s), SKIN, (skin, rng.uniform(0.03, 0.25, 3)))
    return b


def _rider(b: Blueprint, rng, seat):
    shirt = np.clip(paint(rng) + 0.05, 0, 0.85)
    b.add(ELLIPSOID, (-0.15, 0, seat + 0.32), (0.2, 0.24, 0.38), CLOTH, shirt, (0, 0.3, 0))
    b.add(ELLIPSOID, (0.02, 0, seat + 0.82), (0.13, 0.12, 0.16), SKIN, (rng.uniform(0.1, 0.8, 3), rng.uniform(0.1, 0.8, 3)))
    for side in (-1, 1):
        b.add(BOX, (0.12, side * 0.17, seat - 0.2), (0.09, 0.08, 0.36), CLOTH, rng.uniform(0.05, 0.3, 3), (0, -0.35, 0))
        b.add(BOX, (0.28, side * 0.24, seat + 0.35), (0.3, 0.05, 0.05), CLOTH, shirt, (0, 0.4, 0))


def bicycle(rng, rider: bool) -> Blueprint:
    b = Blueprint("vehicle.bicycle", (1.75, 0.6, 1.75 if rider else 1.1))
    color = paint(rng)
    for x in (-0.53, 0.53):
        b.add(CYLINDER, (x, 0, 0.34), (0.34, 0.34, 0.035), WHEEL, BLACK, (0, 0, np.pi / 2))
    b.add(BOX, (0.05, 0, 0.58), (0.5, 0.035, 0.16), PAINT, color)
    b.add(BOX, (0.45, 0, 0.98), (0.05, 0.28, 0.04), METAL, BLACK)
    b.add(BOX, (-0.25, 0, 0.9), (0.13, 0.08, 0.05), METAL, BLACK)
    if rider:
        _rider(b, rng, 0.92)
    return b


def motorcycle(rng, rider: bool) -> Blueprint:
    b = Blueprint("vehicle.motorcycle", (2.1, 0.8, 1.7 if rider else 1.2))
    color = paint(rng)
    for x in (-0.68, 0.7):
        b.add(CYLINDER, (x, 0, 0.31), (0.31, 0.31, 0.08), WHEEL, BLACK, (0, 0, np.pi / 2))
    b.add(BOX, (0, 0, 0.62), (0.62, 0.17, 0.24), BODY, (color, color * 0.5))
    b.add(BOX, (0.62, 0, 0.95), (0.1, 0.36, 0.16), METAL, (color, BLACK))
    if rider:
        _rider(b, rng, 0.86)
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


def tree(rng, small: bool = False) -> Blueprint:
    height = rng.uniform(2.6, 4.5) if small else rng.uniform(4.8, 10)
    b = Blueprint("static.vegetation")
    base = np.array(rng.choice([[0.10, 0.22, 0.05], [0.17, 0.27, 0.07], [0.07, 0.17, 0.07], [0.28, 0.25, 0.07], [0.33, 0.19, 0.06]],
                               p=[0.33, 0.33, 0.18, 0.1, 0.06])) * rng.uniform(0.9, 1.7)
    radius = 0.07 + 0.02 * height * rng.uniform(0.6, 1.2)
    if rng.random() < 0.22:  # conifer
        for n in range(4):
            z = height * (0.22 + 0.22 * n)
            r = height * 0.2 * (1.15 - 0.25 * n)
            b.add(ELLIPSOID, (0, 0, z), (r, r, 0.17 * height), LEAVES, (base * 0.8, base * 0.35))
        b.add(CYLINDER, (0, 0, 0.12 * height), (radius, radius, 0.15 * height), BARK, (0.2, 0.15, 0.1))
        return b
    clear = height * rng.uniform(0.2, 0.36)
    b.add(CYLINDER, (0, 0, clear / 2), (radius, radius, clear / 2 + 0.3), BARK, np.array([0.24, 0.18, 0.12]) * rng.uniform(0.5, 1.3))
    crown = height * rng.uniform(0.24, 0.34)
    for _ in range(rng.integers(3, 6)):
        offset = rng.uniform(-0.55, 0.55, 2) * crown
        r = crown * rng.uniform(0.6, 0.95)
        b.add(ELLIPSOID, (*offset, rng.uniform(clear + 0.5 * r, height - 0.6 * r)), (r, r * rng.uniform(0.8, 1.1), r * rng.uniform(0.65, 0.9)),
              LEAVES, (base, base * 0.3))
    return b


def bush(rng) -> Blueprint:
    b = Blueprint("static.vegetation")
    base = np.array([0.13, 0.22, 0.06]) * rng.uniform(0.6, 1.5) + rng.uniform(-0.02, 0.05, 3)
    for _ in range(rng.integers(1, 4)):
        r = rng.uniform(0.4, 0.95)
        b.add(ELLIPSOID, (*rng.uniform(-0.7, 0.7, 2), r * 0.5), (r, r, r * rng.uniform(0.7, 1.1)), LEAVES, (base, base * 0.3))
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
    b.add(BOX, (0.06, 0, h - 0.3), (0.02, 0.36, 0.36), PAINT, rng.choice([[0.6, 0.08, 0.08], [0.1, 0.2, 0.55], [0.7, 0.6, 0.1], [0.1, 0.4, 0.2]]))
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


def clutter(rng) -> Blueprint:
    """Things nuScenes files under "others": bins, carts, bicycle racks, debris, strollers, animals."""
    kind = rng.choice(["bin", "rack", "debris", "bench", "animal", "stroller"], p=[0.36, 0.12, 0.14, 0.26, 0.05, 0.07])
    c = np.clip(paint(rng), 0.05, 0.6)
    if kind == "bin":
        b = Blueprint("movable_object.pushable_pullable", (0.7, 0.65, 1.15))
        return b.add(BOX, (0, 0, 0.55), (0.33, 0.3, 0.5), PAINT, c).add(BOX, (0, 0, 1.1), (0.36, 0.33, 0.05), PAINT, c * 0.6)
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
        return b.add(BOX, (0, 0, 0.42), (0.85, 0.22, 0.06), RIBS, (0.35, 0.22, 0.12)).add(BOX, (0, 0.22, 0.75), (0.85, 0.04, 0.22), RIBS, (0.35, 0.22, 0.12)).add(
            BOX, (0, 0, 0.2), (0.6, 0.15, 0.2), METAL, (0.2, 0.2, 0.2))
    if kind == "animal":
        b = Blueprint("animal", (0.9, 0.3, 0.65))
        fur = np.array([0.35, 0.25, 0.15]) * rng.uniform(0.3, 1.6)
        return b.add(ELLIPSOID, (0, 0, 0.42), (0.38, 0.15, 0.16), CLOTH, fur).add(ELLIPSOID, (0.42, 0, 0.58), (0.14, 0.1, 0.1), CLOTH, fur).add(
            BOX, (0, 0, 0.17), (0.3, 0.1, 0.18), CLOTH, fur)
    b = Blueprint("human.pedestrian.stroller", (0.9, 0.55, 1.0))
    return b.add(BOX, (0, 0, 0.6), (0.35, 0.24, 0.22), CLOTH, c).add(BOX, (-0.4, 0, 0.85), (0.06, 0.24, 0.12), METAL, BLACK).add(
        BOX, (0, 0, 0.2), (0.35, 0.24, 0.1), WHEEL, BLACK)


def building(rng, length: float, depth: float, height: float) -> Blueprint:
    b = Blueprint("static.manmade")
    wall = np.array(rng.choice([[0.45, 0.26, 0.19], [0.55, 0.5, 0.43], [0.42, 0.42, 0.42], [0.6, 0.53, 0.38], [0.3, 0.33, 0.37], [0.66, 0.64, 0.6]]))
    wall = np.clip(wall * rng.uniform(0.7, 1.2) + rng.normal(0, 0.02, 3), 0.05, 0.9)
    trim = np.clip(wall * rng.uniform(0.5, 1.4), 0.05, 0.9)
    b.add(BOX, (0, 0, height / 2 - 1), (length / 2, depth / 2, height / 2 + 1), BUILDING, (wall, trim))
    if rng.random() < 0.5:  # a projecting part: bay, porch or stair
        w = rng.uniform(1.2, 3.0)
        h = rng.uniform(2.6, min(height, 9.0))
        b.add(BOX, (rng.uniform(-0.35, 0.35) * length, -depth / 2, h / 2 - 0.5), (w, rng.uniform(0.5, 1.4), h / 2 + 0.5), BUILDING, (trim, wall))
    return b


def wall(rng, length: float) -> Blueprint:
    b = Blueprint("static.manmade")
    c = np.array(rng.choice([[0.5, 0.48, 0.44], [0.42, 0.27, 0.2], [0.32, 0.24, 0.15]])) * rng.uniform(0.7, 1.25)
    h = rng.uniform(0.9, 2.4)
    return b.add(BOX, (0, 0, h / 2 - 0.3), (length / 2, rng.uniform(0.06, 0.2), h / 2 + 0.3), MASONRY, (c, c * 0.6))
