"""Gaussian head (Eq. 6): every voxel feature becomes one Gaussian anchored at its voxel's centre."""

import torch
import torch.nn.functional as F
from torch import nn

from gsrender_core.config import HeadConfig
from gsrender_core.gaussians import Gaussians


class GaussianHead(nn.Module):
    """Two fully connected layers (one with ``hidden`` 0): offset 3, scale 3, opacity 1, logits K, and a quaternion as
    Table 3's variant.

    mean = centre + max_offset * tanh(d); scale = base * exp(d), clamped; rotation = identity;
    opacity = sigmoid. The offset and scale outputs start at zero.
    """

    def __init__(self, config: HeadConfig, inputs: int, num_classes: int):
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.hidden = nn.Linear(inputs, config.hidden) if config.hidden else None
        outputs = 7 + num_classes + (4 if config.predict_rotation else 0)
        self.output = nn.Linear(config.hidden or inputs, outputs)
        with torch.no_grad():
            self.output.weight[:6] = 0
            self.output.bias.zero_()
            self.output.bias[6] = config.opacity_bias
            if config.predict_rotation:
                self.output.weight[-4:] = 0
                self.output.bias[-4] = 1

    @property
    def linear(self) -> bool:
        """Whether everything is one linear function of the features."""
        return self.hidden is None

    def forward(self, features: torch.Tensor, centers: torch.Tensor) -> Gaussians:
        """Features [N, F] and voxel centres [N, 3] (m) -> N Gaussians."""
        c = self.config
        out = self.output(self._hidden(features)).float()
        # Contiguous: functions of three numbers in every 24 do not fill vector registers.
        sizes = (3, 3, 1, self.num_classes, out.shape[1] - 7 - self.num_classes)
        offset, scale, opacity, logits, quat = (part.contiguous() for part in out.split(sizes, dim=1))
        means = centers + c.max_offset_m * torch.tanh(offset) if c.max_offset_m > 0 else centers
        if not c.predict_scale:
            scale = torch.zeros_like(scale)
        scales = (c.base_scale_m * torch.exp(scale.clamp(-4, 4))).clamp(c.min_scale_m, c.max_scale_m)
        quats = F.normalize(quat, dim=-1) if c.predict_rotation else None
        return Gaussians(means, scales, torch.sigmoid(opacity[:, 0]), logits, quats)

    def opacity_and_logits(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Opacity before the sigmoid [N] and class logits [N, K] only: what the ray supervision needs."""
        hidden = self._hidden(features)
        return self._part(hidden, 6, 7)[:, 0], self._part(hidden, 7, 7 + self.num_classes)

    def opacity(self, features: torch.Tensor) -> torch.Tensor:
        """Opacity before the sigmoid [N] only."""
        return self._part(self._hidden(features), 6, 7)[:, 0]

    def occupied(self, features: torch.Tensor, tau: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The rows whose opacity reaches ``tau``: index int64 [M], opacity [M] and logits [M, K] of those alone."""
        hidden = self._hidden(features)
        opacity = torch.sigmoid(self._part(hidden, 6, 7)[:, 0])
        index = torch.nonzero(opacity >= tau).squeeze(1)
        return index, opacity[index], self._part(hidden.index_select(0, index), 7, 7 + self.num_classes)

    def _hidden(self, features: torch.Tensor) -> torch.Tensor:
        return features if self.linear else F.softplus(self.hidden(features))

    def _part(self, hidden: torch.Tensor, first: int, last: int) -> torch.Tensor:
        return F.linear(hidden, self.output.weight[first:last], self.output.bias[first:last]).float()
