"""Ray casting of the synthetic world: hand-computed hits, and the grid against brute force."""

import numpy as np
import pytest

from gsrender_core.world.ground import NO_HIT, Ground, ground_height, trace_ground
from gsrender_core.world.parts import rotation_ypr
from gsrender_core.world.raycast import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    GROUND_ID,
    SKY_ID,
    Solids,
    build_grid,
    column_floor,
    intersect,
    trace,
    trace_solids,
)


def geometry_of(center, half, R_global_local=None):
    R = np.eye(3) if R_global_local is None else R_global_local
    return np.array([*center, *half, *R.T.ravel(), np.linalg.norm(half)], np.float32)


def solids_of(rows, shapes):
    n = len(rows)
    zeros = np.zeros(n, np.uint8)
    return Solids(
        np.stack(rows), np.array(shapes, np.uint8), zeros, zeros, np.zeros((n, 6), np.float32),
        np.zeros(n, np.int64), np.full(n, -1, np.int32),
    )  # fmt: skip


def ground_of(height, res=0.2):
    empty = np.zeros(height.shape, np.float32)
    return Ground(
        height.astype(np.float32), np.zeros(height.shape, np.uint16), empty, empty, np.zeros(height.shape, np.uint8),
        np.zeros(1, np.uint8), np.zeros(1, np.uint8), np.zeros((1, 8), np.float32), np.zeros(1, np.int64),
        0.0, 0.0, res,
    )  # fmt: skip


def test_hits_computed_by_hand():
    # Half sizes (1, 2, 3) at (10, 0, 0), seen along +x from the origin.
    g = geometry_of((10, 0, 0), (1, 2, 3))[None]
    for shape in (BOX, ELLIPSOID, CYLINDER):
        assert intersect(g, np.array([shape], np.uint8), 0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0) == pytest.approx(9.0)
        assert intersect(g, np.array([shape], np.uint8), 0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0) == NO_HIT
        assert intersect(g, np.array([shape], np.uint8), 0, 0.0, 2.1, 0.0, 1.0, 0.0, 0.0) == NO_HIT
    # Height 1.5 = half of the ellipsoid's: its x half width there is sqrt(1 - 1/4).
    hit = intersect(g, np.array([ELLIPSOID], np.uint8), 0, 0.0, 0.0, 1.5, 1.0, 0.0, 0.0)
    assert hit == pytest.approx(10 - np.sqrt(0.75), abs=1e-5)
    # From above onto the cylinder's cap.
    assert intersect(g, np.array([CYLINDER], np.uint8), 0, 10.5, 0.0, 8.0, 0.0, 0.0, -1.0) == pytest.approx(5.0)
    # A box turned by 45 degrees shows its edge: half diagonal sqrt(2).
    turned = geometry_of((10, 0, 0), (1, 1, 1), rotation_ypr(np.pi / 4, 0, 0))[None]
    hit = intersect(turned, np.array([BOX], np.uint8), 0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    assert hit == pytest.approx(10 - np.sqrt(2), abs=1e-5)


def test_grid_agrees_with_brute_force():
    rng = np.random.default_rng()
    rows, shapes = [], rng.integers(0, 3, 80)
    for _ in shapes:
        rows.append(
            geometry_of(
                rng.uniform((5, 5, 0), (55, 55, 6)), rng.uniform(0.1, 4, 3), rotation_ypr(*rng.uniform(-3, 3, 3))
            )
        )
    solids = solids_of(rows, shapes)
    grid = build_grid(solids.geometry, solids.shape, (0.0, 0.0), (15, 15))
    hits = 0
    for _ in range(3000):
        o = rng.uniform((1, 1, -2), (59, 59, 9))
        d = rng.normal(size=3) * [1, 1, 0.3]
        d /= np.linalg.norm(d)
        ranges = np.array([intersect(solids.geometry, solids.shape, k, *o, *d) for k in range(80)])
        t, k = trace_solids(solids, grid, *o, *d, 1000.0, False)
        if ranges.min() == NO_HIT:
            assert k == SKY_ID
        else:
            hits += 1
            assert t == ranges.min() and ranges[k] == t
        blocked = trace_solids(solids, grid, *o, *d, 1000.0, True)[1] >= 0
        assert blocked == (ranges.min() < NO_HIT)
    assert 300 < hits < 3000


def test_trace_meets_the_nearer_of_ground_and_solids():
    rng = np.random.default_rng()
    x, y = np.meshgrid(0.2 * np.arange(301), 0.2 * np.arange(301), indexing="ij")
    ground = ground_of(1.5 * np.sin(x / 7) * np.cos(y / 9))
    shapes = rng.integers(0, 3, 60)
    centers = rng.uniform((5, 5, 0), (55, 55, 5), (60, 3))
    solids = solids_of([geometry_of(c, rng.uniform(0.2, 2, 3)) for c in centers], shapes)
    floor = column_floor(ground, (15, 15))
    for i, j in rng.integers(0, 15, (20, 2)):
        assert floor[i * 15 + j] <= ground.height[20 * i : 20 * i + 21, 20 * j : 20 * j + 21].min()
    grid = build_grid(solids.geometry, solids.shape, (0.0, 0.0), (15, 15), floor)
    met = {GROUND_ID: 0, SKY_ID: 0, 0: 0}
    for _ in range(2000):
        o, d = np.array([*rng.uniform(20, 40, 2), 3.5]), rng.normal(size=3) * [1, 1, 0.2]
        d /= np.linalg.norm(d)
        above = o[2] - ground_height(ground, o[0], o[1])
        t_ground = trace_ground(ground, above, *o, *d, 45.0)
        t_solid = min(intersect(solids.geometry, solids.shape, k, *o, *d) for k in range(60))
        inside = ((o + min(t_solid, t_ground, 45.0) * d)[:2] > 0).all() and (
            (o + min(t_solid, 45.0) * d)[:2] < 60
        ).all()
        if not inside:
            continue
        t, k = trace(ground, solids, grid, above, *o, *d, 45.0)
        met[min(k, 0)] += 1
        if min(t_ground, t_solid) >= 45.0:
            assert k == SKY_ID
        else:
            assert t == min(t_ground, t_solid) and (k == GROUND_ID) == (t_ground < t_solid)
    assert min(met.values()) > 20


def test_ground_hits_agree_with_dense_marching():
    rng = np.random.default_rng()
    x, y = np.meshgrid(0.2 * np.arange(300), 0.2 * np.arange(300), indexing="ij")
    height = 1.2 * np.sin(x / 9) * np.cos(y / 11) + 0.15 * (np.abs(x - 30) > 5)  # slopes and curbs
    ground = ground_of(height)
    assert ground_height(ground, 12.0, 7.0) == pytest.approx(height[60, 35], abs=1e-5)
    steps = np.arange(0, 60, 0.008)
    found = 0
    for _ in range(60):
        o = np.array([*rng.uniform(20, 40, 2), 3.0])
        yaw = rng.uniform(-np.pi, np.pi)
        d = np.array([np.cos(yaw), np.sin(yaw), -rng.uniform(0.06, 1.2)])
        d /= np.linalg.norm(d)
        p = o + steps[:, None] * d
        inside = ((p[:, :2] > 0.5) & (p[:, :2] < 59)).all(axis=1)
        heights = np.array([ground_height(ground, q[0], q[1]) for q in p[inside]])
        below = p[inside][:, 2] < heights
        t = trace_ground(ground, o[2] - ground_height(ground, o[0], o[1]), *o, *d, 200.0)
        if below.any():
            found += 1
            clearance = (o + t * d)[2] - ground_height(ground, *(o + t * d)[:2])
            assert abs(clearance) < 0.004 + 0.0001 * t  # how near the tracer must come
            # It may stop early where the ground falls as fast as the ray, and must not pass through the ground.
            deep = p[inside][:, 2] < heights - 0.02
            assert not deep.any() or t <= steps[inside][deep.argmax()] + 0.01
            near = p[inside][:, 2] < heights + 0.004 + 0.0001 * steps[inside]
            assert t >= steps[inside][near.argmax()] - 0.01
    assert found > 30
    above = 3.0 - ground_height(ground, 30.0, 30.0)
    assert trace_ground(ground, above, 30.0, 30.0, 3.0, 0.0, 0.6, 0.8, 200.0) == NO_HIT
