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


def observed_by_sampling(labels, origin, ends, step=0.002):
    """Voxels met by walking along each ray in 2 mm steps, up to the first occupied one."""
    mask = np.zeros(labels.shape, np.uint8)
    for end in ends:
        length = np.linalg.norm(end - origin)
        points = origin + np.arange(0, length, step)[:, None] * (end - origin) / length
        index = np.floor((points - GRID_MIN) / VOXEL_M).astype(int)
        index = index[((index >= 0) & (index < labels.shape)).all(axis=1)]
        solid = labels[tuple(index.T)] != FREE
        last = solid.argmax() + 1 if solid.any() else len(index)
        mask[tuple(index[:last].T)] = 1
    return mask


def test_observed_voxels_agree_with_sampling():
    rng = np.random.default_rng()
    labels = np.where(rng.random((200, 200, 16)) < 0.02, 4, FREE).astype(np.uint8)
    origin = np.array([0.9437, 0.0, 1.8402])
    labels[tuple(np.floor((origin - GRID_MIN) / VOXEL_M).astype(int))] = FREE  # or no ray leaves its first voxel
    ends = origin + rng.normal(size=(150, 3)) * [25, 25, 2]
    mask = np.zeros_like(labels)
    occupancy_labels.observe(labels, origin, ends, mask)
    expected = observed_by_sampling(labels, origin, ends)
    assert expected.sum() > 3000
    # Sampling steps over corners shorter than 2 mm: it misses a few voxels, and seldom a whole obstacle.
    assert (mask > expected).sum() < 0.005 * expected.sum()
    assert (expected > mask).sum() < 0.02 * expected.sum()


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
