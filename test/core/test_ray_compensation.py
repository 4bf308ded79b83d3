import numpy as np
import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.geometry import transform
from gsrender_core.ray_compensation import compensate_features, compensate_gaussians
from gsrender_core.voxel_grid import VoxelGrid

GRID = VoxelGrid((-4.0, -2.0, -1.0), 0.5, (16, 8, 6))
CENTERS = torch.from_numpy(GRID.centers_ego()).view(-1, 3)


def test_no_motion_returns_the_same_features():
    P = torch.randn(5, *GRID.shape)
    features, inside = compensate_features(P, CENTERS, torch.eye(4), GRID)
    assert inside.all()
    assert torch.allclose(features, P.permute(1, 2, 3, 0).reshape(-1, 5), atol=1e-5)


def test_driving_two_voxels_forward_shifts_the_volume_by_two_and_leaves_the_front_outside():
    P = torch.randn(3, *GRID.shape)
    T_curr_adj = torch.eye(4)
    T_curr_adj[0, 3] = 1.0  # the adjacent frame stands 1 m (two voxels) ahead
    features, inside = compensate_features(P, CENTERS, T_curr_adj, GRID)
    grid = features.view(*GRID.shape, 3).permute(3, 0, 1, 2)
    assert torch.allclose(grid[:, :-2], P[:, 2:], atol=1e-5)
    assert not inside.view(GRID.shape)[-2:].any() and inside.view(GRID.shape)[:-2].all()
    assert grid[:, -2:].abs().max() == 0


def test_positions_follow_the_transform_for_a_turn():
    # A volume that holds its own coordinates must return T @ centre wherever that lies well inside.
    P = CENTERS.view(*GRID.shape, 3).permute(3, 0, 1, 2).contiguous()
    angle = 0.3
    R = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    T = torch.from_numpy(transform(R, (0.2, -0.1, 0.05))).float()
    features, inside = compensate_features(P, CENTERS, T, GRID)
    expected = CENTERS @ T[:3, :3].T + T[:3, 3]
    low, high = torch.tensor(GRID.min_m) + 0.25, torch.tensor(GRID.max_m) - 0.25
    deep = ((expected > low) & (expected < high)).all(1)
    assert deep.sum() > 100 and inside[deep].all()
    assert torch.allclose(features[deep], expected[deep], atol=1e-4)


def test_gaussians_move_into_the_adjacent_frame():
    gaussians = Gaussians(torch.tensor([[5.0, 1.0, 0.0]]), torch.ones(1, 3), torch.ones(1), torch.zeros(1, 2))
    T_curr_adj = torch.from_numpy(transform(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]), (5.0, 0, 0))).float()
    moved = compensate_gaussians(gaussians, T_curr_adj)
    # The adjacent car stands 5 m ahead and looks left: the point is 1 m in front of it.
    assert torch.allclose(moved.means, torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-5)
