"""Points of moving LiDARs in the ego frame: by hand, several LiDARs, and every point looked up by itself."""

import numpy as np
import pytest
from small_drives import START_NS, pose_at

from gsrender_core.geometry import apply, inverse, quaternion_from_rotation, transform
from gsrender_ros.clouds import Cloud
from gsrender_ros.statistics import FrameDropped
from gsrender_ros.sweeps import POSE_STEP_NS, Reference, sweep_points
from gsrender_ros.transform_tree import TransformTree

REFERENCE = Reference("base_link", "map", START_NS + 200_000_000)
TOP = transform(np.eye(3), (1.0, 0.0, 1.8))
REAR = transform((np.cos(1.5), 0, 0, np.sin(1.5)), (-1.0, 0.2, 0.5))  # looks back, nearly


def straight_on(at_ns: int) -> np.ndarray:
    """``T_map_base`` at 5 m/s along x."""
    return transform(np.eye(3), (5.0 * (at_ns - START_NS) / 1e9, 0.0, 0.0))


def tree_of(pose, step_ns: int = 10_000_000) -> TransformTree:
    """A second of poses, and two LiDARs."""
    tree = TransformTree()
    for frame, T in (("lidar_top", TOP), ("lidar_rear", REAR)):
        tree.add(("base_link", frame), START_NS, _value(T), static=True)
    for at_ns in range(START_NS, START_NS + 1_000_000_001, step_ns):
        tree.add(("map", "base_link"), at_ns, _value(pose(at_ns)))
    return tree


def _value(T: np.ndarray) -> tuple[tuple, tuple]:
    w, x, y, z = (float(v) for v in quaternion_from_rotation(T[:3, :3]))
    return tuple(float(v) for v in T[:3, 3]), (x, y, z, w)


def cloud(points, frame: str = "lidar_top", after_ns: int = 200_000_000, offsets_ns=None, **fields) -> Cloud:
    points, stamp_ns = np.array(points, np.float64), START_NS + after_ns
    times = None if offsets_ns is None else stamp_ns + np.asarray(offsets_ns, np.int64)
    return Cloud(points, fields, times, stamp_ns, frame)


def test_points_of_an_earlier_sweep_are_as_much_nearer_as_the_vehicle_has_moved():
    points = sweep_points([cloud([(10, 0, 0), (0, 4, -1)], after_ns=180_000_000)], tree_of(straight_on), REFERENCE)
    np.testing.assert_allclose(points.points_ego, [(10.9, 0, 1.8), (0.9, 4, 0.8)], atol=1e-9)  # 20 ms at 5 m/s
    np.testing.assert_allclose(points.origins_ego, [(0.9, 0, 1.8)] * 2, atol=1e-9)


def test_every_point_is_taken_from_the_moment_at_which_it_was_measured():
    one = cloud([(10, 0, 0)] * 3, after_ns=200_000_000, offsets_ns=[-100_000_000, 0, 40_000_000])
    points = sweep_points([one], tree_of(straight_on), REFERENCE)
    np.testing.assert_allclose(points.points_ego[:, 0], [10.5, 11.0, 11.2], atol=1e-9)
    np.testing.assert_allclose(points.origins_ego[:, 0], [0.5, 1.0, 1.2], atol=1e-9)


def test_stamps_of_another_end_of_the_sweep_are_moved():
    tree, tens = tree_of(straight_on), 30_000_000
    for offsets_ns in (None, [0]):
        points = sweep_points([cloud([(10, 0, 0)], offsets_ns=offsets_ns)], tree, REFERENCE, offset_ns=tens)
        np.testing.assert_allclose(points.points_ego, [(11.15, 0, 1.8)], atol=1e-9)


def test_rays_begin_where_the_lidar_stands_in_its_clouds_frame():
    tree, places = tree_of(straight_on), [(0.5, 0.0, 2.0), (0.0, 1.0, 0.0)]
    top, rear = cloud([(9, 0, 0)] * 2, offsets_ns=[0, 100_000_000]), cloud([(9, 0, 0)], "lidar_rear")
    points, plain = sweep_points([top, rear], tree, REFERENCE, 0, places), sweep_points([top, rear], tree, REFERENCE)
    np.testing.assert_array_equal(points.points_ego, plain.points_ego)
    expected = [(1.5, 0, 3.8), (2.0, 0, 3.8), apply(REAR, np.array([places[1]]))[0]]
    np.testing.assert_allclose(points.origins_ego, expected, atol=1e-9)


def test_several_lidars_each_from_its_place_and_time_with_what_all_say():
    top = cloud([(2, 0, 0), (3, 0, 0)], label=np.array([4, 5], np.uint8), ring=np.array([0, 1]))
    rear = cloud([(2, 0, 0)], "lidar_rear", 300_000_000, label=np.array([11], np.uint32), gain=np.array([7.0]))
    points = sweep_points([top, rear], tree_of(straight_on), REFERENCE)
    later = transform(np.eye(3), (0.5, 0, 0)) @ REAR  # 100 ms further on
    expected = np.concatenate([apply(TOP, top.points), apply(later, rear.points)])
    np.testing.assert_allclose(points.points_ego, expected, atol=1e-9)
    np.testing.assert_allclose(points.origins_ego, [TOP[:3, 3], TOP[:3, 3], later[:3, 3]], atol=1e-9)
    assert {name: values.tolist() for name, values in points.fields.items()} == {"label": [4, 5, 11]}
    less = points.select(np.array([False, True, True]))
    assert len(less) == 2 and less.fields["label"].tolist() == [5, 11]
    np.testing.assert_array_equal(less.origins_ego, points.origins_ego[1:])


def test_many_points_are_those_of_one_look_up_each():
    rng, count = np.random.default_rng(0), 500
    tree = tree_of(pose_at, POSE_STEP_NS)  # turns and drives; a pose at every step, so that none is interpolated
    clouds, slowly, origins = [], [], []
    for frame, T_base_lidar in (("lidar_top", TOP), ("lidar_rear", REAR)):
        offsets_ns = rng.integers(-100_000_000, 100_000_001, count)
        clouds.append(cloud(rng.uniform(-30, 30, (count, 3)), frame, 300_000_000, offsets_ns))
        for point, at_ns in zip(clouds[-1].points, clouds[-1].times_ns, strict=True):
            nearest_ns = round(at_ns / POSE_STEP_NS) * POSE_STEP_NS
            T = inverse(pose_at(REFERENCE.stamp_ns)) @ pose_at(nearest_ns) @ T_base_lidar
            slowly.append(T @ (*point, 1.0))
            origins.append(T[:3, 3])
    points = sweep_points(clouds, tree, REFERENCE)
    np.testing.assert_allclose(points.points_ego, np.array(slowly)[:, :3], atol=1e-6)
    np.testing.assert_allclose(points.origins_ego, origins, atol=1e-6)
    # The step costs less than half a millisecond of motion.
    T = inverse(pose_at(REFERENCE.stamp_ns)) @ pose_at(int(clouds[0].times_ns[0])) @ TOP
    assert np.linalg.norm(points.origins_ego[0] - T[:3, 3]) < 5.0 * 0.6e-3


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (
            cloud([(1, 0, 0)], "velodyne"),
            '"velodyne" passed .* does not exist.*Known: base_link, lidar_rear, lidar_top',
        ),
        (
            cloud([(1, 0, 0)], after_ns=1_100_000_000),
            r"No transform base_link <- lidar_top at 1700000001.100 \(through",
        ),
        (cloud([(1, 0, 0)] * 2, offsets_ns=[0, 900_000_000]), "extrapolation into the future"),
    ],
)
def test_a_pose_that_is_missing_is_named(one, text):
    with pytest.raises(FrameDropped, match=text) as dropped:
        sweep_points([one], tree_of(straight_on), REFERENCE)
    assert dropped.value.reason == "no_tf"
