import numpy as np
import pytest
from ros_processes import OPTICAL

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.data.frame import Frame
from gsrender_core.geometry import inverse, project, transform
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.debug_images import CameraView
from gsrender_ros.prediction import Prediction

GRID = VoxelGrid((-8.0, -8.0, -1.0), 0.5, (32, 32, 8))
SIZE = (40, 24)
K = np.array([[30.0, 0, 19], [0, 30, 13], [0, 0, 1]])


def prediction(semantics: np.ndarray, T_ego_cam: np.ndarray) -> Prediction:
    images = np.arange(3 * SIZE[0] * SIZE[1], dtype=np.uint32).astype(np.uint8).reshape(1, 3, SIZE[1], SIZE[0])
    frame = Frame(images, K[None], T_ego_cam[None], np.eye(4), 5, ("CAM_FRONT",))
    return Prediction(OccupancyGrid(semantics, None, GRID, 5), frame, (6,), ("cam_front",))


def random_prediction(seed: int) -> Prediction:
    rng = np.random.default_rng(seed)
    semantics = np.where(rng.random(GRID.shape) < 0.02, rng.integers(0, 17, GRID.shape), FREE).astype(np.uint8)
    return prediction(semantics, transform(OPTICAL, rng.uniform((-3, -3, 0), (0, 3, 1.5))))


@pytest.mark.parametrize("seed", range(3))
def test_depth_leads_to_the_face_of_an_occupied_voxel_of_that_colour(seed):
    case = random_prediction(seed)
    view = CameraView(case, 0, 1)
    depth, color = view.depth(), view.semantic(0.0)
    seen = np.argwhere(np.isfinite(depth))
    assert len(seen) > 50
    T_ego_cam = case.frame.T_ego_cam[0]
    for row, column in seen:
        ray = np.linalg.inv(K) @ [column + 0.5, row + 0.5, 1.0]  # camera z is 1: depth is z, not range
        direction = T_ego_cam[:3, :3] @ ray
        point = T_ego_cam[:3, 3] + direction * float(depth[row, column])
        index, inside = GRID.index_of((point + 1e-4 * direction)[None])
        assert inside.all() and (color[row, column] == CLASS_COLORS[case.occupancy.semantics[tuple(index[0])]]).all()
        # Nothing before it.
        along = T_ego_cam[:3, 3] + direction * np.linspace(0, float(depth[row, column]) - 1e-3, 50)[:, None]
        index, inside = GRID.index_of(along)
        assert (case.occupancy.semantics[tuple(index[inside].T)] == FREE).all()
    assert not color[~np.isfinite(depth)].any()


def test_a_voxel_is_drawn_where_the_camera_sees_it():
    semantics = np.full(GRID.shape, FREE, np.uint8)
    semantics[28, 17, 3] = 7
    case = prediction(semantics, transform(OPTICAL, (1.0, 0.0, 0.8)))
    center = np.array(GRID.min_m) + (np.array([28, 17, 3]) + 0.5) * 0.5
    T_cam_ego = inverse(case.frame.T_ego_cam[0])
    for shrink in (1, 2):
        view = CameraView(case, 0, shrink)
        (uv,), (z,) = project(view.K, (T_cam_ego[:3, :3] @ center + T_cam_ego[:3, 3])[None])
        column, row = int(uv[0]), int(uv[1])
        assert (view.semantic(0.0)[row, column] == CLASS_COLORS[7]).all()
        assert view.depth()[row, column] == pytest.approx(z - 0.25)  # the face towards the camera
        assert view.size == (SIZE[0] // shrink, SIZE[1] // shrink)


def test_overlay_mixes_with_the_image_where_something_is():
    case = random_prediction(3)
    view = CameraView(case, 0, 2)
    image = case.frame.images[0, :, ::2, ::2].transpose(1, 2, 0)
    hit = np.isfinite(view.depth())
    mixed, plain = view.semantic(0.25), view.semantic(0.0)
    assert hit.any() and not hit.all()
    np.testing.assert_array_equal(mixed[~hit], image[~hit])
    np.testing.assert_allclose(mixed[hit], 0.75 * image[hit] + 0.25 * plain[hit], atol=0.51)
    np.testing.assert_array_equal(view.semantic(1.0)[hit], plain[hit])


def test_sizes_that_do_not_divide():
    view = CameraView(random_prediction(4), 0, 7)
    assert view.size == (5, 3) and view.semantic(0.5).shape == (3, 5, 3) and view.depth().dtype == np.float32
    message = view.semantic_message(0.5)
    assert (message.width, message.height, message.step, len(message.data)) == (5, 3, 15, 45)
    assert view.depth_message().step == 20
