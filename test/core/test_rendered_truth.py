import numpy as np
import pytest
import torch
from small import GRID, SIZE, camera_pose

from gsrender_core.classes import FREE, class_id
from gsrender_core.data.frame import Frame, PixelLabels
from gsrender_core.geometry import transform
from gsrender_core.rendered_truth import compare, sampled_truth, truth_gaussians

WALL = class_id("manmade")


def wall() -> np.ndarray:
    """A wall 2 m ahead, one voxel (0.5 m) thick: centres at x = 2.25 m."""
    semantics = np.full(GRID.shape, FREE, np.uint8)
    semantics[12, :, :] = WALL
    return semantics


def frame(depth_m: float, label: int = WALL) -> Frame:
    """A forward camera at the origin whose labels all lie at one z-depth."""
    u, v = np.meshgrid(np.linspace(30, 66, 7), np.linspace(14, 34, 5))
    uv = np.stack([u.ravel(), v.ravel()], 1).astype(np.float32)
    n = len(uv)
    labels = PixelLabels(np.zeros(n, np.int64), uv, np.full(n, depth_m, np.float32), np.full(n, label, np.uint8))
    K = np.array([[60.0, 0, 48], [0, 60, 24], [0, 0, 1]])
    images = np.zeros((1, 3, SIZE[1], SIZE[0]), np.uint8)
    return Frame(images, K[None], camera_pose(0.0)[None], np.eye(4), 0, ("front",), labels=labels)


def test_a_wall_is_rendered_at_the_depth_of_its_centres():
    gaussians = truth_gaussians(wall(), GRID, 0.4, 0.999)
    assert len(gaussians) == 16 * 8
    right = compare(gaussians, frame(2.25), GRID)
    assert right["depth_error"] == pytest.approx(0, abs=2e-3)
    assert right["accuracy"] == 1 and right["covered"] == 1
    assert compare(gaussians, frame(2.0), GRID)["depth_error"] == pytest.approx(0.125, abs=3e-3)
    assert compare(gaussians, frame(2.25, class_id("vegetation")), GRID)["accuracy"] == 0


def test_labels_of_moving_things_and_beyond_the_volume_do_not_count():
    both = frame(2.25)
    both.labels.depth_m[:10] = 30.0  # beyond the grid
    both.labels.class_id[10:20] = class_id("car")
    found = compare(truth_gaussians(wall(), GRID, 0.4, 0.999), both, GRID)
    assert found["depth_error_mean"] == pytest.approx(0, abs=2e-3) and found["accuracy"] == 1
    beyond = transform(np.eye(3), (2.0, 0.0, 0.0))  # the wall lies beyond the current volume's 4 m
    both.labels.depth_m[:] = 2.25
    assert np.isnan(compare(truth_gaussians(wall(), GRID, 0.4, 0.999), both, GRID, beyond)["depth_error"])


def test_the_sampled_truth_moves_with_the_ego():
    T_curr_adj = transform(np.eye(3), (0.5, 0.0, 0.0))  # the adjacent car stands one voxel ahead: the wall is nearer
    like = truth_gaussians(wall(), GRID, 0.4, 0.999)
    seen = sampled_truth(wall(), GRID, T_curr_adj, like)
    assert torch.allclose(seen.means[:, 0], torch.tensor(1.75)) and len(seen) == 16 * 8
    assert compare(seen, frame(1.75), GRID)["depth_error"] == pytest.approx(0, abs=2e-3)
    half = sampled_truth(wall(), GRID, transform(np.eye(3), (0.25, 0.0, 0.0)), like)
    assert len(half) == 2 * 16 * 8 and torch.allclose(half.opacities, torch.tensor(0.4995))
