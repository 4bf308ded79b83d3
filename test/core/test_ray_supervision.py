import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import GRID

from gsrender_core.ray_supervision import RayTargets, flat_index, neighbourhood, prior_targets, ray_loss, ray_targets
from gsrender_core.voxel_grid import VoxelGrid


def test_ray_targets_by_hand():
    hits, origins = torch.tensor([[3.1, 0.1, 0.1]]), torch.tensor([[0.1, 0.1, 0.1]])
    blocked = torch.zeros(GRID.size, dtype=torch.bool)
    hit_voxel, inside = flat_index(hits, GRID)
    blocked[hit_voxel] = True
    targets = ray_targets(hits, origins, torch.tensor([4]), torch.tensor([1.0]), blocked, GRID)
    assert inside.all() and targets.voxel[0] == hit_voxel[0] and targets.occupied.tolist()[0]
    free = targets.voxel[~targets.occupied]
    assert len(free) == 5 and (targets.class_id[~targets.occupied] == 255).all()
    x = free // (GRID.shape[1] * GRID.shape[2])
    first, last = 8, 13  # x = 0.1 m is in voxel 8; the last free sample is half a metre before 3.1 m: voxel 13
    assert ((x >= first) & (x <= last)).all()
    everything_blocked = torch.ones(GRID.size, dtype=torch.bool)
    none_free = ray_targets(hits, origins, torch.tensor([4]), torch.tensor([1.0]), everything_blocked, GRID)
    assert none_free.occupied.all()


def test_the_free_prior_never_speaks_of_voxels_that_hold_a_point():
    blocked = torch.rand(100) < 0.5
    targets = prior_targets(blocked, 5000, 0.2)
    assert not blocked[targets.voxel].any() and not targets.occupied.any()
    assert set(targets.voxel.tolist()) == set(torch.nonzero(~blocked).squeeze(1).tolist())
    assert (targets.weight == 0.2).all() and (targets.class_id == 255).all()


def test_the_neighbourhood_of_a_voxel_is_its_cube_of_27_cut_at_the_border():
    inner = (5 * GRID.shape[1] + 6) * GRID.shape[2] + 3
    mask = neighbourhood(torch.tensor([inner]), GRID).view(GRID.shape)
    assert mask.sum() == 27 and mask[4:7, 5:8, 2:5].all()
    assert neighbourhood(torch.tensor([0]), GRID).sum() == 8
    assert neighbourhood(torch.zeros(0, dtype=torch.int64), GRID).sum() == 0


@pytest.mark.parametrize("shape", [(9, 7, 5), (6, 1, 4), (1, 1, 1)])
def test_the_neighbourhood_is_a_maximum_over_cubes(shape):
    grid = VoxelGrid((0.0, 0.0, 0.0), 0.4, shape)
    voxels = torch.nonzero(torch.rand(grid.size) < 0.05).squeeze(1)
    mask = torch.zeros(grid.size)
    mask[voxels] = 1
    wanted = F.max_pool3d(mask.view(1, 1, *shape), 3, 1, 1).view(-1) > 0
    assert torch.equal(neighbourhood(voxels, grid), wanted)


def test_ray_loss_by_hand():
    occupied = torch.tensor([True, True, False])
    targets = RayTargets(torch.arange(3), occupied, torch.tensor([11, 4, 255]), torch.tensor([1.0, 0.5, 1.0]))
    logit = torch.tensor([0.0, 0.0, 0.0])
    classes = torch.zeros(3, 17)
    opacity, semantic = ray_loss(logit, classes, targets, torch.ones(17), object_weight=4.0)
    # ln 2 each: the road counts once, half a car four times, free space once.
    assert opacity.item() == pytest.approx(np.log(2) * (1 + 2 + 1) / 3)
    assert semantic.item() == pytest.approx(np.log(17) * (1 + 0.5) / 2)
