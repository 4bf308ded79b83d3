"""Occ3D labels of the synthetic world: hand-made scenes, and the observed voxels against a slow reference."""

import numpy as np
import pytest

from gsrender_core.classes import FREE, class_id
from gsrender_core.geometry import apply, transform
from gsrender_core.world import occupancy_labels
from gsrender_core.world.ground import Ground
from gsrender_core.world.occupancy_labels import GRID_MIN, VOXEL_M, View
from gsrender_core.world.parts import SEG, rotation_ypr
from gsrender_core.world.raycast import BOX, Solids, build_grid
from gsrender_core.world.scene import Moment


def moment_of(boxes):
    """Flat road at z = 0 and boxes (center, half, lidarseg name) around (100, 100)."""
    shape = (500, 500)
    zero = np.zeros(shape, np.float32)
    ground = Ground(
        zero, np.zeros(shape, np.uint16), zero, zero, np.zeros(shape, np.uint8),
        np.array([SEG["flat.driveable_surface"]], np.uint8), np.zeros(1, np.uint8), np.zeros((1, 8), np.float32),
        np.zeros(1, np.int64), 0.0, 0.0, 0.4,
    )  # fmt: skip
    rows = [[*c, *h, *np.eye(3).ravel(), np.linalg.norm(h)] for c, h, _ in boxes]
    geometry = np.array(rows, np.float32).reshape(-1, 16)
    n = len(boxes)
    solids = Solids(
        geometry, np.full(n, BOX, np.uint8), np.array([SEG[name] for _, _, name in boxes], np.uint8),
        np.zeros(n, np.uint8), np.zeros((n, 6), np.float32), np.zeros(n, np.int64), np.full(n, -1, np.int32),
    )  # fmt: skip
    return Moment(ground, solids, build_grid(geometry, solids.shape, (0.0, 0.0), (50, 50)), None)


def test_flat_road_and_one_car():
    # x 2.0 to 6.0, y -0.8 to 0.8, z 0.2 to 1.6 in the ego frame: ten by four voxels, whole in height from layer 3.
    moment = moment_of([((104, 100, 0.9), (2.0, 0.8, 0.7), "vehicle.car")])
    labels = occupancy_labels.semantics(moment, transform(np.eye(3), (100, 100, 0)))
    road = labels == class_id("driveable_surface")
    # z = 0 lies in layer 2 ([-0.2, 0.2)); the car's underside touches it at 0.2 only.
    assert road[:, :, 2].all() and road.sum() == 200 * 200
    car = np.argwhere(labels == class_id("car"))
    assert car.min(axis=0).tolist() == [105, 98, 3] and car.max(axis=0).tolist() == [114, 101, 6]
    assert len(car) == 10 * 4 * 4
    assert (labels[105:115, 98:102, 7:] == FREE).all()


def test_small_things_survive_and_win():
    boxes = [
        ((110.03, 95.07, 0.5), (0.04, 0.04, 0.5), "static.manmade"),  # a pole thinner than a voxel
        ((100, 110, 1), (3, 3, 1), "static.vegetation"),
        ((100, 110, 1), (0.3, 0.3, 0.9), "human.pedestrian.adult"),
    ]
    labels = occupancy_labels.semantics(moment_of(boxes), transform(np.eye(3), (100, 100, 0)))
    i, j = int((10.03 + 40) / 0.4), int((-4.93 + 40) / 0.4)
    assert labels[i, j, 3] == class_id("manmade") and labels[i, j, 4] == class_id("manmade")
    assert labels[100, 125, 4] == class_id("pedestrian")


def test_houses_are_hollow():
    labels = occupancy_labels.semantics(
        moment_of([((115, 100, 3), (5, 5, 6), "static.manmade")]), transform(np.eye(3), (100, 100, 0))
    )
    assert (labels[125, 88:112, 3:] == class_id("manmade")).all()
    assert (labels[132:140, 96:104] == FREE).all()  # neither walls nor ground inside


def test_ground_follows_the_pitch_of_the_car():
    pitch = np.deg2rad(2.0)  # nose down: the road ahead rises in the ego frame
    T = transform(rotation_ypr(0, pitch, 0), (100, 100, 0))
    labels = occupancy_labels.semantics(moment_of([]), T)
    for i in (0, 60, 100, 150, 199):
        x = GRID_MIN[0] + (i + 0.5) * VOXEL_M
        expected = (x * np.tan(pitch) + 1.0) / VOXEL_M  # layer, fractional
        occupied = np.flatnonzero(labels[i, 100] != FREE)
        if 0 <= expected < 16:
            assert int(expected) in occupied and len(occupied) <= 2
        else:
            assert len(occupied) == 0


def observed_by_slabs(labels, origin, end):
    """Of one ray: which voxels it passes through up to the first occupied one, and which it all but misses.

    Every voxel is asked by itself where the ray enters and leaves it, as shares of its length.
    """
    enter, leave = np.zeros(labels.shape), np.ones(labels.shape)
    for axis, count in enumerate(labels.shape):
        low = GRID_MIN[axis] + np.arange(count) * VOXEL_M
        sides = np.sort((np.stack((low, low + VOXEL_M)) - origin[axis]) / (end - origin)[axis], axis=0)
        shape = [1, 1, 1]
        shape[axis] = count
        enter, leave = np.maximum(enter, sides[0].reshape(shape)), np.minimum(leave, sides[1].reshape(shape))
    met = leave > enter
    first = enter[met & (labels != FREE)].min(initial=np.inf)
    return met & (enter <= first), abs(leave - enter) < 1e-9


def test_observed_voxels_agree_with_every_voxel_asked_by_itself():
    rng = np.random.default_rng()
    labels = np.where(rng.random((200, 200, 16)) < 0.02, 4, FREE).astype(np.uint8)
    origin = np.array([0.9437, 0.07, 1.8402])  # on no border between voxels
    labels[tuple(np.floor((origin - GRID_MIN) / VOXEL_M).astype(int))] = FREE  # or no ray leaves its first voxel
    ends = origin + rng.normal(size=(40, 3)) * [25, 25, 2]
    observed, stopped = 0, 0
    for end in ends:
        mask = np.zeros_like(labels)
        occupancy_labels.observe(labels, origin, end[None], mask)
        expected, unsure = observed_by_slabs(labels, origin, end)
        assert np.array_equal(mask[~unsure], expected[~unsure]), f"ray to {end.tolist()}"
        observed += expected.sum()
        stopped += (labels[expected] != FREE).any()
    assert observed > 300 and stopped > 5, "nothing is compared"
    together = np.zeros_like(labels)
    occupancy_labels.observe(labels, origin, ends, together)
    alone = np.zeros_like(labels)
    for end in ends:
        occupancy_labels.observe(labels, origin, end[None], alone)
    assert np.array_equal(together, alone)


def test_points_move_as_geometry_moves_them():
    rng = np.random.default_rng()
    points, T = rng.normal(size=(50, 3)) * 30, transform(rotation_ypr(*rng.uniform(-3, 3, 3)), rng.normal(size=3))
    np.testing.assert_allclose(occupancy_labels.move(T, points), apply(T, points), atol=1e-12)


def test_wall_hides_what_is_behind():
    labels = np.full((200, 200, 16), FREE, np.uint8)
    labels[120] = class_id("manmade")
    mask = np.zeros_like(labels)
    view = View(
        np.array([[100.0, 0, 100], [0, 100, 40], [0, 0, 1]]), transform((0.5, -0.5, 0.5, -0.5), (0, 0, 1.5)), (200, 80)
    )
    assert apply(view.T_ego_cam, np.array([0.0, 0, 1])).tolist() == pytest.approx([1, 0, 1.5])
    surface = occupancy_labels.surface_points(labels)
    assert len(surface) == 200 * 16
    ends = np.concatenate([view.pixel_ray_ends(), view.surface_ray_ends(surface)])
    occupancy_labels.observe(labels, view.T_ego_cam[:3, 3], ends, mask)
    assert mask[110, 100, 6] and mask[120, 100, 6]
    assert not mask[121:].any() and not mask[:99].any()
