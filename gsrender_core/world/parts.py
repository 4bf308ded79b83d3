"""Blueprints: what vehicles, people, plants and street furniture are made of.

A blueprint lists solids in the object's own frame: x forward, y left, z up, origin on the ground under
its middle, metres. Colours are RGB albedos in [0, 1].
"""

from dataclasses import dataclass, field

import numpy as np

from gsrender_core.classes import LIDARSEG_NAMES

# Materials: which procedural texture a solid wears (shading.py).
PAINT, BUILDING, LEAVES, BARK, BODY, CABIN, WHEEL, CLOTH, SKIN, CONE, BARRIER, RIBS, COACH, MASONRY, METAL, HAZARD = (
    range(16)
)
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
