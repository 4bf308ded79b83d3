"""Voxel pictures against projections and hits worked out another way, and the arrangement of the sheet."""

import cv2
import numpy as np
import pytest

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.data.frame import Frame
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.pictures import View, occupancy_picture, render_voxels
from gsrender_core.pictures.layout import CAMERA_ROWS, arrangement
from gsrender_core.pictures.occupancy_picture import WIDTH
from gsrender_core.pictures.voxel_view import BACKGROUND, FLOOR, _openness
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_core.voxel_walk import MISS, first_voxel

GRID = VoxelGrid((-5.0, -5.0, -1.0), 1.0, (10, 10, 4))
PERSPECTIVE = View((-14.0, 2.0, 9.0), (0.0, 0.0, 0.0), (200, 160), fov_deg=50.0)
ABOVE = View((0.0, 0.0, 50.0), (0.0, 0.0, 0.0), (120, 100), span_m=12.0)


def empty() -> np.ndarray:
    return np.full(GRID.shape, FREE, np.uint8)


def corners(index) -> np.ndarray:
    offsets = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    return np.array(GRID.min_m) + (np.array(index) + offsets) * GRID.voxel_size_m


def class_at(image: np.ndarray, u: float, v: float) -> int:
    """The class whose colour has the hue of a pixel: shading scales all channels alike."""
    pixel = image[int(v), int(u)].astype(float)
    colors = CLASS_COLORS.astype(float)
    cosine = colors @ pixel / np.linalg.norm(colors, axis=1) / np.linalg.norm(pixel)
    return int(cosine.argmax())


@pytest.mark.parametrize("view", [PERSPECTIVE, ABOVE])
def test_rays_and_projection_are_inverse(view):
    points = np.random.default_rng().uniform(-5, 5, (50, 3))
    uv, depth = view.project(points)
    rays = view.rays(2)
    for (u, v), z, point in zip(uv * 2, depth, points, strict=True):
        origin = rays[0] + u * rays[1] + v * rays[2]
        direction = rays[3] + u * rays[4] + v * rays[5]
        np.testing.assert_allclose(origin + z * direction, point, atol=1e-9)


@pytest.mark.parametrize("view", [PERSPECTIVE, ABOVE])
def test_one_voxel_is_drawn_where_it_projects(view):
    index = np.random.default_rng().integers(0, GRID.shape)
    semantics = empty()
    semantics[tuple(index)] = 4
    image = render_voxels(semantics, GRID, view, car=False)
    hull = cv2.convexHull(np.round(view.project(corners(index))[0] - 0.5).astype(np.int32))
    mask = cv2.fillConvexPoly(np.zeros(image.shape[:2], np.uint8), hull, 1)
    drawn = np.abs(image.astype(int) - render_voxels(empty(), GRID, view, car=False)).max(axis=2) > 12
    kernel = np.ones((3, 3), np.uint8)
    assert drawn[cv2.erode(mask, kernel) > 0].all()
    assert not drawn[cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0].any()
    u, v = view.project(corners(index).mean(axis=0, keepdims=True))[0][0]
    assert class_at(image, u, v) == 4


def test_directions_seen_from_above():
    semantics = empty()
    semantics[9, 5, 1], semantics[5, 9, 1] = 7, 16  # ahead, and to the left
    image = render_voxels(semantics, GRID, ABOVE, car=False)
    assert class_at(image, 60 - 5, 50 - 45) == 7  # 10 px a metre; up is forward
    assert class_at(image, 60 - 45, 50 - 5) == 16


def test_the_nearer_voxel_hides_the_farther_one():
    semantics = empty()
    semantics[5, 5, 3], semantics[5, 5, 0] = 4, 7
    u, v = ABOVE.project(np.array([[0.5, 0.5, 0.0]]))[0][0]
    assert class_at(render_voxels(semantics, GRID, ABOVE, car=False), u, v) == 4
    semantics[5, 5, 3] = FREE
    assert class_at(render_voxels(semantics, GRID, ABOVE, car=False), u, v) == 7


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_the_walk_finds_the_nearest_of_all_boxes():
    rng = np.random.default_rng()
    semantics = np.where(rng.random((9, 7, 5)) < 0.1, rng.integers(0, 17, (9, 7, 5)), FREE).astype(np.uint8)
    boxes = np.argwhere(semantics != FREE)
    low, high, walk = np.zeros(3), np.array(semantics.shape, float), np.zeros((3, 3))
    hits = 0
    for _ in range(500):
        origin = rng.uniform(-6, 14, 3)
        direction = rng.uniform(0, 1, 3) * semantics.shape - origin
        if rng.random() < 0.2:
            direction[rng.integers(3)] = 0.0
        near, far = (boxes - origin) / direction, (boxes + 1 - origin) / direction
        still = direction == 0
        outside = (still & ((origin < boxes) | (origin > boxes + 1))).any(axis=1)
        near, far = np.minimum(near, far), np.maximum(near, far)
        near[:, still], far[:, still] = -np.inf, np.inf
        enter, leave = near.max(axis=1), far.min(axis=1)
        met = (enter < leave) & (leave > 0) & ~outside
        t, axis = first_voxel(semantics, origin, direction, low, high, walk)
        if not met.any():
            assert t == MISS
            continue
        hits += 1
        expected = np.maximum(enter, 0)[met].min()
        assert t == pytest.approx(expected, abs=1e-9)
        if expected > 0:
            first = np.flatnonzero(met)[np.maximum(enter, 0)[met].argmin()]
            assert (boxes[first] == walk[0]).all() and near[first].argmax() == axis
    assert hits > 60


def test_the_walk_along_an_axis():
    semantics = empty()
    semantics[6, 2, 1] = 3
    walk, high = np.zeros((3, 3)), np.array(GRID.shape, float)
    t, axis = first_voxel(semantics, np.array([-2.0, 2.5, 1.5]), np.array([1.0, 0, 0]), np.zeros(3), high, walk)
    assert (t, axis, walk[0].tolist()) == (8.0, 0, [6, 2, 1])
    t, _ = first_voxel(semantics, np.array([-2.0, 3.5, 1.5]), np.array([1.0, 0, 0]), np.zeros(3), high, walk)
    assert t == MISS


def test_openness_by_hand():
    semantics = empty()
    cell = np.array([5.0, 5.0, 0.0])
    semantics[5, 5, 0] = 4
    assert _openness(semantics, cell, 2, 1, np.array([0.3, 0.6, 1.0])) == pytest.approx(1)
    semantics[6, 4:7, 1] = 15  # a wall ahead, standing on the layer in front of the top face
    assert _openness(semantics, cell, 2, 1, np.array([1.0, 0.5, 1.0])) == pytest.approx(1 / 3)
    assert _openness(semantics, cell, 2, 1, np.array([0.0, 0.5, 1.0])) == pytest.approx(1)
    assert _openness(semantics, cell, 2, 1, np.array([0.5, 0.5, 1.0])) == pytest.approx(2 / 3)
    semantics[4:6, 6, 1] = 15  # and one to the left: nothing gets into the corner between the two
    assert _openness(semantics, cell, 2, 1, np.array([1.0, 1.0, 1.0])) == pytest.approx(0)


def test_an_empty_grid_shows_its_floor_and_nothing_else():
    image = render_voxels(empty(), GRID, ABOVE, car=False)
    assert (image[50, 60] == FLOOR).all() and (image[1, 1] == BACKGROUND).all()
    assert (image == FLOOR).all(axis=2).sum() == 100 * 100  # 10 m x 10 m at 10 px a metre
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 2


def test_the_car_stands_at_the_origin():
    image = render_voxels(empty(), GRID, ABOVE)
    changed = (image != render_voxels(empty(), GRID, ABOVE, car=False)).any(axis=2)
    rows, columns = np.nonzero(changed)
    # 1.0 m behind the rear axle to 3.6 m ahead of it, 0.95 m to both sides; 10 px a metre.
    assert (rows.min(), rows.max()) == (50 - 36, 50 + 9)
    assert abs(columns.min() - (60 - 9.5)) <= 1 and abs(columns.max() - (60 + 9.5)) <= 1


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        render_voxels(empty().astype(np.int64), GRID, ABOVE)
    with pytest.raises(ValueError, match="class id 18"):
        render_voxels(np.full(GRID.shape, 18, np.uint8), GRID, ABOVE)
    with pytest.raises(ValueError, match="coincide"):
        View((1.0, 0, 0), (1.0, 0, 0), (10, 10))
    with pytest.raises(ValueError, match="positive size"):
        View((1.0, 0, 0), (0.0, 0, 0), (0, 10))


def frame_of(names) -> Frame:
    """Images of one grey value a camera: 10, 20, 30, ..."""
    count = len(names)
    images = np.ones((count, 3, 32, 88), np.uint8) * (10 * np.arange(1, count + 1, dtype=np.uint8)).reshape(-1, 1, 1, 1)
    K = np.array([[50.0, 0, 44], [0, 50, 16], [0, 0, 1]])
    eye = np.eye(4)
    return Frame(images, np.stack([K] * count), np.stack([eye] * count), eye, 5, tuple(names), "token", "scene")


def test_cameras_are_arranged_around_the_car():
    names = tuple(name for row in CAMERA_ROWS for name in row)[::-1]
    picture = occupancy_picture(frame_of(names), OccupancyGrid(empty(), None, GRID))
    assert picture.shape[1] == WIDTH and picture.dtype == np.uint8
    thirds = (WIDTH // 6, WIDTH // 2, 5 * WIDTH // 6)
    assert [int(picture[150, u, 0]) for u in thirds] == [60, 50, 40]
    assert [int(picture[350, u, 0]) for u in thirds] == [30, 20, 10]
    assert arrangement(("left", "ahead", "right", "rear")) == [[0, 1, 2], [3, None, None]]
    assert arrangement(("CAM_BACK", "CAM_FRONT")) == [[None, 1, None], [None, 0, None]]


def test_pale_voxels_are_between_their_colour_and_the_background():
    semantics = empty()
    semantics[5, 5, 3] = 3
    pale = np.zeros(GRID.shape, bool)
    pale[5, 5, 3] = True
    u, v = ABOVE.project(np.array([[0.5, 0.5, 2.5]]))[0][0].astype(int)
    full = render_voxels(semantics, GRID, ABOVE, car=False)[v, u].astype(float)
    drawn = render_voxels(semantics, GRID, ABOVE, car=False, pale=pale)[v, u].astype(float)
    assert np.array_equal(full, CLASS_COLORS[3])
    np.testing.assert_allclose(drawn, 0.35 * full + 0.65 * np.array(BACKGROUND), atol=1)


def test_truth_no_camera_sees_is_shown_from_above_only():
    semantics, mask = empty(), np.ones(GRID.shape, np.uint8)
    semantics[7, 2, 2] = 15
    frame, prediction = frame_of(("CAM_FRONT",)), OccupancyGrid(empty(), None, GRID)

    def draw(semantics, mask):
        return occupancy_picture(frame, prediction, Occ3DLabels(semantics, mask, mask))

    def changed_rows(picture):
        return np.nonzero((picture != draw(empty(), mask)).any(axis=(1, 2)))[0]

    seen, unseen = changed_rows(draw(semantics, mask)), changed_rows(draw(semantics, 1 - mask))
    below = len(draw(empty(), mask)) - 500  # the views from above are the last 440 rows and their title
    assert (unseen > below).any() and not (unseen < below).any()
    assert (seen > below).any() and (seen < below).any()


def test_a_truth_on_another_volume_is_drawn_where_it_lies():
    semantics = np.full((200, 200, 16), FREE, np.uint8)
    mask, free = np.ones_like(semantics), semantics.copy()
    semantics[150:160, 100, 3] = 15
    frame, prediction = frame_of(("CAM_FRONT",)), OccupancyGrid(empty(), None, GRID)
    pictures = [occupancy_picture(frame, prediction, Occ3DLabels(s, mask, mask)) for s in (semantics, free)]
    rows, columns = np.nonzero((pictures[0] != pictures[1]).any(axis=2))
    assert (columns > WIDTH // 4).all() and len(rows) > 100  # in the views of the truth and its legend only
