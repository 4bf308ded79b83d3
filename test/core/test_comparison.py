"""Which voxels are called duplicates, on hand-made grids and against a slow march; the sheet that shows them."""

import numpy as np
import pytest
from small import camera_pose

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.data.frame import Frame
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.pictures.comparison import comparison_picture, views
from gsrender_core.pictures.extra_voxels import dilated, extra_voxels
from gsrender_core.pictures.voxel_view import SIGNAL
from gsrender_core.voxel_grid import VoxelGrid

GRID = VoxelGrid((-8.0, -8.0, -1.0), 0.5, (32, 32, 8))


def empty() -> np.ndarray:
    return np.full(GRID.shape, FREE, np.uint8)


def frame_looking(*yaws: float) -> Frame:
    """Cameras at (0, 0, 0.5) m with 88 x 64 images, 60 px focal length: 36 degrees to each side, 28 up and down."""
    c = len(yaws)
    K = np.array([[60.0, 0, 44], [0, 60, 32], [0, 0, 1]])
    images = np.full((c, 3, 64, 88), 90, np.uint8)
    names = tuple(f"camera {n}" for n in range(c))
    return Frame(images, np.stack([K] * c), np.stack([camera_pose(y) for y in yaws]), np.eye(4), 0, names, "t", "s")


def test_a_copy_behind_and_one_before_are_extra_and_the_surface_is_not():
    truth, prediction = empty(), empty()
    truth[26, 14:18, 2:5] = 4
    prediction[26, 14:18, 2:5] = 4  # the surface itself
    prediction[27:29, 14:18, 2:5] = 4  # two voxels too thick
    prediction[30, 15:17, 3] = 4  # a copy 2 m behind
    prediction[21, 15, 3] = 4  # and one 2.5 m before
    prediction[30, 4, 3] = 4  # seen, but nothing true stands on its ray
    prediction[3, 15, 3] = 4  # behind the camera
    extra = extra_voxels(frame_looking(0.0), truth, prediction, GRID)
    assert {tuple(i) for i in np.argwhere(extra)} == {(30, 15, 3), (30, 16, 3), (21, 15, 3)}
    assert not extra_voxels(frame_looking(0.0), truth, truth, GRID).any()
    assert not extra_voxels(frame_looking(0.0), empty(), prediction, GRID).any()  # no truth to be a copy of


def test_any_camera_may_see_a_copy():
    truth, prediction = empty(), empty()
    truth[4, 15:17, 3] = 4
    prediction[0, 15:17, 3] = 4
    assert not extra_voxels(frame_looking(0.0), truth, prediction, GRID).any()
    assert extra_voxels(frame_looking(0.0, np.pi), truth, prediction, GRID).sum() == 2


def test_extra_voxels_against_a_slow_march():
    rng = np.random.default_rng()
    truth = np.where(rng.random(GRID.shape) < 0.004, 4, FREE).astype(np.uint8)
    prediction = np.where(rng.random(GRID.shape) < 0.05, 15, FREE).astype(np.uint8)
    frame = frame_looking(0.3, 2.5)
    # Off the lattice: from a voxel's corner every ray touches all eight around it, and a march steps over them.
    frame.T_ego_cam[:, :3, 3] += (0.13, 0.21, 0.17)
    extra = extra_voxels(frame, truth, prediction, GRID)
    true_cells, checked = np.argwhere(truth != FREE), 0
    cells = np.argwhere(prediction != FREE)
    for cell in cells[rng.permutation(len(cells))[:300]]:
        far = (np.abs(true_cells - cell).max(axis=1) > 2).all()
        centre = np.array(GRID.min_m) + (cell + 0.5) * GRID.voxel_size_m
        met = False
        for K, T in zip(frame.Ks, frame.T_ego_cam, strict=True):
            at_camera = T[:3, :3].T @ (centre - T[:3, 3])
            u, v = (K @ at_camera)[:2] / at_camera[2]
            if at_camera[2] <= 0 or not (0 <= u < 88 and 0 <= v < 64):
                continue
            direction = (centre - T[:3, 3]) / np.linalg.norm(centre - T[:3, 3])
            points = T[:3, 3] + np.arange(0, 25, 0.002)[:, None] * direction
            index, inside = GRID.index_of(points)
            met |= bool((truth[tuple(index[inside].T)] != FREE).any())
        # A march in steps may miss a corner that the exact walk cuts, never the other way round.
        if met and far:
            assert extra[tuple(cell)]
        if not far:
            assert not extra[tuple(cell)]
        checked += bool(extra[tuple(cell)]) == bool(met and far)
    assert checked >= 295 and 0 < extra.sum() < len(cells)


def test_dilation_is_a_box_cut_at_the_borders():
    mask = np.zeros((7, 6, 5), bool)
    mask[1, 3, 4] = True
    expected = np.zeros_like(mask)
    expected[0:4, 1:6, 2:5] = True
    np.testing.assert_array_equal(dilated(mask, 2), expected)


def hue_count(picture: np.ndarray, rgb) -> int:
    """Pixels of a colour's hue in any light, the pale ones left out."""
    pixels, color = picture[:, :, ::-1].reshape(-1, 3).astype(float), np.array(rgb, float)
    cosine = pixels @ color / np.maximum(np.linalg.norm(pixels, axis=1), 1) / np.linalg.norm(color)
    return int(((cosine > 0.995) & (pixels.max(axis=1) > 90)).sum())


def test_the_sheet_shows_every_prediction_and_its_duplicates():
    truth, copy = empty(), empty()
    truth[20, 12:20, 1:5] = 15
    copy[20, 12:20, 1:5] = 15
    copy[28, 12:20, 1:7] = 4
    frame = frame_looking(0.0)
    picture = comparison_picture(frame, truth, {"with RC": truth, "without RC": copy}, GRID)
    assert picture.dtype == np.uint8 and picture.shape[1] == 1680
    columns = [picture[:-150, n * 560 : (n + 1) * 560] for n in range(3)]  # without the classes' legend
    # The signal's key is in the first column, the prediction without duplicates in the second.
    assert [hue_count(column, SIGNAL) > 200 for column in columns] == [True, False, True]
    assert [hue_count(column, CLASS_COLORS[4]) > 300 for column in columns] == [False, False, True]


def test_many_predictions_widen_the_sheet():
    picture = comparison_picture(frame_looking(0.0), empty(), {f"variant {n}": empty() for n in range(5)}, GRID)
    assert picture.shape[1] == 14 + 6 * (320 + 14)


def test_labels_are_cropped_to_the_grid_and_unseen_truth_is_left_out_from_behind():
    grid = VoxelGrid((-8.0, -8.0, -1.0), 0.4, (40, 40, 16))
    whole = np.full((200, 200, 16), FREE, np.uint8)
    whole[115, 95:105, 4:9] = 15
    seen = np.ones_like(whole)
    inside = np.full(grid.shape, FREE, np.uint8)
    frame = frame_looking(0.0)
    drawn = [comparison_picture(frame, Occ3DLabels(whole, m, m), {"a": inside}, grid) for m in (seen, 1 - seen)]
    changed = np.nonzero((drawn[0] != drawn[1]).any(axis=2))
    assert len(changed[0]) > 200 and changed[1].max() < 850  # only in the truth's column
    with pytest.raises(ValueError, match="not aligned"):
        comparison_picture(frame, Occ3DLabels(whole, seen, seen), {"a": empty()}, GRID)


def test_wrong_predictions_are_named():
    with pytest.raises(ValueError, match="short one.*shape"):
        comparison_picture(frame_looking(0.0), empty(), {"short one": empty()[:-1]}, GRID)
    with pytest.raises(ValueError, match="at least one"):
        comparison_picture(frame_looking(0.0), empty(), {}, GRID)


def test_views_scale_with_the_grid():
    behind, above = views(VoxelGrid(), 408)
    assert behind.eye_m == (-42.0, 0.0, 30.0) and behind.size == (408, 235) and above.span_m == 80
    behind, above = views(GRID, 408)
    assert behind.eye_m[0] == pytest.approx(-8.4) and above.span_m == 16 and behind.eye_m[2] > GRID.max_m[2]
