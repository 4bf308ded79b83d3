"""Which voxel a point lies in, on tensors."""

import torch

from gsrender_core.voxel_grid import VoxelGrid


def flat_index(points: torch.Tensor, grid: VoxelGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat voxel index int64 [...] of ego points [..., 3] (m), and which lie inside the grid."""
    index = torch.floor((points - torch.tensor(grid.min_m, device=points.device)) / grid.voxel_size_m).long()
    shape = torch.tensor(grid.shape, device=points.device)
    inside = ((index >= 0) & (index < shape)).all(-1)
    index = torch.minimum(index.clamp(min=0), shape - 1)
    return (index[..., 0] * grid.shape[1] + index[..., 1]) * grid.shape[2] + index[..., 2], inside
