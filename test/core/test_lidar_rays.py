"""LiDAR rays against a grid: by hand, then properties, then the twin that walks return by return."""

import math

import numpy as np
import pytest

from gsrender_core.classes import CLASS_NAMES, FREE, IGNORE
from gsrender_core.metrics.lidar_rays import LidarRayAgreement, compare_rays
from gsrender_core.metrics.lidar_rays_reference import agreement_reference, compare_rays_reference
from gsrender_core.voxel_grid import VoxelGrid

GRID = VoxelGrid((-4.0, -4.0, -1.0), 0.5, (16, 16, 8))
ORIGIN = np.array([0.25, 0.25, 0.25])  # centre of voxel (8, 8, 2)


def empty() -> np.ndarray:
    return np.full(GRID.shape, FREE, np.uint8)


def along_x(*x: float) -> np.ndarray:
    return np.array([[value, 0.25, 0.25] for value in x])


def test_errors_by_hand():
    semantics = empty()
    semantics[12, 8, 2] = 4  # x in [2, 2.5): left 2.25 m from the origin
    # In the same voxel, wherever in it; in voxel 8 + 1 (left at 0.75 m); in voxel 15 (left at 3.75 m).
    rays = compare_rays(semantics, ORIGIN, along_x(2.0, 2.49, 0.6, 3.9), GRID)
    np.testing.assert_allclose(rays.error_m, [0, 0, 1.5, -1.5], atol=1e-12)
    assert rays.labels.tolist() == [4] * 4 and rays.counted.all()
    # The other way nothing stands.
    rays = compare_rays(semantics, ORIGIN, along_x(-2.0), GRID)
    assert np.isnan(rays.error_m).all() and rays.labels.tolist() == [FREE] and not rays.hit.any()


def test_a_slanted_ray_by_hand():
    semantics = empty()
    semantics[10, 10, 2] = 15  # from voxel (8, 8) along the diagonal
    rays = compare_rays(semantics, ORIGIN, np.array([[0.75, 0.75, 0.25]]), GRID)  # the return lies in (9, 9)
    np.testing.assert_allclose(rays.error_m, [0.5 * math.sqrt(2)], atol=1e-12)


def test_a_ray_inside_the_road_is_met_at_its_return():
    origin = np.array([-3.65, 0.25, 1.25])
    point = np.array([3.85, 0.25, -0.25])  # 7.5 m ahead, 1.5 m lower: enters the layer z in [-0.5, 0) at x = 2.6
    semantics = empty()
    semantics[:, :, 1], semantics[15, 8, 1] = 11, 13
    rays = compare_rays(semantics, origin, point[None], GRID)
    assert rays.error_m.tolist() == [0] and rays.labels.tolist() == [13] and rays.grazing.tolist() == [True]
    # Not where a gap lies on the way, where the surface is no flat one, or where the return is two layers lower.
    for change in ((14, 8, 1, FREE), (14, 8, 1, 4), (15, 8, 1, FREE)):
        other = semantics.copy()
        other[change[:3]] = change[3]
        rays = compare_rays(other, origin, point[None], GRID)
        # Met in voxel 13, left at x = 3; the return's is left at x = 4.
        assert rays.error_m[0] == pytest.approx(-math.hypot(1, 0.2)) and rays.labels[0] == 11 and not rays.grazing[0]
    rays = compare_rays(np.full(GRID.shape, 11, np.uint8), origin, point[None], GRID)
    assert not rays.grazing[0] and rays.error_m[0] < -7


def test_returns_outside_and_at_the_sensor_do_not_count():
    points = np.array([[4.0, 0, 0], [3.99, 0, 0], [0, 0, 3.0], ORIGIN + [0, 0, 0.005]])
    rays = compare_rays(empty(), ORIGIN, points, GRID)
    assert rays.counted.tolist() == [False, True, False, False] and len(rays.labels) == 1


def test_shares_by_hand_thresholds_are_strict():
    semantics = empty()
    semantics[12, 8, 2] = 4
    metric = LidarRayAgreement(GRID)
    # Errors 0, +1 (not within 1 m), -1, -1.5, +1.5, and one ray that meets nothing.
    metric.update(semantics, ORIGIN, np.concatenate([along_x(2.2, 1.2, 3.2, 3.9, 0.6, -1.0), [[9.0, 0, 0]]]))
    result = metric.result()
    assert (result["rays"], result["not_counted"], result["labelled_rays"]) == (6, 1, 0)
    shares = {name: result[name] * 6 for name in ("within@1", "early@1", "late@1", "within@2", "early@2", "within@4")}
    assert shares == pytest.approx(
        {"within@1": 1, "early@1": 2, "late@1": 2, "within@2": 5, "early@2": 0, "within@4": 5}
    )
    assert result["missed"] == pytest.approx(1 / 6) and result["free_before_return"] == pytest.approx(4 / 6)
    # Five of six rays hit: 1 / (6 + 5 - 1), 5 / (6 + 5 - 5).
    assert result["occupied_rayiou@1"] == pytest.approx(0.1) and result["occupied_rayiou@2"] == pytest.approx(5 / 6)
    assert result["depth_error_m"]["q50"] == pytest.approx(0, abs=0.02)
    assert result["depth_error_m"]["mean"] == pytest.approx(0)
    assert math.isnan(result["lidar_rayiou"])


def test_classes_by_hand():
    semantics = empty()
    semantics[12, 8, 2], semantics[4, 8, 2] = 4, 10  # ahead a car; behind a truck, x in [-2, -1.5)
    points = along_x(2.2, 1.2, 2.2, -1.7, 2.2)
    metric = LidarRayAgreement(GRID)
    metric.update(semantics, ORIGIN, points, np.array([4, 4, 10, 4, IGNORE], np.uint8))
    result = metric.result()
    assert result["labelled_rays"] == 4
    # Cars: truth 3 (two ahead, one where a truck stands), predicted 3 (the truck ahead among them), right 1 within 1 m
    # (the other is 1 m off) and 2 within 2 m.
    assert result["lidar_rayiou@1"] == pytest.approx(np.mean([1 / 5, 0 / 2]))
    assert result["lidar_ray_iou"]["car"] == pytest.approx(np.mean([1 / 5, 2 / 4, 2 / 4]))
    assert result["lidar_ray_iou"]["truck"] == 0 and math.isnan(result["lidar_ray_iou"]["bus"])


def test_nothing_seen_is_nan_not_zero():
    result = LidarRayAgreement().result()
    assert result["rays"] == 0
    assert all(math.isnan(result[name]) for name in ("within@1", "missed", "occupied_rayiou", "lidar_rayiou"))


def scan(rng: np.random.Generator, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A grid, origins of several sensors (one outside), returns in and around the grid, labels."""
    density = rng.choice([0.01, 0.1])
    semantics = np.where(rng.random(GRID.shape) < density, rng.integers(0, 17, GRID.shape), FREE).astype(np.uint8)
    semantics[:, :, :2] = np.where(rng.random((16, 16, 2)) < 0.9, rng.integers(11, 15, (16, 16, 2)), FREE)
    sensors = np.array([[0.3, 0.2, 0.7], [-3.1, 1.1, 0.1], [0.0, -7.0, 4.0]])
    points = rng.uniform(np.array(GRID.min_m) - 0.7, np.array(GRID.max_m) + 0.7, (count, 3))
    labels = rng.choice(np.append(np.arange(17), IGNORE), count).astype(np.uint8)
    return semantics, sensors[rng.integers(0, 3, count)], points, labels


@pytest.mark.parametrize("seed", range(4))
def test_equals_its_twin_on_random_scans(seed):
    rng = np.random.default_rng(seed)
    frames = [scan(rng), scan(rng), (*scan(rng)[:3], None)]
    metric, parts = LidarRayAgreement(GRID), []
    for semantics, origins, points, labels in frames:
        fast = metric.update(semantics, origins, points, labels)
        slow = compare_rays_reference(semantics, origins, points, GRID)
        assert fast.counted.tolist() == [ray is not None for ray in slow]
        errors = [np.nan if ray[0] is None else ray[0] for ray in slow if ray is not None]
        np.testing.assert_allclose(fast.error_m, errors, atol=1e-6)
        assert fast.labels.tolist() == [ray[1] for ray in slow if ray is not None]
        parts.append(LidarRayAgreement(GRID))
        parts[-1].update(semantics, origins, points, labels)
    result = metric.result()
    expected = agreement_reference(frames, GRID)
    by_class = expected.pop("lidar_ray_iou")
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result["lidar_ray_iou"] == pytest.approx(by_class, nan_ok=True)
    assert 0.05 < result["within@1"] < 0.95 and result["missed"] > 0 and result["grazing"] > 0
    # Parts add up to the whole.
    for part in parts[1:]:
        parts[0].merge(part)
    merged = parts[0].result()
    assert merged.pop("depth_error_m") == pytest.approx(result.pop("depth_error_m"))
    np.testing.assert_equal(merged, result)


def test_the_returns_own_voxels_agree_perfectly():
    rng = np.random.default_rng(5)
    # Returns on a sphere's surface, seen from its centre: no return's voxel hides another's by much.
    directions = rng.normal(size=(2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = np.array([0.0, 0.0, 1.0]) + 1.6 * directions
    labels = rng.integers(0, 17, 2000).astype(np.uint8)
    semantics = empty()
    index, _ = GRID.index_of(points)
    semantics[tuple(index.T)] = labels
    labels = semantics[tuple(index.T)]  # one class a voxel
    metric = LidarRayAgreement(GRID)
    rays = metric.update(semantics, np.array([0.0, 0.0, 1.0]), points, labels)
    result = metric.result()
    assert result["within@1"] == 1 and result["missed"] == 0 and result["occupied_rayiou"] == 1
    assert np.nanmax(rays.error_m) == 0  # nothing is met behind its own voxel
    # Rays also cut corners of the shell's other voxels, which are met before.
    assert 0.2 < result["free_before_return"] < 1


def test_shares_sum_to_one_and_an_empty_grid_misses_everything():
    rng = np.random.default_rng(6)
    semantics, origins, points, labels = scan(rng)
    metric = LidarRayAgreement(GRID)
    metric.update(semantics, origins, points, labels)
    result = metric.result()
    for t in (1, 2, 4):
        assert result[f"within@{t}"] + result[f"early@{t}"] + result[f"late@{t}"] + result["missed"] == pytest.approx(1)
    nothing = LidarRayAgreement(GRID)
    nothing.update(empty(), origins, points, labels)
    result = nothing.result()
    assert (result["missed"], result["free_before_return"], result["occupied_rayiou"]) == (1, 1, 0)
    assert result["lidar_rayiou"] == 0 and set(result["lidar_ray_iou"]) == set(CLASS_NAMES)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"points_ego": np.zeros((3, 2))}, "points_ego: shape"),
        ({"points_ego": np.array([[np.nan, 0, 0]] * 3)}, "3 of 3 are not finite"),
        ({"origins_ego": np.zeros((2, 3))}, "origins_ego: shape"),
        ({"labels": np.zeros(2, np.uint8)}, "labels: uint8"),
        ({"labels": np.full(3, FREE, np.uint8)}, "ids beside"),
        ({"labels": np.zeros(3)}, "labels: float64"),
        ({"semantics": np.zeros((2, 2, 2), np.uint8)}, "must be uint8"),
    ],
)
def test_bad_input(change, words):
    good = {"semantics": empty(), "origins_ego": ORIGIN, "points_ego": along_x(1.0, 2.0, 3.0), "labels": None}
    with pytest.raises(ValueError, match=words):
        LidarRayAgreement(GRID).update(**(good | change))
