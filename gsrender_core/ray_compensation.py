"""Ray Compensation (Sec. 3.4, Eq. 8 and 9): see the current features from an adjacent frame's cameras."""

import torch
import torch.nn.functional as F

from gsrender_core.gaussians import Gaussians
from gsrender_core.voxel_grid import VoxelGrid


def compensate_features(
    P: torch.Tensor, centers: torch.Tensor, T_curr_adj: torch.Tensor, grid: VoxelGrid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxel features of the adjacent frame's grid, sampled from the current frame's (Eq. 8, 9).

    Args:
        P: [F, X, Y, Z], voxel features of the current frame.
        centers: [X * Y * Z, 3], voxel centres (m) in any ego frame: here the adjacent one's.
        T_curr_adj: [4, 4], adjacent ego -> current ego.
        grid: the volume of both frames.

    Returns:
        features [F, X, Y, Z] (trilinear, zero outside) and a bool mask [X * Y * Z] of the voxels
        whose centre lies inside the current volume. The head of a zero feature is a constant, not
        empty: the caller must zero the opacity outside the mask.
    """
    at_current = centers @ T_curr_adj[:3, :3].T.to(centers) + T_curr_adj[:3, 3].to(centers)
    low = torch.tensor(grid.min_m, device=P.device)
    extent = torch.tensor(grid.max_m, device=P.device) - low
    # align_corners=False: -1 and 1 are the outer borders of the volume, centres sit half a cell inside.
    position = (at_current - low) / extent * 2 - 1
    inside = (position.abs() <= 1).all(dim=-1)
    sample_at = position.flip(-1).view(1, *grid.shape, 3)  # grid_sample wants (last axis, ..., first axis)
    sampled = F.grid_sample(P[None].float(), sample_at, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[0], inside


def compensate_gaussians(gaussians: Gaussians, T_curr_adj: torch.Tensor) -> Gaussians:
    """The logits-level variant (Table 5): the current Gaussians, moved into the adjacent ego frame."""
    return gaussians.moved(torch.linalg.inv(T_curr_adj.double()).to(gaussians.means))


def without(gaussians: Gaussians, keep: torch.Tensor) -> Gaussians:
    """The Gaussians with opacity 0 where ``keep`` [N] is False."""
    return Gaussians(gaussians.means, gaussians.scales, gaussians.opacities * keep, gaussians.logits, gaussians.quats)
