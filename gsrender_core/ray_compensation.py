"""Ray Compensation (Sec. 3.4, Eq. 8 and 9): see the current features from an adjacent frame's cameras."""

import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.trilinear import sample_rows
from gsrender_core.voxel_grid import VoxelGrid


def compensate_features(
    P: torch.Tensor, centers: torch.Tensor, T_curr_adj: torch.Tensor, grid: VoxelGrid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features at voxel centres of the adjacent frame, sampled from the current frame's volume (Eq. 8, 9).

    Args:
        P: [F, X, Y, Z], voxel features of the current frame.
        centers: [N, 3], voxel centres in the adjacent ego frame, metres; all of them or a choice.
        T_curr_adj: [4, 4], adjacent ego -> current ego.
        grid: the volume of both frames.

    Returns:
        features [N, F] (trilinear, zero outside) and a bool mask [N] of the centres that lie inside
        the current volume. The head of a zero feature is a constant, not empty: the caller must zero
        the opacity outside the mask, or leave those Gaussians out.
    """
    at_current = centers @ T_curr_adj[:3, :3].T.to(centers) + T_curr_adj[:3, 3].to(centers)
    low = torch.tensor(grid.min_m, device=P.device)
    position = (at_current - low) / grid.voxel_size_m  # 0 at the volume's border, centres at halves
    inside = ((position >= 0) & (position <= torch.tensor(grid.shape, device=P.device))).all(dim=-1)
    rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0]).float()
    return sample_rows(rows, grid.shape, position - 0.5), inside


def compensate_gaussians(gaussians: Gaussians, T_curr_adj: torch.Tensor) -> Gaussians:
    """The logits-level variant (Table 5): the current Gaussians, moved into the adjacent ego frame."""
    return gaussians.moved(torch.linalg.inv(T_curr_adj.double()).to(gaussians.means))
