"""Image backbones behind one interface: images [N, 3, H, W] in 0..255 -> feature maps, finest first.

A backbone has ``strides`` and ``channels`` (one entry a map) and ``mean``/``std`` of its input.
"""

import torch
from torch import nn

from gsrender_core.config import BackboneConfig
from gsrender_core.model.efficientnet_lite0 import EfficientNetLite0

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_HUB_NAMES = {
    "resnet18": "microsoft/resnet-18",
    "resnet50": "microsoft/resnet-50",
    "swin_base": "microsoft/swin-base-patch4-window12-384-in22k",
}
_STAGES = {4: "stage1", 8: "stage2", 16: "stage3", 32: "stage4"}
BACKBONE_NAMES = ("efficientnet_lite0", *_HUB_NAMES)


class TransformersBackbone(nn.Module):
    """ResNet or Swin from ``transformers``: maps at the strides wanted among 4, 8, 16, 32."""

    mean, std = _IMAGENET

    def __init__(self, name: str, pretrained: bool, strides: tuple[int, ...] = (8, 16, 32)):
        super().__init__()
        from transformers import AutoBackbone, ResNetConfig, SwinConfig

        self.strides = strides
        taps = {"out_features": [_STAGES[stride] for stride in strides]}
        if pretrained:
            # Reads transformers' local cache, or the network where the user allows it.
            try:
                self.body = AutoBackbone.from_pretrained(_HUB_NAMES[name], **taps)
            except Exception as error:  # without a network the hub's client raises errors of its own
                raise OSError(
                    f"ImageNet weights of {name} ({_HUB_NAMES[name]}) are neither cached nor reachable; download them "
                    "once, or set model.backbone.pretrained: false to start from random weights"
                ) from error
        elif name == "swin_base":
            config = SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=12, **taps)
            self.body = AutoBackbone.from_config(config)
        else:
            small = name == "resnet18"
            config = ResNetConfig(
                depths=[2, 2, 2, 2] if small else [3, 4, 6, 3],
                hidden_sizes=[64, 128, 256, 512] if small else [256, 512, 1024, 2048],
                layer_type="basic" if small else "bottleneck",
                **taps,
            )
            self.body = AutoBackbone.from_config(config)
        self.channels = tuple(self.body.channels)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return list(self.body(images).feature_maps)


class Backbone(nn.Module):
    """Normalises images and extracts features; a frozen one keeps its statistics and takes no gradient."""

    def __init__(self, config: BackboneConfig, load_pretrained: bool = True):
        """``load_pretrained=False`` builds the skeleton only: a checkpoint's weights follow."""
        super().__init__()
        pretrained = config.pretrained and load_pretrained
        if config.name == "efficientnet_lite0":
            self.body = EfficientNetLite0(config.strides)
            if pretrained:
                self.body.load_imagenet()
        elif config.name in _HUB_NAMES:
            self.body = TransformersBackbone(config.name, pretrained, config.strides)
        else:
            raise ValueError(f"unknown backbone {config.name!r}; known: {', '.join(BACKBONE_NAMES)}")
        self.frozen = config.frozen
        self.strides, self.channels = self.body.strides, self.body.channels
        self.register_buffer("mean", torch.tensor(self.body.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.body.std).view(1, 3, 1, 1), persistent=False)
        if self.frozen:
            self.body.requires_grad_(False)
            self.body.eval()

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            self.body.eval()  # batch-norm statistics stay ImageNet's
        return self

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Images uint8 [N, 3, H, W] -> maps [N, C_s, H/s, W/s]."""
        x = (images.float() - self.mean) / self.std
        x = x.to(next(self.body.parameters()).dtype, memory_format=torch.channels_last)
        if not self.frozen:
            return self.body(x)
        with torch.no_grad():
            return self.body(x)
