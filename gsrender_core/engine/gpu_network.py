"""The network as a GPU predicts with it: few kernels, few passes over memory.

Against ``parts.WholeNetwork`` under autocast, whose inputs it takes: weights have the precision of the arithmetic, none
is cast in a call; convolution, bias, residual and ReLU are one kernel of cuDNN; the lift and the head are kernels of
our own (``gpu_lift``, ``gpu_labels``) that write neither points nor hidden values.
"""

import copy
import math

import torch
from torch import nn

from gsrender_core.engine.fused_convolutions import fuse_convolutions
from gsrender_core.engine.gpu_labels import HeadWeights, label_rows, label_rows_reference
from gsrender_core.engine.gpu_lift import lift, lift_reference, place
from gsrender_core.engine.triton_kernels import serve
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.parts import CellPart, ImagePart, after_the_lift, labels_of, voxels_of_rays


class GpuNetwork(nn.Module):
    """Images of one frame to labels and confidences, without a shape that depends on values.

    On a CPU torch's references of the kernels run: slow, for tests.

    Args:
        model: folded, in evaluation mode; ``parts.why_not`` finds nothing. It is copied, not changed.
        precision: of everything between the images and the voxel features; geometry and the head stay float32.
    """

    def __init__(self, model: GSRender, precision: torch.dtype):
        super().__init__()
        model = copy.deepcopy(model).eval()
        self.images, self.volume = ImagePart(model), after_the_lift(model)
        self.free, self._view = model.config.num_classes, model.view
        width, height = model.config.image_size
        self._cells = (-(-height // self._view.stride), -(-width // self._view.stride))
        fuse_convolutions(self)
        # Maps and weights with the channels innermost: what tensor cores read.
        for module in (self.images.backbone.body, self.images.neck, self.images.depth_net, self.volume.encoder):
            module.to(precision)
            for part in module.modules():
                if isinstance(part, nn.Conv3d):
                    part.to(memory_format=torch.channels_last_3d)

    def forward(self, images, Ks, T_ego_cam, ego_from_pixel, tau):
        """As ``parts.WholeNetwork``."""
        probability, features = self.images(images, Ks, T_ego_cam)
        shape, origins = self._view.shape, T_ego_cam[:, :3, 3].contiguous()
        volume = torch.empty(math.prod(shape), features.shape[-1], device=images.device)
        ours = serve(images.device)
        if ours:
            voxel = torch.empty(*probability.shape, dtype=torch.int32, device=images.device)
            place(self._view, self._cells, ego_from_pixel, origins, voxel)
        else:
            voxel = voxels_of_rays(self._view, self._cells, ego_from_pixel, origins).int()
        add = lift if ours else lift_reference
        add(voxel, features.contiguous(), probability.contiguous(), volume)
        labels, confidence = self._labels(volume.view(*shape, -1), tau, ours)
        return self.volume.by_voxel(labels), self.volume.by_voxel(confidence)

    def _labels(self, volume: torch.Tensor, tau: torch.Tensor, ours: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(self.volume, CellPart):
            opacity, cells = self.volume(volume)
            return labels_of(opacity.flatten(), self.volume.logits(cells), tau, self.free)
        rows = self.volume.rows(volume).contiguous()
        labels = torch.empty(len(rows), dtype=torch.uint8, device=rows.device)
        confidence = torch.empty(len(rows), device=rows.device)
        label = label_rows if ours else label_rows_reference
        label(rows, HeadWeights.of(self.volume.head), tau, self.free, (labels, confidence))
        return labels, confidence
