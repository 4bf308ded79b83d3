"""The lifting kernel against ``splat_points_torch``, and by hand."""

import numpy as np
import pytest
import torch
from small import camera_pose

from gsrender_core.model.lift_numba import splat_points, voxels_of_points, voxels_of_rays
from gsrender_core.model.view_transformer import LiftSplat, ego_from_pixel, splat_points_torch
from gsrender_core.voxel_grid import VoxelGrid


def test_two_points_of_one_voxel_add_up_and_points_outside_are_left_out():
    # One camera, two bins, one cell; then both bins just below the lower corner: floor, not truncation.
    points = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9]]).view(1, 2, 1, 1, 3)
    context, depth = torch.tensor([2.0, -4.0]).view(1, 2, 1, 1), torch.tensor([0.25, 0.5]).view(1, 2, 1, 1)
    low, size = torch.zeros(3), torch.ones(3)
    volume = splat_points(points, context, depth, low, size, (2, 1, 1))
    assert volume.tolist() == [[1.5, -3.0], [0.0, 0.0]]
    assert not splat_points(points - 1, context, depth, low, size, (2, 1, 1)).any()


@pytest.mark.parametrize("seed", range(3))
def test_kernel_equals_torch_on_random_points(seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(3, 7, 5, 6, 3, generator=generator) * 12 - 6
    context = torch.randn(3, 4, 5, 6, generator=generator)
    depth = torch.rand(3, 7, 5, 6, generator=generator)
    low, size, shape = torch.tensor([-4.0, -4.0, -1.0]), torch.tensor([0.8, 0.8, 0.4]), (10, 10, 8)
    expected = splat_points_torch(points, context.double(), depth.double(), low, size, shape)
    assert (expected != 0).any(-1).sum() > 50
    # At most 630 summands below 6 each in float32: far below 1e-4, while a wrong voxel is off by about 0.1.
    assert (splat_points(points, context, depth, low, size, shape) - expected).abs().max() < 1e-4


def test_gradients_equal_those_of_torch():
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        C, D, F, h, w, shape = 2, 5, 7, 3, 4, (4, 5, 3)
        points = torch.rand(C, D, h, w, 3, generator=rng) * 8 - 1  # a part lies outside
        leaves = [torch.randn(C, n, h, w, generator=rng).requires_grad_() for n in (F, D)]
        low, size = torch.zeros(3), torch.tensor([1.5, 1.2, 2.0])
        weight = torch.randn(4 * 5 * 3, F, generator=rng)
        found = []
        for splat, (context, depth) in ((splat_points, leaves), (splat_points_torch, [x.double() for x in leaves])):
            volume = splat(points, context, depth, low, size, shape)
            found.append(torch.autograd.grad((volume * weight).sum(), leaves))
            assert (volume != 0).any() and volume.requires_grad
        for got, expected in zip(*found, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
            assert (got != 0).any()


def test_voxels_of_rays_are_those_of_the_frustum():
    differing = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        view = LiftSplat(VoxelGrid((-8.0, -8.0, -1.0), 0.4, (40, 40, 16)), 2, 8, torch.linspace(0.5, 12, 24))
        Ks = torch.tensor(np.stack([[[f, 0, 47.5], [0, f, 30], [0, 0, 1]] for f in rng.uniform(40, 90, 3)])).float()
        poses = np.stack([camera_pose(*rng.uniform((-3, -1, 0), (3, 1, 1))) for _ in range(3)])
        T = torch.from_numpy(poses).float()
        points = view.frustum_ego(5, 7, Ks, T)
        expected = voxels_of_points(points, view.low, view.size, view.shape)
        lattice = (view.low, view.size, view.shape)
        rays = (ego_from_pixel(Ks, T), T[:, :3, 3], view.bin_centers_m)
        voxel = voxels_of_rays(*rays, (5, 7), view.stride, lattice)
        assert voxel.shape == expected.shape == (3, 24, 35) and 0.2 < (expected >= 0).mean() < 1
        # Rounded in another order: a point on a border may fall either way, no other.
        other = voxel != expected
        places = (points.flatten(2, 3).numpy()[other] - view.low.numpy()) / view.size.numpy()
        assert (np.abs(places - places.round()).min(axis=-1) < 1e-4).all()
        differing += other.sum()
    assert differing < 10
