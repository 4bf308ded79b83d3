"""One driving scene: its ground, what stands and moves on it, the ego's path, and the solids at any time."""

from dataclasses import dataclass

import numpy as np

from gsrender_core.geometry import transform
from gsrender_core.world.actors import Clock, Track, Traffic, ego_profile, road_track
from gsrender_core.world.furnish import ANNOTATED, Furnisher
from gsrender_core.world.ground import Ground, ground_height
from gsrender_core.world.parts import SEG, Blueprint, rotation_ypr
from gsrender_core.world.raycast import GRID_CELL_M, Grid, Solids, build_grid, column_floor
from gsrender_core.world.shading import Light, draw_light
from gsrender_core.world.street import build_layout

WISHES = ("trailer", "bus", "motorcycle", "truck", "bicycle", "")  # the rare thing scene i must show, in turn


@dataclass
class Moment:
    """The world at one time: everything the ray caster needs."""

    ground: Ground
    solids: Solids
    grid: Grid
    light: Light


@dataclass
class Instance:
    """Something that gets a box: category, size (length, width, height) m and where it is."""

    category: str
    size: tuple[float, float, float]
    moving: bool


class _Model:
    """A blueprint as arrays, ready to be posed many times."""

    def __init__(self, blueprint: Blueprint, seed: int, instance: int):
        pieces = blueprint.pieces
        self.center = np.array([p[1] for p in pieces])
        self.half = np.array([p[2] for p in pieces])
        self.reach = np.linalg.norm(self.half, axis=1) + 1e-3  # bounding radius, m
        self.R = np.array([rotation_ypr(*p[5]) for p in pieces])
        n = len(pieces)
        self.shape = np.array([p[0] for p in pieces], np.uint8)
        self.material = np.array([p[3] for p in pieces], np.uint8)
        self.color = np.array([p[4] for p in pieces], np.float32)
        self.seg = np.full(n, SEG[blueprint.category], np.uint8)
        self.seed = np.full(n, seed, np.int64) + (0 if n < 3 else np.arange(n))
        self.instance = np.full(n, instance, np.int32)

    def geometry(self, T_global_object: np.ndarray) -> np.ndarray:
        R = T_global_object[:3, :3]
        out = np.empty((len(self.center), 16), np.float32)
        out[:, :3] = self.center @ R.T + T_global_object[:3, 3]
        out[:, 3:6] = self.half
        out[:, 6:15] = np.swapaxes(R @ self.R, 1, 2).reshape(-1, 9)
        out[:, 15] = self.reach
        return out


def ground_pose(ground: Ground, x: float, y: float, yaw: float, base: tuple[float, float]) -> np.ndarray:
    """``T_global_object`` of something whose wheels (``base``: distance along, across, m) stand on the ground."""
    cy, sy = np.cos(yaw), np.sin(yaw)
    a, b = base[0] / 2, base[1] / 2
    z = {
        (i, j): ground_height(ground, x + i * a * cy - j * b * sy, y + i * a * sy + j * b * cy)
        for i in (-1, 1)
        for j in (-1, 1)
    }
    rise = (z[1, 1] + z[1, -1] - z[-1, 1] - z[-1, -1]) / 2
    lean = (z[1, 1] + z[-1, 1] - z[1, -1] - z[-1, -1]) / 2
    R = rotation_ypr(yaw, -np.arctan2(rise, base[0]), np.arctan2(lean, base[1]))
    return transform(R, (x, y, sum(z.values()) / 4))


class DrivingScene:
    """A scene of a synthetic world, wholly determined by ``(seed, index, duration_s)``.

    Args:
        seed: the world's seed.
        index: which of its scenes.
        duration_s: time between the first and the last keyframe.
    """

    def __init__(self, seed: int, index: int, duration_s: float):
        rng = np.random.default_rng([seed, index])
        self.clock = Clock.of(duration_s)
        drive = str(rng.choice(["cruise", "stop", "still"], p=[0.68, 0.2, 0.12]))
        driven = ego_profile(rng, self.clock, drive)
        wish = WISHES[(index + seed) % len(WISHES)]
        self.layout = build_layout(rng, float(driven[-1]) + 4.0, wish_site=(index + seed) % 4 == 1)
        main = self.layout.roads[0]
        half = main.half_width
        self.ego_offset = -(half - 2.3) / 2 if half > 5.2 and rng.random() < 0.7 else -half / 2
        ego_s = self.layout.start_s + driven
        wander = 0.15 * np.sin(driven / 17 + rng.uniform(0, 6))
        self.ego_track: Track = road_track(main, self.clock, ego_s, self.ego_offset + wander)
        self._sway = rng.uniform(0.05, 0.5, 2), rng.uniform(2, 6, 2), rng.uniform(0, 6, 2)  # deg, rad/s, rad
        self._sway_gain = 0.2 if drive == "still" else 1.0
        furnisher = Furnisher(rng, self.layout, self.ego_offset)
        placements = furnisher.furnish(wish)
        self.actors = Traffic(rng, self.layout, self.clock, ego_s, furnisher).populate(wish)
        self.light = draw_light(rng)
        self.exposure = (
            0.95 / (0.75 * np.mean(self.light.ambient_rgb) + 0.5 * np.mean(self.light.sun_rgb)) * rng.uniform(0.85, 1.2)
        )
        self.camera_gain = rng.normal(1.0, 0.05, 6)
        self.white_balance = rng.normal(1.0, 0.025, 3)
        self.ground: Ground = self.layout.ground
        self.instances: list[Instance] = []
        self._poses: list[np.ndarray] = []  # of still instances
        self._still_models, geometry = [], []
        for p in placements:
            annotated = p.blueprint.category.startswith(ANNOTATED)
            if p.level:
                T = transform(rotation_ypr(p.yaw, 0, 0), (p.x, p.y, ground_height(self.ground, p.x, p.y)))
            else:
                T = ground_pose(self.ground, p.x, p.y, p.yaw, (0.6 * p.blueprint.size[0], 0.8 * p.blueprint.size[1]))
            model = _Model(p.blueprint, int(rng.integers(1 << 30)), len(self.instances) if annotated else -1)
            if annotated:
                self.instances.append(Instance(p.blueprint.category, p.blueprint.size, False))
                self._poses.append(T)
            self._still_models.append(model)
            geometry.append(model.geometry(T))
        self._still_geometry = np.concatenate(geometry)
        self._moving_models = []
        for actor in self.actors:
            self._moving_models.append(_Model(actor.blueprint, int(rng.integers(1 << 30)), len(self.instances)))
            self.instances.append(Instance(actor.blueprint.category, actor.blueprint.size, True))
        models = self._still_models + self._moving_models
        self._fields = {
            name: np.concatenate([getattr(m, name) for m in models])
            for name in ("shape", "seg", "material", "color", "seed", "instance")
        }
        nx, ny = self.ground.zone.shape
        self._grid_size = (int(nx * self.ground.res / GRID_CELL_M) + 1, int(ny * self.ground.res / GRID_CELL_M) + 1)
        self._floor = column_floor(self.ground, self._grid_size)

    def actor_pose(self, number: int, time_s: float) -> np.ndarray:
        """``T_global_object`` [4, 4] of moving actor ``number`` at a time."""
        actor = self.actors[number]
        x, y, yaw = actor.track.at(time_s)
        if actor.upright:
            return transform(rotation_ypr(yaw, 0, 0), (x, y, ground_height(self.ground, x, y)))
        size = actor.blueprint.size
        return ground_pose(self.ground, x, y, yaw, (0.6 * size[0], 0.8 * size[1]))

    def instance_pose(self, number: int, time_s: float) -> np.ndarray:
        """``T_global_object`` [4, 4] of an instance; its origin is on the ground under the middle of its box."""
        still = len(self._poses)
        return self._poses[number] if number < still else self.actor_pose(number - still, time_s)

    def ego_pose(self, time_s: float) -> np.ndarray:
        """``T_global_ego`` [4, 4]: rear axle on the ground, the body's tilt plus a little sway of the springs."""
        x, y, yaw = self.ego_track.at(time_s)
        wheelbase = 2.7
        T = ground_pose(
            self.ground, x + wheelbase / 2 * np.cos(yaw), y + wheelbase / 2 * np.sin(yaw), yaw, (wheelbase, 1.6)
        )
        amplitude, rate, phase = self._sway
        pitch, roll = np.deg2rad(amplitude * self._sway_gain) * np.sin(rate * time_s + phase)
        T[:3, 3] -= T[:3, 0] * wheelbase / 2
        T[:3, :3] = T[:3, :3] @ rotation_ypr(0, pitch, roll)
        return T

    def at(self, time_s: float) -> Moment:
        """The world at a time [s] after the first keyframe."""
        moving = [m.geometry(self.actor_pose(n, time_s)) for n, m in enumerate(self._moving_models)]
        geometry = np.concatenate([self._still_geometry, *moving])
        solids = Solids(geometry, **self._fields)
        grid = build_grid(geometry, solids.shape, (self.ground.x0, self.ground.y0), self._grid_size, self._floor)
        return Moment(self.ground, solids, grid, self.light)
