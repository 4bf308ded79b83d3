"""Small building blocks shared by the neck and the volume encoders."""

import torch
import torch.nn.functional as F
from torch import nn


class ConvNorm(nn.Sequential):
    """Convolution (2D or 3D), batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dims: int = 2, *, dilation: int = 1
    ):
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        padding = dilation * (kernel // 2)
        super().__init__(
            conv(inputs, outputs, kernel, stride, padding, dilation, bias=False), norm(outputs), nn.ReLU(inplace=True)
        )


class Residual(nn.Module):
    """Basic residual block: two 3x3 (3x3x3) convolutions and a shortcut.

    ``project``: kernel of the shortcut's convolution where it has one; None: 1, and none where the shapes agree.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dims: int = 2, *, project: int | None = None):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.conv1 = ConvNorm(inputs, outputs, 3, stride, dims)
        self.conv2 = nn.Sequential(conv(outputs, outputs, 3, 1, 1, bias=False), norm(outputs))
        same = inputs == outputs and stride == 1 and project is None
        k = project or 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(conv(inputs, outputs, k, stride, k // 2, bias=False), norm(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.conv2(self.conv1(x)))


def _first_used(strides: tuple[int, ...], stride: int) -> int:
    if stride not in strides:
        raise ValueError(f"view.stride {stride} is not a stride of the backbone; choose one of {strides}")
    return strides.index(stride)


class FeaturePyramid(nn.Module):
    """Fuse backbone maps top-down into one map at the finest stride wanted (Lin et al., FPN)."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], stride: int, outputs: int):
        super().__init__()
        self.first = _first_used(strides, stride)
        self.lateral = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in channels[self.first :])
        self.smooth = ConvNorm(outputs, outputs)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        used = maps[self.first :]
        x = self.lateral[-1](used[-1])
        for lateral, finer in zip(list(self.lateral)[-2::-1], used[-2::-1], strict=True):
            x = lateral(finer) + F.interpolate(x, size=finer.shape[-2:], mode="bilinear", align_corners=False)
        return self.smooth(x)


class JoinedPyramid(nn.Module):
    """Fuse backbone maps by joining their channels at the finest stride wanted (the neck of BEVDet and BEVStereo)."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], stride: int, outputs: int):
        super().__init__()
        self.first = _first_used(strides, stride)
        self.convs = nn.Sequential(ConvNorm(sum(channels[self.first :]), outputs), ConvNorm(outputs, outputs))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        finest, *coarser = maps[self.first :]
        size = finest.shape[-2:]
        wide = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in coarser]
        return self.convs(torch.cat((finest, *wide), dim=1))
