import time

import numpy as np
import pytest
from small import SmallData, camera_pose

from gsrender_core.classes import FREE, class_id
from gsrender_core.data.frame import Frame
from gsrender_core.metrics.duplicates import FIGURES, CameraRays, Duplicates, camera_rays, count_runs
from gsrender_core.metrics.duplicates_reference import count_runs_reference, voxels_along
from gsrender_core.voxel_grid import VoxelGrid

GRID = VoxelGrid((0.0, -5.0, -1.0), 0.5, (40, 20, 8))  # x 0 .. 20 m, y -5 .. 5 m, z -1 .. 3 m
CAR, TRUCK, WALL, ROAD, TREE = (
    class_id(name) for name in ("car", "truck", "manmade", "driveable_surface", "vegetation")
)


def empty() -> np.ndarray:
    return np.full(GRID.shape, FREE, np.uint8)


def walls(*at: int, label: int = WALL) -> np.ndarray:
    """Walls across the whole grid, one voxel thick, at these x indices."""
    grid = empty()
    grid[list(at)] = label
    return grid


def ray(direction=(1, 0, 0), origin=(0.1, 0.1, 0.6)) -> CameraRays:
    direction = np.array([direction], float)
    return CameraRays(np.array([origin], float), direction / np.linalg.norm(direction))


def scores(prediction, truth, rays=None, observed=None) -> dict:
    metric = Duplicates(GRID)
    metric.update(prediction, truth, rays or ray(), observed)
    return metric.result()


def test_one_wall_is_no_duplicate():
    result = scores(walls(10), walls(10))
    assert (result["runs"], result["true_runs"], result["extra_runs"]) == (1, 1, 0)
    assert result["extra_run_rays"] == result["extra_runs_front"] == result["extra_runs_behind"] == 0
    assert result["thickness_m"] == result["true_thickness_m"] == 0
    assert np.isnan(result["extra_runs_vehicle"])  # no ray meets a vehicle
    assert tuple(result) == FIGURES


@pytest.mark.parametrize("copy, front, behind", [(20, 0, 1), (13, 0, 1), (7, 1, 0), (12, 0, 0), (8, 0, 0)])
def test_the_wall_twice_is_one_extra_run_unless_one_voxel_parts_them(copy, front, behind):
    result = scores(walls(10, copy), walls(10))
    assert result["extra_runs"] == result["extra_run_rays"] == front + behind
    assert (result["extra_runs_front"], result["extra_runs_behind"]) == (front, behind)
    assert result["thickness_m"] == pytest.approx(0.5)  # the wall met second
    assert result["true_thickness_m"] == 0


def test_a_thick_wall_is_thick_but_one():
    result = scores(walls(10, 11, 12, 13), walls(10))
    assert result["extra_runs"] == 0 and result["runs"] == 1
    assert result["thickness_m"] == pytest.approx(1.5)


def test_a_wall_at_a_wrong_depth_is_no_duplicate_but_lies_in_front():
    result = scores(walls(4), walls(10))
    assert (result["extra_runs"], result["extra_runs_front"], result["extra_runs_behind"]) == (0, 1, 0)
    result = scores(walls(16), walls(10))
    assert (result["extra_runs"], result["extra_runs_front"], result["extra_runs_behind"]) == (0, 0, 1)


@pytest.mark.parametrize("slope", [0.02, 0.05, 0.3, 2.0])
def test_ground_from_above_is_one_run_at_any_angle(slope):
    ground = empty()
    ground[:, :, 2] = ROAD  # z 0 .. 0.5 m
    looking_down = ray((1, 0, -slope), (0.1, 0.1, 0.7))
    result = scores(ground, ground, looking_down)
    assert (result["runs"], result["extra_runs"]) == (1, 0)
    assert result["thickness_m"] == result["true_thickness_m"]
    assert scores(ground, empty(), looking_down)["extra_runs"] == 1


def test_ground_at_a_grazing_angle_is_thick_by_its_length():
    ground = empty()
    ground[:, :, 2] = ROAD
    # Enters the layer (z 0.5 m) at x = 2.1 m inside voxel 4, leaves the grid at x = 20 m still above z = 0.
    result = scores(ground, ground, ray((1, 0, -0.02), (0.1, 0.1, 0.54)))
    assert result["true_thickness_m"] == pytest.approx((20 - 2.5) * np.hypot(1, 0.02))


def test_a_staircase_crossed_diagonally_is_one_run():
    stairs = empty()
    for i in range(6):
        stairs[10 + i, :, 1 + i] = WALL  # touch along edges only
    along = ray((1, 0, 1), (0.25, 0.1, -5.2))
    truth = walls(10)
    assert scores(stairs, truth, along)["runs"] == 1
    stairs[12, :, 3] = FREE  # a hole of one voxel
    assert scores(stairs, truth, along)["runs"] == 1
    stairs[13, :, 4] = FREE  # of two
    assert scores(stairs, truth, along)["runs"] == 2


def test_what_hides_behind_something_else_is_no_duplicate():
    truth = walls(10, 25)
    assert scores(truth, truth)["extra_runs"] == 0
    assert scores(walls(10), truth)["extra_runs"] == 0  # the hidden one is missed: RayIoU's business
    result = scores(walls(10, 18, 25), truth)
    assert (result["extra_runs"], result["extra_runs_behind"], result["extra_runs_front"]) == (1, 1, 0)


def test_a_missed_wall_hides_a_copied_car_from_the_count_but_not_from_the_vehicles():
    truth = walls(10, label=CAR)
    truth[25] = WALL
    prediction = walls(10, 18, label=CAR)
    result = scores(prediction, truth)
    assert result["extra_runs"] == 0 and result["extra_runs_vehicle"] == 1
    assert scores(walls(10, label=TRUCK), truth)["extra_runs_vehicle"] == 0  # called a truck: still one vehicle
    prediction[18] = TREE
    assert scores(prediction, truth)["extra_runs_vehicle"] == 0


def test_only_rays_that_see_a_vehicle_first_count_for_vehicles():
    truth = walls(10, label=WALL)
    truth[20] = CAR
    assert np.isnan(scores(walls(10, 20, 30, label=CAR), truth)["extra_runs_vehicle"])


def test_objects_leave_the_ground_out():
    truth = walls(10, label=ROAD)
    assert scores(walls(10, 20, label=ROAD), truth)["extra_runs_object"] == 0
    assert scores(walls(10, 20, label=WALL), truth)["extra_runs_object"] == 2


def test_unobserved_copies_are_left_out_of_the_observed_figure():
    truth, observed = walls(10), np.zeros(GRID.shape, np.uint8)
    observed[:10] = 1
    behind, before = walls(10, 20), walls(5, 10)
    assert scores(behind, truth, observed=observed)["extra_runs"] == 1
    assert scores(behind, truth, observed=observed)["extra_runs_observed"] == 0
    assert scores(before, truth, observed=observed)["extra_runs_observed"] == 1
    observed[20] = 1
    assert scores(behind, truth, observed=observed)["extra_runs_observed"] == 1


def test_a_ray_that_meets_nothing_true_is_free_all_along():
    result = scores(walls(5, 15), empty())
    assert (result["extra_runs"], result["extra_runs_front"], result["extra_runs_behind"]) == (2, 2, 0)


def test_rays_are_pooled_and_halves_merge_to_the_whole():
    both, one = Duplicates(GRID), Duplicates(GRID)
    two_rays = CameraRays(np.array([[0.1, 0.1, 0.6], [0.1, 0.1, 0.6]]), np.array([[1.0, 0, 0], [0, 0, 1.0]]))
    both.update(walls(10, 20), walls(10), two_rays)
    assert both.result()["extra_runs"] == 0.5 and both.rays == 2
    one.update(walls(10), walls(10), ray())
    both.merge(one)
    assert both.result()["extra_runs"] == pytest.approx(1 / 3)
    assert np.isnan(Duplicates(GRID).result()["extra_runs"])


def test_voxels_along_a_ray():
    passed = voxels_along(np.array([0.5, 0.5, 0.5]), np.array([0.6, 0.8, 0.0]), (2, 3, 1))
    assert [voxel for voxel, _ in passed] == [(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 2, 0)]
    assert [length for _, length in passed] == pytest.approx([0.625, 0.5 / 0.6 - 0.625, 1.875 - 0.5 / 0.6, 0.625])


def test_numba_equals_the_reference_on_random_grids():
    rng = np.random.default_rng()
    total = 0
    for density in (0.03, 0.15):
        grids = np.where(rng.random((2, *GRID.shape)) < density, rng.integers(0, 17, (2, *GRID.shape)), FREE)
        truth, prediction = grids.astype(np.uint8)
        prediction = np.where(rng.random(GRID.shape) < 0.5, truth, prediction)
        observed = rng.integers(0, 2, GRID.shape)
        origins = rng.uniform((-5, -8, -3), (25, 8, 5), (400, 3))  # inside the grid and around it
        directions = rng.uniform((0, -5, -1), (20, 5, 3), (400, 3)) - origins
        directions[:60, rng.integers(0, 3)] = 0
        rays = CameraRays(origins, directions / np.linalg.norm(directions, axis=1, keepdims=True))
        counts, thickness = count_runs(prediction, truth, rays, GRID, observed)
        expected, expected_m = count_runs_reference(prediction, truth, rays, GRID, observed)
        np.testing.assert_array_equal(counts, expected)
        np.testing.assert_allclose(thickness, expected_m, atol=1e-8)
        total += counts[:, :9].sum(axis=0)
    assert (total > 50).all(), total  # every count was at work


def test_camera_rays_pass_through_the_cells_of_the_image():
    frame = SmallData().frame(0)
    rays = camera_rays(frame, columns=4, rows=2)
    assert len(rays) == 3 * 4 * 2
    T = frame.T_ego_cam[1]
    at_camera = (rays.origins_ego[8:16] + 3 * rays.directions_ego[8:16] - T[:3, 3]) @ T[:3, :3]
    uv = (at_camera @ frame.Ks[1].T)[:, :2] / at_camera[:, 2:]
    expected = [(u, v) for v in (16, 48) for u in (12, 36, 60, 84)]
    np.testing.assert_allclose(uv, expected, atol=1e-9)


def test_bad_input_is_named():
    good = walls(3)
    with pytest.raises(ValueError, match="prediction must be uint8"):
        scores(good.astype(np.int64), good)
    with pytest.raises(ValueError, match=r"got uint8 \(40, 20, 7\)"):
        scores(good[..., :7], good)
    with pytest.raises(ValueError, match="highest id 18"):
        scores(good, good + np.uint8(1))
    with pytest.raises(ValueError, match="observed has shape"):
        scores(good, good, observed=np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="origins_ego"):
        CameraRays(np.full((1, 3), np.nan), np.ones((1, 3)))


def test_six_cameras_at_full_size_take_milliseconds():
    rng = np.random.default_rng(0)
    truth = np.full((200, 200, 16), FREE, np.uint8)
    truth[:, :, 2] = ROAD
    truth[::20, ::17, 3:7] = CAR
    prediction = np.where(rng.random(truth.shape) < 0.02, np.uint8(WALL), truth)
    K = np.array([[560.0, 0, 352], [0, 560, 128], [0, 0, 1]])
    poses = np.stack([camera_pose(n * np.pi / 3, z=1.6) for n in range(6)])
    images = np.zeros((6, 3, 256, 704), np.uint8)
    frame = Frame(images, np.stack([K] * 6), poses, np.eye(4), 0, tuple("abcdef"))
    metric, rays = Duplicates(), camera_rays(frame)
    metric.update(prediction, truth, rays)
    start = time.perf_counter()
    for _ in range(5):
        metric.update(prediction, truth, rays)
    milliseconds = (time.perf_counter() - start) / 5 * 1e3
    assert len(rays) == 9216
    assert milliseconds < 1000, f"{milliseconds:.0f} ms a sample"  # 20 to 40 ms on one core; the machine may be busy
    print(f"{milliseconds:.1f} ms a sample")
