"""NeRF head (RenderOcc, the baseline of the paper): every voxel feature becomes a density and class logits."""

import torch
import torch.nn.functional as F
from torch import nn

from gsrender_core.config import HeadConfig
from gsrender_core.voxel_field import DENSITY_SHIFT


class NerfHead(nn.Module):
    """Two multilayer perceptrons: density (-> hidden, Softplus, -> 1, Softplus) and logits (-> hidden, Softplus, -> K).

    The output d >= 0 of the density network becomes the opacity logit d + ``DENSITY_SHIFT`` (see ``VoxelField``),
    which is RenderOcc's activation written for the length of one voxel. Both heads start at the same opacity.
    """

    def __init__(self, config: HeadConfig, inputs: int, num_classes: int):
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.density = nn.Sequential(nn.Linear(inputs, config.hidden), nn.Softplus(), nn.Linear(config.hidden, 1))
        self.semantic = nn.Sequential(
            nn.Linear(inputs, config.hidden), nn.Softplus(), nn.Linear(config.hidden, num_classes)
        )
        with torch.no_grad():
            # The inverse of softplus: the start is opacity_bias, 0.1 as the Gaussians' (RenderOcc's start is 2e-6).
            start = torch.tensor(config.opacity_bias - DENSITY_SHIFT, dtype=torch.float64)
            self.density[-1].bias.fill_(start + torch.log(-torch.expm1(-start)))
            # Softplus units are about ln 2 at first; weights of mean 0 keep that out of the opacity.
            self.density[-1].weight.sub_(self.density[-1].weight.mean())
            self.semantic[-1].bias.zero_()

    def forward(self, features: torch.Tensor, centers: torch.Tensor):
        """A NeRF head has a field (see ``opacity_and_logits``) and no Gaussians.

        Raises:
            TypeError: always.
        """
        raise TypeError("this network's head.kind is nerf, which makes no Gaussians; use one trained with gaussian")

    def opacity_and_logits(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [N, F] -> opacity before the sigmoid [N] and class logits [N, K]."""
        return self.opacity(features), self.semantic(features).float()

    def occupied(self, features: torch.Tensor, tau: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The rows whose opacity reaches ``tau``: index int64 [M], opacity [M] and logits [M, K] of those alone."""
        opacity = torch.sigmoid(self.opacity(features))
        index = torch.nonzero(opacity >= tau).squeeze(1)
        return index, opacity[index], self.semantic(features.index_select(0, index)).float()

    def opacity(self, features: torch.Tensor) -> torch.Tensor:
        """Opacity before the sigmoid [N] alone."""
        return F.softplus(self.density(features)[:, 0].float()) + DENSITY_SHIFT
