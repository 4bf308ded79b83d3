import numpy as np
import torch

from gsrender_core.trilinear import sample_rows, sample_rows_reference

SHAPE = (7, 5, 4)


def test_a_voxel_centre_returns_its_row_and_half_way_the_mean():
    rows = torch.arange(SHAPE[0] * SHAPE[1] * SHAPE[2], dtype=torch.float32)[:, None]
    at = torch.tensor([[2.0, 3.0, 1.0], [2.5, 3.0, 1.0], [-0.5, 0.0, 0.0]])
    row = (2 * 5 + 3) * 4 + 1
    # The third point lies on the border: half of its weight falls outside, on zero.
    expected = torch.tensor([row, row + 0.5 * 5 * 4, 0.0])
    assert torch.allclose(sample_rows(rows, SHAPE, at)[:, 0], expected)


def test_numba_equals_grid_sample_with_gradients():
    seed = np.random.SeedSequence().entropy % 2**31
    torch.manual_seed(seed)
    rows = torch.randn(SHAPE[0] * SHAPE[1] * SHAPE[2], 6, requires_grad=True)
    twin = rows.detach().clone().requires_grad_(True)
    at = torch.rand(500, 3) * torch.tensor([9.0, 7.0, 6.0]) - 1.0
    fast, slow = sample_rows(rows, SHAPE, at), sample_rows_reference(twin, SHAPE, at)
    assert torch.allclose(fast, slow, atol=1e-5), seed
    weights = torch.randn_like(fast)
    (fast * weights).sum().backward()
    (slow * weights).sum().backward()
    assert torch.allclose(rows.grad, twin.grad, atol=1e-4), seed
