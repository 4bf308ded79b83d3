"""RayIoU: rays and casts by hand, the numba traversal against its lock-step twin (ties included), counting."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gsrender_core.bench.ray_iou import bench_ray_iou
from gsrender_core.classes import CLASS_NAMES, FREE
from gsrender_core.metrics import ray_iou
from gsrender_core.metrics.ray_iou import RayHits, RayIoU, cast_rays, check_origins, lidar_rays
from gsrender_core.metrics.ray_iou_reference import cast_rays_reference, ray_iou_reference
from gsrender_core.voxel_grid import VoxelGrid

SMALL = VoxelGrid(min_m=(-4.0, -4.0, -1.0), voxel_size_m=0.5, shape=(16, 16, 8))
AXES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)


def empty(grid: VoxelGrid = SMALL) -> np.ndarray:
    return np.full(grid.shape, FREE, np.uint8)


def cast_along(monkeypatch, rays, semantics, origin, grid=SMALL) -> RayHits:
    monkeypatch.setattr(ray_iou, "lidar_rays", lambda: np.asarray(rays, np.float32))
    return cast_rays(semantics, np.array([origin], dtype=np.float64), grid)


# --- rays ---


def test_rays_are_the_published_fan():
    rays = lidar_rays()
    assert rays.shape == (39 * 360, 3) and rays.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    pitch = np.degrees(np.arcsin(rays.reshape(39, 360, 3)[:, 0, 2].astype(np.float64)))
    assert pitch[0] == pytest.approx(-45) and pitch[9] == pytest.approx(-math.degrees(math.atan(1 / 10)), abs=1e-5)
    np.testing.assert_allclose(np.diff(pitch[8:]), 0.6296, atol=1e-4)
    assert pitch[-2] < math.degrees(0.21) <= pitch[-1]
    # Azimuth runs fastest, by one degree, from x towards y.
    np.testing.assert_allclose(rays[0], [math.sqrt(0.5), 0, -math.sqrt(0.5)], atol=1e-7)
    np.testing.assert_allclose(rays[90], [0, math.sqrt(0.5), -math.sqrt(0.5)], atol=1e-7)


# --- casts by hand ---


def test_hit_is_where_the_ray_leaves_the_voxel(monkeypatch):
    grid = empty()
    grid[12, 8, 2] = 4  # x in [2, 2.5), y in [0, 0.5), z in [0, 0.5)
    hits = cast_along(monkeypatch, AXES, grid, (0.25, 0.25, 0.25))
    assert hits.labels[0].tolist() == [4, FREE, FREE, FREE, FREE, FREE]
    # Hit: 2.5 - 0.25. Misses leave the grid: at x -4, y 4, y -4, z 3, z -1.
    np.testing.assert_allclose(hits.distances_m[0], [2.25, 4.25, 3.75, 4.25, 2.75, 1.25], rtol=1e-6)
    assert hits.labels.dtype == np.uint8 and hits.distances_m.dtype == np.float32


def test_the_first_occupied_voxel_wins(monkeypatch):
    grid = empty()
    grid[10, 8, 2], grid[12, 8, 2] = 7, 4
    hits = cast_along(monkeypatch, AXES[:1], grid, (0.25, 0.25, 0.25))
    assert hits.labels.item() == 7 and hits.distances_m.item() == pytest.approx(1.25)


def test_start_inside_an_occupied_voxel(monkeypatch):
    grid = empty()
    grid[8, 8, 2] = 15
    hits = cast_along(monkeypatch, AXES[:1], grid, (0.25, 0.25, 0.25))
    assert hits.labels.item() == 15 and hits.distances_m.item() == pytest.approx(0.25)


def test_start_outside_enters_and_truncates_toward_zero(monkeypatch):
    grid = empty()
    grid[0, 8, 2] = 9
    # 0.25 m below the low x border is -0.5 voxels: truncated to voxel 0, which the ray leaves at 0.75 m.
    hits = cast_along(monkeypatch, AXES[:1], grid, (-4.25, 0.25, 0.25))
    assert hits.labels.item() == 9 and hits.distances_m.item() == pytest.approx(0.75)
    # 5 m below: several steps before the grid.
    hits = cast_along(monkeypatch, AXES[:1], grid, (-9.25, 0.25, 0.25))
    assert hits.labels.item() == 9 and hits.distances_m.item() == pytest.approx(5.75)


def test_never_inside(monkeypatch):
    grid = empty()
    grid[0, 0, 0] = 13
    hits = cast_along(monkeypatch, AXES[:2], grid, (9.0, 0.25, 0.25))
    # Away from the grid: voxel (0, 0, 0) at distance -1 voxel. Towards it: through all of it.
    assert hits.labels[0].tolist() == [13, FREE]
    np.testing.assert_allclose(hits.distances_m[0], [-0.5, 13.0])
    # The last of 1,001 steps may still begin in voxel 15: 1,000 voxels away, not 1,001.
    hits = cast_along(monkeypatch, AXES[1:2], grid, (-4 + 1015.5 * 0.5, 0.25, 0.25))
    assert hits.labels.item() == FREE and hits.distances_m.item() == pytest.approx(1000.5 * 0.5)
    hits = cast_along(monkeypatch, AXES[1:2], grid, (-4 + 1016.5 * 0.5, 0.25, 0.25))
    assert hits.labels.item() == 13 and hits.distances_m.item() == -0.5


@pytest.mark.parametrize("diagonal, visited", [((1, 1, 1), [(8, 8, 3), (8, 9, 3)]), ((1, 1, 0), [(8, 9, 2)])])
def test_ties_prefer_z_then_y_then_x(monkeypatch, diagonal, visited):
    # From the exact centre of voxel (8, 8, 2) along a diagonal all borders are met at once: z steps first, then y.
    for label, voxel in enumerate(visited):
        grid = empty()
        grid[voxel] = label
        ray = np.array([diagonal]) / np.linalg.norm(diagonal)
        hits = cast_along(monkeypatch, ray, grid, (0.25, 0.25, 0.25))
        assert hits.labels.item() == label
    for other in ((9, 8, 2), (9, 8, 3)):
        grid = empty()
        grid[other] = 5
        assert cast_along(monkeypatch, ray, grid, (0.25, 0.25, 0.25)).labels.item() == FREE


# --- the fast path against its twin ---


def random_rays(rng) -> np.ndarray:
    free = rng.normal(size=(60, 3))
    flat = free[:20] * [1, 1, 0]
    diagonals = np.array([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if x or y or z])
    rays = np.concatenate([free, flat, diagonals.astype(float)])
    return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_traversal_equals_its_twin_on_random_grids_with_ties(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    grid = VoxelGrid((-3.2, -2.0, -1.0), (0.4, 0.5)[seed % 2], tuple(rng.integers(3, 20, 3).tolist()))
    rays = random_rays(rng)
    monkeypatch.setattr(ray_iou, "lidar_rays", lambda: rays)
    low, high = np.array(grid.min_m), np.array(grid.max_m)
    inside = rng.uniform(low, high, (4, 3))
    borders = low + rng.integers(0, np.array(grid.shape) + 1, (5, 3)) * grid.voxel_size_m
    centres = low + (rng.integers(0, grid.shape, (2, 3)) + 0.5) * grid.voxel_size_m
    outside = rng.uniform(low - 6, high + 6, (2, 3))
    origins = np.concatenate([inside, borders, centres, outside])
    for density in (0.0, 0.05, 0.4):
        semantics = [
            np.where(rng.random(grid.shape) < density, rng.integers(0, 17, grid.shape), FREE).astype(np.uint8)
            for _ in range(2)
        ]
        both = ray_iou._cast({1: semantics[0], 2: semantics[1]}, origins, grid)
        for bit, array in ((1, semantics[0]), (2, semantics[1])):
            slow = cast_rays_reference(array, origins, grid, rays)
            np.testing.assert_array_equal(both[bit].labels, slow.labels)
            np.testing.assert_array_equal(both[bit].distances_m, slow.distances_m)
            alone = cast_rays(array, origins, grid)
            np.testing.assert_array_equal(alone.distances_m, slow.distances_m)


def street(rng) -> np.ndarray:
    grid = np.full((200, 200, 16), FREE, np.uint8)
    grid[:, :, 1:3] = 11
    grid[:, 130:132, :12] = 15
    for _ in range(150):
        x, y = rng.integers(0, 190, 2)
        grid[x : x + 8, y : y + 4, 3:7] = rng.integers(0, 17)
    return grid


def test_whole_sample_equals_its_twin_in_casts_and_counts():
    rng = np.random.default_rng(7)
    truth = street(rng)
    prediction = np.where(rng.random(truth.shape) < 0.15, rng.integers(0, 18, truth.shape), truth).astype(np.uint8)
    origins = np.array([[0.94, 0.0, 1.84], [-30.0, 20.0, 1.0]])
    metric = RayIoU()
    metric.update(prediction, truth, origins)
    slow = [cast_rays_reference(g, origins) for g in (prediction, truth)]
    for fast, twin in zip((cast_rays(prediction, origins), cast_rays(truth, origins)), slow, strict=True):
        np.testing.assert_array_equal(fast.labels, twin.labels)
        np.testing.assert_array_equal(fast.distances_m, twin.distances_m)
    expected = ray_iou_reference([tuple(slow)])
    np.testing.assert_array_equal(metric.iou(), expected)
    assert 0.05 < metric.result()["rayiou"] < 0.95
    # Kept casts of the truth give the same counts.
    cached = RayIoU()
    cached.update_hits(cast_rays(prediction, origins), slow[1])
    np.testing.assert_array_equal(cached.counts, metric.counts)


def test_a_hit_voxel_is_entered_and_left_by_its_ray():
    rng = np.random.default_rng(8)
    grid = street(rng)
    origins = np.array([[3.0, -2.0, 1.7]])
    hits = cast_rays(grid, origins)
    rays, distance = lidar_rays().astype(np.float64), hits.distances_m[0].astype(np.float64)
    just_before = origins + rays * (distance - 2e-3)[:, None]
    index, inside = VoxelGrid().index_of(just_before)
    assert inside.all()
    same = grid[tuple(index.T)] == hits.labels[0]
    assert same.mean() > 0.99  # the rest cuts its voxel's corner by less than 2 mm
    # Nothing occupied lies more than a voxel's diagonal before that point.
    for fraction in np.linspace(0, 1, 40):
        along = np.maximum(distance - 0.7, 0) * fraction
        index, _ = VoxelGrid().index_of(origins + rays * along[:, None])
        assert (grid[tuple(index.T)] == FREE).all()


def test_concurrent_callers_agree():
    rng = np.random.default_rng(9)
    grids = [street(rng) for _ in range(4)]
    origins = np.array([[0.94, 0.0, 1.84], [5.0, 1.0, 1.84]])
    alone = [cast_rays(g, origins) for g in grids]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda g: cast_rays(g, origins), grids))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.distances_m, b.distances_m)


# --- counting ---


def hits(labels, distances) -> RayHits:
    return RayHits(np.array([labels], np.uint8), np.array([distances], np.float32))


def test_counting_by_hand():
    truth = hits([4, 4, 4, 4, 11, 17, 11], [10, 10, 10, 10, 5, 60, 5])
    prediction = hits([4, 4, 4, 4, 4, 4, 17], [10.5, 11, 13.9, 14, 5, 3, 70])
    metric = RayIoU()
    metric.update_hits(prediction, truth)
    # Ray 5 is dropped (truth free). car: truth 4, predicted 5. Errors 0.5, 1 (not < 1), 3.9, 4 (not < 4).
    iou = metric.iou()
    car, road = CLASS_NAMES.index("car"), CLASS_NAMES.index("driveable_surface")
    np.testing.assert_allclose(iou[:, car], [1 / (9 - 1), 2 / (9 - 2), 3 / (9 - 3)])
    np.testing.assert_allclose(iou[:, road], 0)
    result = metric.result()
    assert result["rayiou@1"] == pytest.approx((1 / 8) / 2) and result["rayiou@2"] == pytest.approx((2 / 7) / 2)
    assert result["rayiou@4"] == pytest.approx(0.5 / 2)
    assert result["rayiou"] == pytest.approx(np.mean([1 / 16, 1 / 7, 1 / 4]))
    assert np.isnan(result["ray_iou"]["bus"]) and np.isnan(iou[:, 0]).all()


def test_pooled_over_samples():
    rng = np.random.default_rng(10)
    casts = [tuple(hits(rng.integers(0, 18, 400), rng.uniform(0, 6, 400)) for _ in range(2)) for _ in range(5)]
    whole, parts = RayIoU(), [RayIoU(), RayIoU()]
    for n, pair in enumerate(casts):
        whole.update_hits(*pair)
        parts[n % 2].update_hits(*pair)
    parts[0].merge(parts[1])
    np.testing.assert_array_equal(parts[0].counts, whole.counts)
    np.testing.assert_allclose(whole.iou(), ray_iou_reference(casts), rtol=1e-12)


def test_perfect_and_empty_predictions():
    truth, origins = street(np.random.default_rng(11)), np.array([[0.94, 0.0, 1.84]])
    perfect, nothing, unseen = RayIoU(), RayIoU(), RayIoU()
    perfect.update(truth, truth, origins)
    nothing.update(np.full_like(truth, FREE), truth, origins)
    unseen.update(truth, np.full_like(truth, FREE), origins)
    assert perfect.result()["rayiou"] == 1.0
    assert nothing.result()["rayiou"] == 0.0
    assert np.isnan(unseen.result()["rayiou"])


@pytest.mark.parametrize(
    "origins, message",
    [
        (np.zeros((3,)), r"shape \(3,\), expected \[n, 3\]"),
        (np.zeros((0, 3)), r"n of at least 1"),
        (np.zeros((2, 3), int), "dtype int64"),
        (np.array([[0.0, np.nan, 1.0]]), "1 of 1 are not finite"),
        (np.array([[4e5, 1e3, 1.0]]), "global coordinates"),
    ],
)
def test_wrong_origins_are_refused(origins, message):
    with pytest.raises(ValueError, match=message):
        check_origins(origins)


def test_wrong_grids_are_refused():
    origins = np.array([[0.0, 0.0, 1.0]])
    for semantics in (np.zeros((200, 200), np.uint8), np.zeros((200, 200, 16)), np.full((200, 200, 16), 99, np.uint8)):
        with pytest.raises(ValueError, match=r"semantics must be uint8 \(200, 200, 16\)"):
            cast_rays(semantics, origins)
    with pytest.raises(ValueError, match="casts differ in shape"):
        RayIoU().update_hits(hits([1], [1]), hits([1, 2], [1, 2]))


def test_bench_reports_both_paths():
    report = bench_ray_iou(quick=True)
    (row,) = report["rows"]
    assert row["numba_ms"] > 0 and row["ratio"] == pytest.approx(row["reference_ms"] / row["numba_ms"])
