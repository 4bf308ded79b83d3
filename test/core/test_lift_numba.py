"""The lifting kernel against ``splat_points_torch``, and by hand."""

import pytest
import torch

from gsrender_core.model.lift_numba import splat_points
from gsrender_core.model.view_transformer import splat_points_torch


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
