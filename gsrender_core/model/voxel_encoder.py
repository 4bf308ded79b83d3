"""Volume encoders: lifted volume -> voxel feature volume P, both [B, channels, X, Y, Z]."""

import torch
import torch.nn.functional as F
from torch import nn

from gsrender_core.model.blocks import ConvNorm, Residual


class BevEncoder(nn.Module):
    """Channel-to-height (FlashOcc): height joins the channels, a 2D U-Net works on the bird's-eye view.

    The cost of a 2D network and the full height of a 3D one; the CPU default. ``upsample`` widens
    the lifted volume back to the output grid in x and y.
    """

    def __init__(self, inputs: int, channels: int, features: int, height: int, upsample: int):
        super().__init__()
        c = channels
        self.height, self.features, self.upsample = height, features, upsample
        self.stem = ConvNorm(inputs * height, c, 1)
        self.level1 = nn.Sequential(Residual(c, c), Residual(c, c))
        self.level2 = nn.Sequential(Residual(c, 2 * c, 2), Residual(2 * c, 2 * c))
        self.level3 = nn.Sequential(Residual(2 * c, 3 * c, 2), Residual(3 * c, 3 * c))
        self.up2 = ConvNorm(3 * c + 2 * c, 2 * c)
        self.up1 = ConvNorm(2 * c + c, c)
        self.fine = ConvNorm(c, c)
        self.to_height = nn.Conv2d(c, features * height, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        B, _, _, _, Z = volume.shape
        x = volume.permute(0, 4, 1, 2, 3).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        x1 = self.level1(self.stem(x))
        x2 = self.level2(x1)
        x3 = self.level3(x2)
        up = F.interpolate(x3, size=x2.shape[-2:], mode="bilinear", align_corners=False)
        x2 = self.up2(torch.cat((up, x2), 1))
        up = F.interpolate(x2, size=x1.shape[-2:], mode="bilinear", align_corners=False)
        x1 = self.up1(torch.cat((up, x1), 1))
        if self.upsample > 1:
            x1 = F.interpolate(x1, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        out = self.to_height(self.fine(x1))  # [B, Z * features, X, Y]
        # channels-last in memory: reshaping to [B, X, Y, Z, features] and back costs nothing.
        out = out.permute(0, 2, 3, 1).reshape(B, out.shape[2], out.shape[3], Z, self.features)
        return out.permute(0, 4, 1, 2, 3)


class ResNet3d(nn.Module):
    """The paper's encoder: 3D ResNet [1, 2, 4] with a 3D feature pyramid and a final 3x3x3 convolution."""

    def __init__(self, inputs: int, channels: int, features: int, upsample: int):
        super().__init__()
        self.upsample = upsample
        widths = (channels, 2 * channels, 4 * channels)
        stages, last = [], inputs
        for i, (width, blocks) in enumerate(zip(widths, (1, 2, 4), strict=True)):
            layers = [Residual(last, width, 1 if i == 0 else 2, 3)]
            layers += [Residual(width, width, 1, 3) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*layers))
            last = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv3d(width, features, 1) for width in widths)
        self.final = ConvNorm(features, features, dims=3)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        x, total = volume, 0
        size = [volume.shape[2] * self.upsample, volume.shape[3] * self.upsample, volume.shape[4]]
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            total = total + F.interpolate(lateral(x), size=size, mode="trilinear", align_corners=False)
        return self.final(total)
