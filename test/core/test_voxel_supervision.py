import logging

import numpy as np
import pytest
import torch
from small import small_training

from gsrender_core.classes import FREE
from gsrender_core.config import ModelConfig
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.voxel_supervision import VoxelSupervision

GRID = VoxelGrid((-1.6, -2.0, -1.0), 0.4, (8, 10, 16))  # a box of whole Occ3D voxels


class ReadHead(torch.nn.Module):
    """Features are what a head would say: opacity logit first, then the class logits."""

    def opacity_and_logits(self, rows):
        return rows[:, 0], rows[:, 1:]


class Truth:
    def __init__(self, labels):
        self.labels = labels

    def ground_truth(self, i):
        return self.labels


def truth(seed=0, observed=0.3) -> Occ3DLabels:
    rng = np.random.default_rng(seed)
    semantics = rng.integers(0, 18, (200, 200, 16)).astype(np.uint8)
    return Occ3DLabels(
        semantics, np.zeros_like(semantics), (rng.uniform(size=semantics.shape) < observed).astype(np.uint8)
    )


def supervision(labels, **changes):
    config = small_training(model=ModelConfig(grid=GRID), bev_flip=False, **changes)
    return VoxelSupervision(config, ReadHead(), Truth(labels), torch.device("cpu"))


def slow(P, labels, flipped) -> float:
    """The definition, voxel by voxel."""
    beta = supervision(labels).beta.double().tolist()
    total = weights = 0.0
    for x, y, z in np.ndindex(*GRID.shape):
        here = P[:, GRID.shape[0] - 1 - x if 0 in flipped else x, GRID.shape[1] - 1 - y if 1 in flipped else y, z]
        at = (x + 96, y + 95, z)
        if not labels.mask_camera[at]:
            continue
        label, o = int(labels.semantics[at]), torch.sigmoid(here[0].double())
        likelihood = 1 - o if label == FREE else o * torch.softmax(here[1:].double(), 0)[label]
        total += -beta[label] * torch.log(likelihood).item()
        weights += beta[label]
    return total / weights


@pytest.mark.parametrize("flipped", [[], [0], [1], [0, 1]])
def test_the_loss_is_the_balanced_likelihood_inside_the_camera_mask_also_mirrored(flipped):
    labels, P = truth(), torch.randn(18, *GRID.shape)
    loss = supervision(labels, voxels=0)(0, P, flipped).item()
    assert loss == pytest.approx(slow(P, labels, flipped), rel=1e-4)
    assert loss != pytest.approx(slow(P, labels, [0] if flipped != [0] else []), rel=1e-4)  # the test can tell


def test_a_sample_has_the_same_mean():
    labels, P = truth(), torch.randn(18, *GRID.shape)
    whole, sampled = supervision(labels, voxels=0), supervision(labels, voxels=64)
    torch.manual_seed(0)
    values = [sampled(0, P, []).item() for _ in range(200)]
    assert np.mean(values) == pytest.approx(whole(0, P, []).item(), rel=0.02) and np.std(values) > 0


def test_it_teaches_occupancy_and_class():
    labels = truth(1, observed=1.0)
    P = torch.zeros(18, *GRID.shape, requires_grad=True)
    compute = supervision(labels, voxels=0)
    optimizer = torch.optim.Adam([P], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        compute(0, P, []).backward()
        optimizer.step()
    wanted = torch.from_numpy(labels.semantics[96:104, 95:105].astype(np.int64))
    said = torch.where(P[0] > 0, P[1:].argmax(0), FREE)
    assert (said == wanted).float().mean() > 0.999


def test_frames_without_ground_truth_are_left_out_and_named_once(caplog):
    compute = supervision(None)
    with caplog.at_level(logging.WARNING):
        assert compute(7, torch.zeros(18, *GRID.shape), []) is None
        assert compute(8, torch.zeros(18, *GRID.shape), []) is None
    assert caplog.text.count("no ground truth") == 1 and "frame 7" in caplog.text


def test_nothing_observed_gives_no_gradient_and_no_nan():
    P = torch.randn(18, *GRID.shape, requires_grad=True)
    loss = supervision(truth(observed=0.0))(0, P, [])
    loss.backward()
    assert loss.item() == 0 and P.grad.abs().max() == 0


def test_a_grid_that_is_not_aligned_is_refused():
    config = small_training(model=ModelConfig(grid=VoxelGrid((-1.5, -2.0, -1.0), 0.4, (8, 10, 16))), bev_flip=False)
    with pytest.raises(ValueError, match="not aligned"):
        VoxelSupervision(config, ReadHead(), Truth(truth()), torch.device("cpu"))(0, torch.zeros(18, 8, 10, 16), [])
