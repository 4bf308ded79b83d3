"""Camera-aware depth and context: image features -> a distribution over depth bins and features to lift."""

import torch
from torch import nn

from gsrender_core.config import DepthConfig
from gsrender_core.model.blocks import Residual

REFERENCE_FOCAL_PX = 557.0  # nuScenes' cameras at 704 pixels of width: scales the network's camera inputs to about 1


def depth_edges(config: DepthConfig) -> torch.Tensor:
    """Edges of the depth bins in metres, float32 [bins + 1].

    ``linear``: bin widths grow linearly with depth (LID, Reading et al. 2021), so that near bins
    are finer than far ones. ``uniform``: equal widths.

    Raises:
        ValueError: unknown spacing or an empty range.
    """
    if not 0 < config.min_m < config.max_m or config.bins < 2:
        raise ValueError(f"depth bins need 0 < min_m < max_m and 2 or more bins, got {config}")
    i = torch.arange(config.bins + 1, dtype=torch.float32)
    if config.spacing == "uniform":
        fraction = i / config.bins
    elif config.spacing == "linear":
        fraction = i * (i + 1) / (config.bins * (config.bins + 1))
    else:
        raise ValueError(f"unknown depth spacing {config.spacing!r}; known: uniform, linear")
    return config.min_m + (config.max_m - config.min_m) * fraction


class DepthNet(nn.Module):
    """Depth logits and context features of every cell of the image feature map.

    The camera's intrinsics enter through a squeeze-and-excite gate (as in BEVDepth), because the
    same appearance is farther away through a longer lens.
    """

    def __init__(self, inputs: int, bins: int, channels: int):
        super().__init__()
        self.bins = bins
        self.camera_gate = nn.Sequential(nn.Linear(4, inputs), nn.ReLU(inplace=True), nn.Linear(inputs, inputs))
        self.depth = nn.Sequential(Residual(inputs, inputs), nn.Conv2d(inputs, bins, 1))
        self.context = nn.Conv2d(inputs, channels, 1)

    def forward(self, features: torch.Tensor, Ks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [N, F, h, w] and intrinsics [N, 3, 3] (network image pixels) -> logits [N, D, h, w], context.

        Focal lengths are read as the lengths of K's first two columns: fx and fy of a pinhole without skew, and
        still so after an augmented image was mirrored or turned.
        """
        focal = Ks[:, :2, :2].norm(dim=1)
        camera = torch.cat((focal, Ks[:, :2, 2]), dim=1) / REFERENCE_FOCAL_PX
        gate = torch.sigmoid(self.camera_gate(camera.to(features)))[..., None, None]
        return self.depth(features * gate), self.context(features)
