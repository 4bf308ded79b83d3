"""Projection of LiDAR points: by hand, there and back, and the occlusion filter."""

import numpy as np
import pytest

from gsrender_core.classes import IGNORE
from gsrender_core.data.frame import PixelLabels
from gsrender_core.data.lidar_labels import LabelOptions, drop_occluded, on_own_vehicle, project_lidar
from gsrender_core.geometry import apply, transform

# Camera looking along ego x: its z is ego x, its x is ego -y, its y is ego -z.
FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
K = np.array([[100.0, 0.0, 50.0], [0.0, 110.0, 40.0], [0.0, 0.0, 1.0]])
SIZE = (100, 80)


def project(points, classes=None, T_ego_lidar=None, position=(0.0, 0.0, 0.0)):
    points = np.atleast_2d(np.asarray(points, dtype=np.float32))
    classes = np.zeros(len(points), np.uint8) if classes is None else np.asarray(classes, np.uint8)
    T_ego_lidar = np.eye(4) if T_ego_lidar is None else T_ego_lidar
    return project_lidar(points, classes, T_ego_lidar, transform(FORWARD, position)[None], K[None], SIZE)


def test_projection_by_hand():
    # LiDAR turned by 90 degrees and raised by 2 m: its x axis is ego y.
    T_ego_lidar = transform([np.sqrt(0.5), 0, 0, np.sqrt(0.5)], [1.0, 0.0, 2.0])
    # LiDAR (-1, -9, -1) -> ego (9 + 1, -1, 1); camera at (2, 0, 1.5): depth 8, right 1, down 0.5.
    labels = project([-1, -9, -1], [7], T_ego_lidar, (2.0, 0.0, 1.5))
    np.testing.assert_allclose(labels.depth_m, [8.0], rtol=1e-6)
    np.testing.assert_allclose(labels.uv, [[50 + 100 / 8, 40 + 110 * 0.5 / 8]], rtol=1e-6)
    assert labels.camera.tolist() == [0] and labels.class_id.tolist() == [7]
    assert (labels.camera.dtype, labels.uv.dtype, labels.depth_m.dtype, labels.class_id.dtype) == (
        np.int64, np.float32, np.float32, np.uint8,
    )  # fmt: skip


@pytest.mark.parametrize(
    "point, seen",
    [
        ([10, 5, 0], True),  # u = 50 - 100 * 5 / 10 = 0: the left edge belongs to the image
        ([10, 5.01, 0], False),
        ([10, -5, 0], False),  # u = 100: the right edge does not
        ([10, -4.99, 0], True),
        ([11, 0, 4], True),  # v = 40 - 110 * 4 / 11 = 0
        ([11, 0, -4], False),  # v = 80
        ([-10, 0, 0], False),  # behind; would land on the centre
        ([0, 0, 0], False),
        ([0.09, 0, 0], False),  # nearer than the limit
        ([0.11, 0, 0], True),
    ],
)
def test_borders(point, seen):
    assert len(project(point)) == int(seen)


def test_round_trip_over_a_rig():
    rng = np.random.default_rng(3)
    points = rng.uniform(-30, 30, (4000, 3)).astype(np.float32)
    classes = np.arange(4000).astype(np.uint8) % 17
    T_ego_lidar = transform(rng.normal(size=4), [0.9, 0.1, 1.8])
    T_ego_cam = np.stack([transform(rng.normal(size=4), rng.normal(size=3)) for _ in range(5)])
    Ks = np.stack([K * [[s, 0, 1], [0, s, 1], [0, 0, 1]] for s in (0.5, 0.7, 1.0, 1.2, 0.9)])
    labels = project_lidar(points, classes, T_ego_lidar, T_ego_cam, Ks, SIZE)
    assert (np.diff(labels.camera) >= 0).all() and set(labels.camera.tolist()) == set(range(5))
    assert (labels.uv >= 0).all() and (labels.uv < SIZE).all()
    # Back-project every label: it must be one of the points, with that point's class.
    lookup = {}
    points_ego = apply(T_ego_lidar, points.astype(np.float64))
    for c in range(5):
        at = labels.select(labels.camera == c)
        ray = np.c_[at.uv, np.ones(len(at))] @ np.linalg.inv(Ks[c]).T
        back = apply(T_ego_cam[c], ray * at.depth_m[:, None])
        distance = np.linalg.norm(back[:, None] - points_ego[None], axis=2)
        nearest = distance.argmin(axis=1)
        assert distance.min(axis=1).max() < 1e-3
        assert (classes[nearest] == at.class_id).all() and len(set(nearest)) == len(nearest)
        lookup[c] = len(nearest)
    # Nothing in view was lost: count with homogeneous coordinates.
    for c in range(5):
        p = np.linalg.inv(T_ego_cam[c]) @ np.c_[points_ego, np.ones(len(points))].T
        h = Ks[c] @ p[:3]
        u, v = h[:2] / h[2]
        inside = (h[2] > 0.1) & (u > 0) & (u < SIZE[0]) & (v > 0) & (v < SIZE[1])
        assert inside.sum() == lookup[c]


def test_wrong_shapes_are_refused():
    eye = np.eye(4)
    for points, classes, T, Ks in (
        (np.zeros((3, 2)), np.zeros(3, np.uint8), eye[None], K[None]),
        (np.zeros((3, 3)), np.zeros(2, np.uint8), eye[None], K[None]),
        (np.zeros((3, 3)), np.zeros(3, np.uint8), eye, K[None]),
        (np.zeros((3, 3)), np.zeros(3, np.uint8), np.stack([eye, eye]), K[None]),
    ):
        with pytest.raises(ValueError, match="must be"):
            project_lidar(points, classes, eye, T, Ks, SIZE)


def test_own_vehicle_box():
    points = np.array([[1, 0, 1], [3.6, 1, 0], [4, 0, 1], [1, 1.2, 1], [-1.2, 0, 1], [1, 0, 2.1]])
    assert on_own_vehicle(points).tolist() == [True, True, False, False, False, False]


def test_parity_excludes_the_occlusion_filter():
    with pytest.raises(ValueError, match="no occlusion filter"):
        LabelOptions(renderocc_parity=True, drop_occluded=True)


def make_labels(uv, depth, camera=None):
    n = len(uv)
    return PixelLabels(
        np.zeros(n, np.int64) if camera is None else np.asarray(camera),
        np.asarray(uv, np.float32),
        np.asarray(depth, np.float32),
        np.full(n, IGNORE, np.uint8),
    )


def test_point_seen_through_a_surface_is_dropped():
    # 704 px wide: reach 15 px. A car at 10 m in two rings, and behind it, between the rings, a wall at 30 m.
    uv = [[100, 100], [100, 112], [101, 106], [101, 106]]
    kept = drop_occluded(make_labels(uv, [10, 10, 30, 10.8]), (704, 256))
    assert kept.depth_m.tolist() == pytest.approx([10, 10, 10.8])
    # In another camera the wall is in plain sight.
    assert len(drop_occluded(make_labels(uv, [10, 10, 30, 10.8], [0, 0, 1, 0]), (704, 256))) == 4


def test_point_over_a_surface_stays():
    # The wall above the car has the car below it only.
    assert len(drop_occluded(make_labels([[100, 112], [100, 106]], [10, 30]), (704, 256))) == 2


def test_grazing_road_stays():
    # A flat road from 1.5 m height, f = 557 px, rings 1.33 degrees apart, up to 75 m.
    z = 1.5 / np.tan(np.arange(1.15, 25, 1.33 / 8) * np.pi / 180)
    v = 80 + 557 * 1.5 / z
    u = np.linspace(5, 700, 60)
    uv = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
    depth = np.repeat(z, len(u))
    inside = uv[:, 1] < 256
    labels = make_labels(uv[inside], depth[inside])
    assert labels.depth_m.max() > 70 and len(drop_occluded(labels, (704, 256))) == len(labels)


def test_filter_of_nothing_is_nothing():
    assert len(drop_occluded(make_labels(np.zeros((0, 2)), []), (704, 256))) == 0
