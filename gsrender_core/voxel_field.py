"""The field that stands between voxel features and images when rays are sampled: the peer of ``Gaussians``."""

import math
from dataclasses import dataclass

import torch

from gsrender_core.voxel_grid import VoxelGrid

# RenderOcc's activation is density = softplus(d - 13.8155): where its network says d = 0, one voxel hides 1e-6.
DENSITY_SHIFT = math.log(1 / (1 - 1e-6) - 1)
EMPTY = DENSITY_SHIFT  # opacity logit of a voxel that holds nothing


@dataclass
class VoxelField:
    """Density and semantics at V listed voxel centres of a grid; every other voxel is empty, with zero logits.

    Density is stored as an opacity logit x, the quantity that is interpolated between voxels:
    density = softplus(x) / voxel size in 1/m, and one voxel's length of it hides
    1 - exp(-density * voxel size) = sigmoid(x), so that Eq. 7 and its threshold mean the same for both heads.

    Attributes:
        opacity_logits: [V].
        logits: [V, K] semantic logits.
        voxels: int64 [V], different flat indices into the grid.
        grid: the volume, in the ego frame that the field belongs to.
    """

    opacity_logits: torch.Tensor
    logits: torch.Tensor
    voxels: torch.Tensor
    grid: VoxelGrid

    def __post_init__(self):
        v = self.voxels.shape[0]
        if (
            self.opacity_logits.shape != (v,)
            or self.logits.dim() != 2
            or self.logits.shape[0] != v
            or self.voxels.shape != (v,)
            or self.voxels.dtype != torch.int64
        ):
            raise ValueError(
                f"field disagrees in shape: opacity_logits {tuple(self.opacity_logits.shape)}, "
                f"logits {tuple(self.logits.shape)}, voxels {self.voxels.dtype} {tuple(self.voxels.shape)}"
            )

    def __len__(self) -> int:
        return self.voxels.shape[0]

    def density(self) -> torch.Tensor:
        """Density [V] in 1/m."""
        return torch.nn.functional.softplus(self.opacity_logits) / self.grid.voxel_size_m

    def without(self, keep: torch.Tensor) -> "VoxelField":
        """The same field, empty where ``keep`` [V] is False."""
        opacity = torch.where(keep, self.opacity_logits, torch.full_like(self.opacity_logits, EMPTY))
        return VoxelField(opacity, self.logits, self.voxels, self.grid)


def tau_of_renderocc(threshold: float) -> float:
    """The tau of Eq. 7 that equals "occupied where RenderOcc's density exceeds ``threshold``" (8.5: 0.0049).

    RenderOcc reads its network's output d >= 0, before the activation softplus(d - 13.8155).
    """
    return 1 / (1 + math.exp(-(threshold + DENSITY_SHIFT)))
