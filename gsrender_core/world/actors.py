"""What moves: tracks of the ego car, of traffic along roads and of people on foot."""

from dataclasses import dataclass

import numpy as np

from gsrender_core.world import street_objects, vehicles
from gsrender_core.world.furnish import Furnisher
from gsrender_core.world.parts import Blueprint
from gsrender_core.world.street import Layout, Road

TRACK_STEP_S = 0.05


@dataclass
class Track:
    """Positions and headings sampled every 0.05 s from ``t0`` [s]; linear in between."""

    t0: float
    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray  # unwrapped, rad

    def at(self, time_s: float) -> tuple[float, float, float]:
        """x, y [m] and yaw [rad] at a time.

        Raises:
            ValueError: the time lies outside the track.
        """
        k = (time_s - self.t0) / TRACK_STEP_S
        if not -1e-6 <= k <= len(self.x) - 1 + 1e-6:
            raise ValueError(f"time {time_s:.3f} s is outside the track of {len(self.x)} steps from {self.t0:.3f} s")
        n = np.arange(len(self.x))
        return float(np.interp(k, n, self.x)), float(np.interp(k, n, self.y)), float(np.interp(k, n, self.yaw))


@dataclass
class Actor:
    blueprint: Blueprint
    track: Track
    upright: bool = False  # people stand upright on slopes


@dataclass
class Clock:
    """Sampling times of every track of a scene."""

    times: np.ndarray  # s

    @classmethod
    def of(cls, duration_s: float) -> "Clock":
        return cls(np.arange(-0.3, duration_s + 0.35, TRACK_STEP_S))


def ego_profile(rng, clock: Clock, drive: str) -> np.ndarray:
    """Metres driven at each clock time: ``still``, ``stop`` (and go) or ``cruise``; at most 12 m/s."""
    times = clock.times
    if drive == "still":
        return np.zeros_like(times)
    if drive == "stop":
        period, top = rng.uniform(7, 14), rng.uniform(3, 8)
        speed = top * np.clip(0.5 + 0.9 * np.sin(2 * np.pi * times / period + rng.uniform(0, 6)), 0, 1)
    else:
        speed = np.clip(rng.uniform(3.5, 11.5) + rng.uniform(0, 1.5) * np.sin(times * rng.uniform(0.2, 0.6)), 0, 12)
    return np.concatenate([[0], np.cumsum(speed[:-1] * TRACK_STEP_S)])


def road_track(road: Road, clock: Clock, s: np.ndarray, t, backwards: bool = False) -> Track:
    """Track of something at arc lengths ``s`` [n] and offset ``t`` (a number or [n])."""
    x, y, yaw = road.at(s, t)
    return Track(float(clock.times[0]), x, y, np.unwrap(yaw) + (np.pi if backwards else 0.0))


def too_close(a: Track, size_a, b: Track, size_b) -> bool:
    """Whether two vehicles ever overlap, each taken as a row of discs."""
    step = slice(None, None, 4)

    def discs(track, size):
        reach = max(size[0] / 2 - size[1] / 2, 0.0)
        along = np.linspace(-reach, reach, 1 + int(np.ceil(2 * reach / size[1])))
        return (
            track.x[step, None] + np.cos(track.yaw[step, None]) * along,
            track.y[step, None] + np.sin(track.yaw[step, None]) * along,
        )

    (ax, ay), (bx, by) = discs(a, size_a), discs(b, size_b)
    gap = np.hypot(ax[:, :, None] - bx[:, None, :], ay[:, :, None] - by[:, None, :])
    return bool((gap < (size_a[1] + size_b[1]) / 2 + 0.35).any())


class Traffic:
    """Draws actors and keeps those that never touch the ego, each other or what stands on the roads."""

    def __init__(self, rng, layout: Layout, clock: Clock, ego_s: np.ndarray, furnisher: Furnisher):
        self.rng, self.layout, self.clock, self.ego_s = rng, layout, clock, ego_s
        self.offset = furnisher.ego_offset
        self.actors: list[Actor] = []
        n = len(clock.times)
        self.taken = [(road_track(layout.roads[0], clock, ego_s, self.offset), (5.0, 2.2))]
        for p in furnisher.placements:
            if p.blueprint.category.startswith(("vehicle", "movable_object")):
                still = Track(float(clock.times[0]), np.full(n, p.x), np.full(n, p.y), np.full(n, p.yaw))
                self.taken.append((still, p.blueprint.size))
        self.low, self.high = (
            np.array([layout.ground.x0, layout.ground.y0]) + 4,
            np.array([layout.ground.x0, layout.ground.y0]) + np.array(layout.ground.zone.shape) * layout.ground.res - 4,
        )

    def add(self, blueprint: Blueprint, track: Track, upright: bool = False) -> bool:
        inside = (track.x > self.low[0]) & (track.y > self.low[1]) & (track.x < self.high[0]) & (track.y < self.high[1])
        if not inside.all() or any(too_close(track, blueprint.size, other, size) for other, size in self.taken):
            return False
        self.taken.append((track, blueprint.size))
        self.actors.append(Actor(blueprint, track, upright))
        return True

    def vehicle(self) -> Blueprint:
        rng = self.rng
        kind = rng.choice(["car", "truck", "bus", "motorcycle", "bicycle"], p=[0.74, 0.11, 0.05, 0.06, 0.04])
        if kind in ("motorcycle", "bicycle"):
            return getattr(vehicles, kind)(rng, True)
        return getattr(vehicles, kind)(rng)

    def populate(self, wish: str) -> list[Actor]:
        rng, main, times = self.rng, self.layout.roads[0], self.clock.times
        s0 = self.ego_s
        if wish == "trailer":  # an articulated lorry ahead
            gap = rng.uniform(16, 26)
            lorry, load = vehicles.truck(rng, True), vehicles.trailer(rng)
            if self.add(lorry, road_track(main, self.clock, s0 + gap + load.size[0] / 2 + 3.4, self.offset)):
                self.add(load, road_track(main, self.clock, s0 + gap, self.offset))
        elif rng.random() < 0.6:
            self.add(
                self.vehicle(),
                road_track(main, self.clock, s0 + rng.uniform(11, 32) + 0.4 * np.sin(times * 0.5), self.offset),
            )
        if rng.random() < 0.5:
            self.add(self.vehicle(), road_track(main, self.clock, s0 - rng.uniform(10, 22), self.offset))
        speed, s = rng.uniform(4, 14), rng.uniform(-30, 10)
        for _ in range(rng.integers(1, 6)):  # oncoming
            s += rng.uniform(14, 45)
            oncoming = self.layout.start_s + s - speed * times
            if oncoming.min() > 1 and oncoming.max() < main.length - 1:
                self.add(self.vehicle(), road_track(main, self.clock, oncoming, -self.offset, True))
        if wish in ("bicycle", "motorcycle") or rng.random() < 0.3:
            name = wish if wish in ("bicycle", "motorcycle") else rng.choice(["bicycle", "motorcycle"])
            for _ in range(6):
                start = self.layout.start_s + rng.uniform(4, 25)
                track = road_track(
                    main, self.clock, start + rng.uniform(0, 5) * times, rng.choice([-1, 1]) * (main.half_width - 0.9)
                )
                if self.add(getattr(vehicles, name)(rng, True), track):
                    break
        for s_main, index in self.layout.junctions:
            self._cross_traffic(s_main, index)
        for index, road in enumerate(self.layout.roads):
            self._walkers(road, rng.integers(4, 12) if index == 0 else rng.integers(1, 6))
        self._crossers()
        return self.actors

    def _cross_traffic(self, s_main: float, index: int):
        rng, road, main = self.rng, self.layout.roads[index], self.layout.roads[0]
        x, y, _ = main.at(s_main)
        junction = float(np.argmin(np.hypot(road.xy[:, 0] - x, road.xy[:, 1] - y)))
        for direction in (-1, 1):
            s = junction - direction * (main.half_width + 4.5)
            for _ in range(rng.integers(0, 4)):  # waiting at the line
                b = self.vehicle()
                s -= direction * b.size[0] / 2
                if 2 < s < road.length - 2:
                    still = np.full(len(self.clock.times), s)
                    self.add(b, road_track(road, self.clock, still, -direction * road.half_width / 2, direction < 0))
                s -= direction * (b.size[0] / 2 + rng.uniform(1.2, 3))
            for _ in range(rng.integers(0, 3)):
                moving = rng.uniform(0, road.length) + direction * rng.uniform(3, 11) * self.clock.times
                if moving.min() > 2 and moving.max() < road.length - 2:
                    self.add(
                        self.vehicle(),
                        road_track(road, self.clock, moving, -direction * road.half_width / 2, direction < 0),
                    )

    def _walkers(self, road: Road, count: int):
        rng = self.rng
        for _ in range(int(count)):
            side, direction = rng.choice([-1, 1], 2)
            if road is self.layout.roads[0]:
                start = self.layout.start_s + rng.uniform(-30, 45 + self.layout.travel)
            else:
                start = rng.uniform(0, road.length)
            speed = rng.choice([0.0, rng.uniform(0.8, 1.8)], p=[0.25, 0.75])
            s = np.clip(start + direction * speed * self.clock.times, 0.5, road.length - 0.5)
            t = side * (road.half_width + rng.uniform(0.7, max(road.walk_width - 0.4, 0.8)))
            kind = rng.choice(
                ["human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.police_officer"],
                p=[0.9, 0.08, 0.02],
            )
            b = street_objects.person(rng, kind, 0.65 if kind.endswith("child") else None)
            self.add(b, road_track(road, self.clock, s, t, direction < 0), True)

    def _crossers(self):
        """People who step onto the main road ahead of the ego, or out from between parked cars."""
        rng, main = self.rng, self.layout.roads[0]
        for _ in range(rng.integers(1, 4)):
            side = rng.choice([-1, 1])
            at = self.layout.start_s + rng.uniform(6, 30 + self.layout.travel)
            begin, speed = rng.uniform(-3, self.clock.times[-1]), rng.uniform(0.9, 1.7)
            reach = main.half_width + 1.2
            t = side * (reach - np.clip((self.clock.times - begin) * speed, 0, 2 * reach))
            x, y, yaw = main.at(np.full(len(t), at), t)
            self.add(street_objects.person(rng), Track(float(self.clock.times[0]), x, y, yaw - side * np.pi / 2), True)
