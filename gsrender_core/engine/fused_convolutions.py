"""Convolution, bias, residual and ReLU in one kernel of cuDNN, where torch would run up to four over the same map.

On a GPU such maps are written and read again faster than they are computed, and every kernel costs its launch.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer, ResNetConvLayer

from gsrender_core.model.blocks import ConvNorm, Residual
from gsrender_core.model.voxel_encoder import BevEncoder

# Blocks of the encoder whose weights it reads itself, in parts or as a matrix product.
_TAKEN_APART = {BevEncoder: ("stem", "up1", "up2", "mix")}
CHANNELS = 8  # an image's three are no input for cuDNN's tensor cores: fused, that convolution is many times slower


def fuse_convolutions(module: nn.Module) -> int:
    """Replace, in place, what one kernel can do in a folded network; other modules stay as they are.

    Args:
        module: in evaluation mode, its batch norms folded (``fold.fold_batch_norms``); not ``ConvNorm`` or a residual
            block itself.

    Returns:
        how many blocks were replaced.
    """
    kept, count = next((names for kind, names in _TAKEN_APART.items() if isinstance(module, kind)), ()), 0
    for name, child in list(module.named_children()):
        fused = None if name in kept else _fused(child)
        if fused is None:
            count += fuse_convolutions(child)
        else:
            setattr(module, name, fused)
            count += 1
    return count


def _fused(block: nn.Module) -> nn.Module | None:
    """The block in fused form, or None where it has none."""
    if isinstance(block, ConvNorm) and _fits(block[0], block[1]):
        return ConvReLU(block[0])
    if isinstance(block, ResNetConvLayer) and isinstance(block.activation, nn.ReLU):
        return ConvReLU(block.convolution) if _fits(block.convolution, block.normalization) else None
    if isinstance(block, Residual) and _fits(*block.conv2) and _fits(*list(block.conv1)[:2]):
        return ResidualReLU(nn.Sequential(ConvReLU(block.conv1[0])), block.conv2[0], block.shortcut)
    if isinstance(block, ResNetBasicLayer | ResNetBottleNeckLayer) and isinstance(block.activation, nn.ReLU):
        *first, last = block.layer
        if all(_fits(layer.convolution, layer.normalization) for layer in block.layer):
            before = nn.Sequential(*(ConvReLU(layer.convolution) for layer in first))
            return ResidualReLU(before, last.convolution, block.shortcut)
    return None


def _fits(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether cuDNN's fused kernels take a convolution: 2D, not depthwise, channels by eights, its norm folded."""
    plain = isinstance(conv, nn.Conv2d) and isinstance(norm, nn.Identity) and conv.groups == 1
    return plain and conv.in_channels % CHANNELS == 0 and conv.out_channels % CHANNELS == 0


class ConvReLU(nn.Module):
    """relu(conv(x))."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        self._zeros: dict[torch.Size, torch.Tensor] = {}  # by shape of x; replays of a graph read them

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda:
            return F.relu(self.conv(x))
        # ``cudnn_convolution_relu`` adds 0 times the memory that its output gets, whatever lies there: NaN of a tensor
        # that was there before would come through. Zeros of our own cannot.
        if x.shape not in self._zeros:
            self._zeros[x.shape] = _zero_map(x, self.conv)
        return _conv_add_relu(self.conv, x, self._zeros[x.shape])


class ResidualReLU(nn.Module):
    """relu(conv(before(x)) + shortcut(x))."""

    def __init__(self, before: nn.Module, conv: nn.Conv2d, shortcut: nn.Module):
        super().__init__()
        self.before, self.conv, self.shortcut = before, conv, shortcut
        biased = [part for part in shortcut.modules() if isinstance(part, nn.Conv2d) and part.bias is not None]
        if len(biased) == 1 and conv.bias is not None:  # one bias for both: the other would be a pass of its own
            with torch.no_grad():
                conv.bias += biased[0].bias
            biased[0].bias = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added, x = self.shortcut(x), self.before(x)
        return _conv_add_relu(self.conv, x, added) if x.is_cuda else F.relu(self.conv(x) + added)


def _conv_add_relu(conv: nn.Conv2d, x: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    how = (conv.stride, conv.padding, conv.dilation, conv.groups)
    return torch.cudnn_convolution_add_relu(x, conv.weight, added, 1.0, conv.bias, *how)


_SHARED_ZEROS: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}


def _zero_map(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """Zeros of the shape of ``conv(x)``, channels last; all maps of a device share the memory of the largest."""
    sizes = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
    h, w = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    count, key = len(x) * h * w * conv.out_channels, (x.device, x.dtype)
    if key not in _SHARED_ZEROS or len(_SHARED_ZEROS[key]) < count:
        _SHARED_ZEROS[key] = torch.zeros(count, device=x.device, dtype=x.dtype)  # earlier maps keep theirs
    return _SHARED_ZEROS[key][:count].view(len(x), h, w, conv.out_channels).permute(0, 3, 1, 2)
