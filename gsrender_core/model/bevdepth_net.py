"""The depth net of BEVDepth and BEVStereo (Li et al. 2022): camera-aware gates, ASPP, stereo evidence."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from gsrender_core.model.blocks import ConvNorm, Residual
from gsrender_core.model.depth_net import REFERENCE_FOCAL_PX

CAMERA_VALUES = 18  # of ``camera_values``
STEREO_STRIDE = 4  # of the features that the plane sweep compares
_DILATIONS = (6, 12, 18)
_ASPP_CHANNELS = 96


def camera_values(Ks: torch.Tensor, T_ego_cam: torch.Tensor) -> torch.Tensor:
    """Intrinsics [N, 3, 3] px and poses [N, 4, 4] m as inputs of about unit size, [N, 18].

    Fixed scales, where the reference batch-normalises: a camera's depth must not depend on which other
    cameras share its batch. Image augmentation is part of K, and mirroring the volume comes after the
    lift, so that the reference's 27 values come down to these.
    """
    return torch.cat(((Ks[:, :2] / REFERENCE_FOCAL_PX).flatten(1), T_ego_cam[:, :3].flatten(1)), dim=1)


class CameraGate(nn.Module):
    """Squeeze-and-excite whose excitation comes from the camera's parameters instead of the image."""

    def __init__(self, channels: int):
        super().__init__()
        mlp = [nn.Linear(CAMERA_VALUES, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)]
        gate = [nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)]
        self.values = nn.Sequential(*mlp, *gate)  # no ReLU between the two, as in the reference

    def forward(self, x: torch.Tensor, cameras: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.values(cameras.to(x)))[..., None, None]


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017): near, far and global surroundings of every cell."""

    def __init__(self, channels: int):
        super().__init__()
        self.near = ConvNorm(channels, _ASPP_CHANNELS, 1)
        self.far = nn.ModuleList(ConvNorm(channels, _ASPP_CHANNELS, dilation=d) for d in _DILATIONS)
        # No batch norm behind the pooling: a single camera has but one value a channel there.
        self.everywhere = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, _ASPP_CHANNELS, 1), nn.ReLU(inplace=True)
        )
        self.joined = ConvNorm(_ASPP_CHANNELS * (2 + len(_DILATIONS)), channels, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Laid out as the others, which the joint map follows: an expanded one alone would turn it all around.
        everywhere = self.everywhere(x).expand(-1, -1, *x.shape[-2:]).contiguous(memory_format=torch.channels_last)
        parts = [self.near(x), *(far(x) for far in self.far), everywhere]
        return self.dropout(self.joined(torch.cat(parts, dim=1)))


class BevDepthNet(nn.Module):
    """Depth logits and context features of every cell, told the camera's intrinsics and pose.

    With ``stereo_stride`` (that of the features, a power of two times 4) the plane sweep's distribution joins
    before the depth convolutions, brought from stride 4 to the features' by stride-2 convolutions.
    """

    def __init__(self, inputs: int, bins: int, channels: int, stereo_stride: int | None = None):
        super().__init__()
        self.bins, c = bins, inputs
        self.reduce = ConvNorm(inputs, c)
        self.context_gate, self.depth_gate = CameraGate(c), CameraGate(c)
        self.context = nn.Conv2d(c, channels, 1)
        self.stereo, extra = None, 0
        if stereo_stride is not None:
            halvings = round(math.log2(stereo_stride / STEREO_STRIDE))
            layers = []
            for _ in range(halvings):
                layers += [nn.Conv2d(bins, bins, 3, 2, 1), nn.BatchNorm2d(bins)]
            self.stereo, extra = nn.Sequential(*layers), bins
        self.depth = nn.Sequential(
            Residual(c + extra, c), Residual(c, c), Residual(c, c), Aspp(c), nn.Conv2d(c, bins, 1)
        )

    def forward(
        self, features: torch.Tensor, Ks: torch.Tensor, T_ego_cam: torch.Tensor, stereo: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [N, F, h, w] -> depth logits [N, D, h, w] and context [N, channels, h, w].

        Args:
            features: of the neck.
            Ks, T_ego_cam: [N, 3, 3] px, [N, 4, 4] m.
            stereo: distribution [N, D, h4, w4] of ``stereo_distribution``; None where no previous frame exists.
                Zeros stand for that then: no distribution is zero everywhere, so the absence is no evidence
                for any depth and can be told from every evidence.
        """
        cameras = camera_values(Ks, T_ego_cam)
        x = self.reduce(features)
        context = self.context(self.context_gate(x, cameras))
        depth = self.depth_gate(x, cameras)
        if self.stereo is not None:
            if stereo is None:
                factor = 2 ** (len(self.stereo) // 2)
                n, _, h, w = depth.shape
                stereo = depth.new_zeros(n, self.bins, h * factor, w * factor)
            evidence = self.stereo(stereo.to(depth))
            if evidence.shape[-2:] != depth.shape[-2:]:  # image sizes that the strides do not divide
                evidence = F.interpolate(evidence, depth.shape[-2:], mode="bilinear", align_corners=False)
            depth = torch.cat((depth, evidence), dim=1)
        return self.depth(depth), context
