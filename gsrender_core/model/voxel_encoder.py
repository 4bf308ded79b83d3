"""Volume encoders: lifted volume -> voxel feature volume P, both [B, channels, X, Y, Z]."""

import torch
import torch.nn.functional as F
from torch import nn

from gsrender_core.config import EncoderConfig
from gsrender_core.model.blocks import ConvNorm, Residual


def _joined(block: ConvNorm, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """``block`` of both inputs' channels joined, as a sum of two convolutions: no copy into a joint map, and
    oneDNN's bfloat16 gradient of one 320-channel kernel is far slower than that of its two parts."""
    conv, norm, relu = block
    cut = first.shape[1]
    y = F.conv2d(first, conv.weight[:, :cut], None, 1, conv.padding)
    return relu(norm(y + F.conv2d(second, conv.weight[:, cut:], conv.bias, 1, conv.padding)))


def _product(block: ConvNorm, rows: torch.Tensor) -> torch.Tensor:
    """``block``, a 1x1 convolution, of rows [B, X, Y, C]: a matrix product, and faster as one."""
    conv, norm, relu = block
    rows = F.linear(rows, conv.weight.flatten(1), conv.bias)
    if isinstance(norm, nn.Identity):  # folded: they stay rows
        return relu(rows)
    return relu(norm(rows.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class BevEncoder(nn.Module):
    """Channel-to-height (FlashOcc): height joins the channels, a 2D U-Net works on the bird's-eye view.

    The cost of a 2D network and the full height of a 3D one; the CPU default. ``upsample`` widens
    the lifted volume back to the output grid in x and y: ``smooth``, bilinearly and with a convolution at full size,
    or ``subpixel``, where every wide cell speaks for each of its voxels (Shi et al. 2016) at a quarter of the cost.
    """

    def __init__(self, inputs: int, config: EncoderConfig, height: int, upsample: int):
        super().__init__()
        c, features = config.channels, config.features
        self.height, self.features, self.upsample = height, features, upsample
        self.subpixel = config.widen == "subpixel"
        self.stem = ConvNorm(inputs * height, c, 1)
        self.level1 = nn.Sequential(Residual(c, c), Residual(c, c))
        self.level2 = nn.Sequential(Residual(c, 2 * c, 2), Residual(2 * c, 2 * c))
        self.level3 = nn.Sequential(Residual(2 * c, 3 * c, 2), Residual(3 * c, 3 * c))
        self.up2 = ConvNorm(3 * c + 2 * c, 2 * c)
        self.up1 = ConvNorm(2 * c + c, c)
        fine = 2 * c if self.subpixel else c
        self.fine = ConvNorm(c, fine)
        self.mix = ConvNorm(fine, config.cell_features, 1) if config.cell_features else None
        fine = config.cell_features or fine
        self.to_height = nn.Conv2d(fine, features * height * (upsample**2 if self.subpixel else 1), 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        rows = self.cells(volume).permute(0, 1, 3, 2, 4, 5, 6)
        return rows.flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)

    def cells(self, volume: torch.Tensor) -> torch.Tensor:
        """P by cells of u x u voxels, [B, X / u, Y / u, u, u, Z, features]: what needs no place skips the reordering.

        u is 1 but for ``subpixel``.
        """
        out = F.linear(self.rows(volume), self.to_height.weight.flatten(1), self.to_height.bias)
        u = self.upsample if self.subpixel else 1
        return out.unflatten(-1, (u, u, volume.shape[4], self.features))

    def rows(self, volume: torch.Tensor) -> torch.Tensor:
        """What ``to_height`` turns into the voxels of every cell, [B, X / u, Y / u, C]."""
        x1 = self.level1(_product(self.stem, volume.permute(0, 2, 3, 4, 1).flatten(3)).permute(0, 3, 1, 2))
        x2 = self.level2(x1)
        x3 = self.level3(x2)
        up = F.interpolate(x3, size=x2.shape[-2:], mode="bilinear", align_corners=False)
        x2 = _joined(self.up2, up, x2)
        up = F.interpolate(x2, size=x1.shape[-2:], mode="bilinear", align_corners=False)
        x1 = _joined(self.up1, up, x1)
        if self.upsample > 1 and not self.subpixel:
            x1 = F.interpolate(x1, scale_factor=self.upsample, mode="bilinear", align_corners=False)
        rows = self.fine(x1).permute(0, 2, 3, 1)
        return rows if self.mix is None else _product(self.mix, rows)


class ResNet3d(nn.Module):
    """A light 3D ResNet [1, 2, 4] whose levels are added up, and a final 3x3x3 convolution."""

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


class BevStereo3d(nn.Module):
    """The paper's encoder: 3D ResNet [1, 2, 4], levels joined at full size (3D FPN), final 3x3x3 convolution.

    Strides act on x, y and z alike: 200 x 200 x 16, 100 x 100 x 8, 50 x 50 x 4 with ``channels`` x 1, 2, 4. As in
    the reference, the first block of every level has a 3x3x3 convolution on its shortcut.
    """

    def __init__(self, inputs: int, channels: int, features: int, upsample: int):
        super().__init__()
        self.upsample = upsample
        widths = (channels, 2 * channels, 4 * channels)
        stages, last = [], inputs
        for i, (width, blocks) in enumerate(zip(widths, (1, 2, 4), strict=True)):
            layers = [Residual(last, width, 1 if i == 0 else 2, 3, project=3)]
            layers += [Residual(width, width, 1, 3) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*layers))
            last = width
        self.stages = nn.ModuleList(stages)
        self.joined = ConvNorm(sum(widths), features, 1, dims=3)
        self.final = nn.Sequential(nn.Conv3d(features, features, 3, 1, 1), nn.ReLU(inplace=True))

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        levels = [self.stages[0](volume)]
        for stage in self.stages[1:]:
            levels.append(stage(levels[-1]))
        # Joined by a 1x1x1 convolution, which may come before widening: 32 channels are widened instead of 192, and no
        # joint map is written.
        size, (conv, norm, relu) = levels[0].shape[2:], self.joined
        first, *others = conv.weight.split([level.shape[1] for level in levels], dim=1)
        x = F.conv3d(levels[0], first, conv.bias)
        for level, weight in zip(levels[1:], others, strict=True):
            x = x + F.interpolate(F.conv3d(level, weight), size=size, mode="trilinear", align_corners=False)
        x = relu(norm(x))
        if self.upsample > 1:
            size = (size[0] * self.upsample, size[1] * self.upsample, size[2])
            x = F.interpolate(x, size=size, mode="trilinear", align_corners=False)
        return self.final(x)
