"""The readable twin of ``readout``: every Gaussian against every voxel, plain numpy in float64."""

import math

import numpy as np

from gsrender_core.gaussians import Gaussians
from gsrender_core.geometry import rotation_from_quaternion
from gsrender_core.readout import MIN_OPACITY, REACH
from gsrender_core.voxel_grid import VoxelGrid

_erf = np.vectorize(math.erf, otypes=[np.float64])


def splat_evidence_reference(gaussians: Gaussians, grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Opacity float64 [X, Y, Z] and votes float64 [X, Y, Z, K] (the sums of o w p) of every voxel."""
    centers = np.array(grid.min_m) + (np.indices(grid.shape).reshape(3, -1).T + 0.5) * grid.voxel_size_m
    half = grid.voxel_size_m / 2
    free, votes = np.ones(grid.size), np.zeros((grid.size, gaussians.logits.shape[1]))
    means, scales, opacities = (t.double().numpy() for t in (gaussians.means, gaussians.scales, gaussians.opacities))
    odds = np.exp(gaussians.logits.double().numpy())
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    for i in range(len(gaussians)):
        if opacities[i] < MIN_OPACITY:
            continue
        R = np.eye(3) if gaussians.quats is None else rotation_from_quaternion(gaussians.quats[i].double().numpy())
        away = centers - means[i]
        own = away @ R  # along the Gaussian's own axes
        reach = REACH * np.abs(R) @ scales[i]
        touched = (np.abs(away) < reach + half).all(axis=1) & (np.abs(own) < REACH * scales[i] + half).all(axis=1)
        unit = 1 / (scales[i] * math.sqrt(2))
        w = (_erf((own[touched] + half) * unit) - _erf((own[touched] - half) * unit)) / (2 * _erf(half * unit))
        part = opacities[i] * w.prod(axis=1)
        free[touched] *= 1 - part
        votes[touched] += part[:, None] * probabilities[i]
    return (1 - free).reshape(grid.shape), votes.reshape(*grid.shape, -1)
