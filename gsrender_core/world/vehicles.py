"""Blueprints of vehicles, riders included: nuScenes' boxes of two-wheelers hold both."""

import numpy as np

from gsrender_core.world.parts import (
    BLACK,
    BODY,
    CABIN,
    CLOTH,
    COACH,
    GLASS,
    HAZARD,
    METAL,
    PAINT,
    RIBS,
    SKIN,
    WHEEL,
    Blueprint,
    paint,
)
from gsrender_core.world.raycast import BOX, CYLINDER, ELLIPSOID


def _wheels(b: Blueprint, xs, half_width, radius):
    for x in xs:
        for side in (-1, 1):
            b.add(
                CYLINDER,
                (x, side * (half_width - 0.12), radius),
                (radius, radius, 0.13),
                WHEEL,
                BLACK,
                (0, 0, np.pi / 2),
            )


def car(rng) -> Blueprint:
    kind = rng.choice(["sedan", "hatch", "suv", "van"], p=[0.4, 0.2, 0.28, 0.12])
    length, height, cabin, shift = {
        "sedan": (4.7, 1.45, 0.56, -0.06),
        "hatch": (4.0, 1.5, 0.62, -0.12),
        "suv": (4.7, 1.75, 0.66, -0.1),
        "van": (5.2, 2.05, 0.78, -0.09),
    }[kind]
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
    b.add(
        BOX,
        (shift * length, 0, (waist + height) / 2),
        (c, width / 2 - 0.12, (height - waist) / 2),
        CABIN,
        (color, GLASS),
    )
    if kind in ("sedan", "suv"):  # sloping windscreen
        b.add(
            BOX,
            (shift * length + c, 0, waist - 0.03),
            (0.42, width / 2 - 0.16, 0.22),
            CABIN,
            (color, GLASS),
            (0, 0.75, 0),
        )
    _wheels(b, (0.31 * length, -0.31 * length), width / 2, 0.33)
    return b


def truck(rng, pulls_trailer: bool = False) -> Blueprint:
    length, width, height = (5.6, 2.5, 3.3) if pulls_trailer else (rng.uniform(6.2, 8.5), 2.35, rng.uniform(2.7, 3.5))
    b = Blueprint("vehicle.truck", (length, width, height))
    color, load = paint(rng), paint(rng)
    cab = 1.9 if not pulls_trailer else 2.3
    cab_height = min(height - 0.25, 2.6)
    b.add(
        BOX,
        (length / 2 - cab / 2, 0, 0.45 + (cab_height - 0.45) / 2),
        (cab / 2, width / 2 - 0.05, (cab_height - 0.45) / 2),
        BODY,
        (color, color * 0.6),
    )
    b.add(
        BOX,
        (length / 2 - cab / 2 + 0.05, 0, cab_height * 0.72),
        (cab / 2, width / 2 - 0.03, 0.38),
        CABIN,
        (color, GLASS),
    )
    if pulls_trailer or rng.random() < 0.25:
        b.add(BOX, (-cab / 2, 0, 0.85), (length / 2 - cab / 2, width / 2 - 0.1, 0.28), METAL, (0.15, 0.15, 0.16))
        if not pulls_trailer:  # dump body
            b.add(
                BOX, (-cab / 2, 0, 1.6), (length / 2 - cab / 2 - 0.1, width / 2 - 0.05, 0.6), RIBS, (load, load * 0.7)
            )
    else:
        b.add(
            BOX,
            (-cab / 2, 0, 0.75 + (height - 0.75) / 2),
            (length / 2 - cab / 2 - 0.08, width / 2, (height - 0.75) / 2),
            RIBS,
            (load, color),
        )
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
    b.add(
        BOX,
        (0, 0, 0.35 + (height - 0.35) / 2),
        (length / 2, width / 2, (height - 0.35) / 2),
        COACH,
        (color, paint(rng)),
    )
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
    b.add(
        BOX,
        (0.3 + reach / 2 * np.cos(raised), -0.3, 1.7 + reach / 2 * np.sin(raised)),
        (reach / 2, 0.22, 0.26),
        PAINT,
        color,
        (0, -raised, 0),
    )
    tip = np.array([0.3 + reach * np.cos(raised), -0.3, 1.7 + reach * np.sin(raised)])
    b.add(BOX, tip + [0.4, 0, -1.0], (1.25, 0.18, 0.2), PAINT, color, (0, 1.2, 0))
    b.add(BOX, tip + [0.7, 0, -2.1], (0.45, 0.5, 0.4), METAL, (0.2, 0.19, 0.18))
    return b


def _rider(b: Blueprint, rng, seat):
    shirt = np.clip(paint(rng) + 0.05, 0, 0.85)
    b.add(ELLIPSOID, (-0.15, 0, seat + 0.32), (0.2, 0.24, 0.38), CLOTH, shirt, (0, 0.3, 0))
    b.add(
        ELLIPSOID,
        (0.02, 0, seat + 0.82),
        (0.13, 0.12, 0.16),
        SKIN,
        (rng.uniform(0.1, 0.8, 3), rng.uniform(0.1, 0.8, 3)),
    )
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
