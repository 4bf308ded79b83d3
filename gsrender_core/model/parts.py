"""The network cut where runtimes other than eager torch can take it: images, lift, volume, labels.

Every part is a module of fixed shapes that can be traced. Camera geometry is an input of each, never a constant.
"""

import torch
import torch.nn.functional as F
from torch import nn

from gsrender_core.config import ModelConfig
from gsrender_core.model.gaussian_head import GaussianHead
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.voxel_encoder import BevEncoder


def why_not(config: ModelConfig) -> str | None:
    """Why a network cannot be cut into these parts; None if it can."""
    if config.view.frames_before:
        return "it looks at earlier frames (view.history or view.stereo)"
    if config.view.kind != "lift_splat":
        return f"view.kind {config.view.kind!r} has no lift of fixed shapes"
    if config.head.kind != "gaussian":
        return f"head.kind {config.head.kind!r} makes no Gaussians"
    if config.readout != "voxel":
        return f"the read-out {config.readout!r} needs every Gaussian"
    return None


class ImagePart(nn.Module):
    """Images uint8 [N, 3, H, W] -> depth probabilities [N, D, h * w] and rows to lift [N, h * w, F]."""

    def __init__(self, model: GSRender):
        super().__init__()
        self.backbone, self.neck, self.depth_net = model.backbone, model.neck, model.depth_net
        self.takes_poses = model.config.view.depth_net == "bevdepth"

    def forward(self, images: torch.Tensor, Ks: torch.Tensor, T_ego_cam: torch.Tensor):
        """``Ks`` [N, 3, 3] px, ``T_ego_cam`` [N, 4, 4] m."""
        features = self.neck(self.backbone(images))
        poses = (T_ego_cam,) if self.takes_poses else ()
        logits, context = self.depth_net(features, Ks, *poses)
        return torch.softmax(logits.float(), dim=1).flatten(2), context.float().flatten(2).transpose(1, 2)


class _Cells(nn.Module):
    """What the parts after the lift share: voxels come in the encoder's order, by cells of u x u of them."""

    def __init__(self, model: GSRender):
        super().__init__()
        self.encoder, self.classes = model.encoder, model.config.num_classes
        X, Y, Z = model.config.grid.shape
        bev = isinstance(self.encoder, BevEncoder)
        u = self.encoder.upsample if bev and self.encoder.subpixel else 1
        self.cell_shape = (X // u, Y // u, u, u, Z)

    def encoder_input(self, volume: torch.Tensor) -> torch.Tensor:
        """Lifted volume [X', Y', Z, F'] as the encoder takes it, [1, F', X', Y', Z] in its precision."""
        return volume.to(next(self.encoder.parameters()).dtype)[None].permute(0, 4, 1, 2, 3)

    def by_voxel(self, values):
        """Values of all voxels in the encoder's order (a tensor or array of any shape) as [X, Y, Z]."""
        X, Y, u, _, Z = self.cell_shape
        cells = values.reshape(self.cell_shape)
        cells = cells.permute(0, 2, 1, 3, 4) if isinstance(cells, torch.Tensor) else cells.transpose(0, 2, 1, 3, 4)
        return cells.reshape(X * u, Y * u, Z)


class VolumePart(_Cells):
    """Lifted volume [X', Y', Z, F'] -> opacity before the sigmoid [N] and P as rows [N, F], in the encoder's order."""

    def __init__(self, model: GSRender):
        super().__init__(model)
        self.head = model.head

    def rows(self, volume: torch.Tensor) -> torch.Tensor:
        """P as rows [N, F] in the encoder's order and precision."""
        lifted = self.encoder_input(volume)
        if isinstance(self.encoder, BevEncoder):
            cells = self.encoder.cells(lifted)[0]
        else:
            cells = self.encoder(lifted)[0].permute(1, 2, 3, 0)
        return cells.reshape(-1, cells.shape[-1])

    def forward(self, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.rows(volume).float()
        with torch.autocast(rows.device.type, enabled=False):  # the head is float32 in every precision
            return self.head.opacity(rows), rows

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Class logits [N, K] of such rows."""
        return self.head.opacity_and_logits(rows)[1]


class CellPart(_Cells):
    """``VolumePart`` where opacity is linear in what the encoder knows of a cell: P is never made.

    Lifted volume [X', Y', Z, F'] -> opacity before the sigmoid [cells, S] and the cells' features [cells, C], a cell
    having S = u * u * Z voxels. Class logits are as linear: ``class_weight`` [S, K, C] and ``class_bias`` [S, K], which
    are wanted where a voxel is occupied only.
    """

    def __init__(self, model: GSRender):
        super().__init__(model)
        output, classes, features = model.head.output, self.classes, model.config.encoder.features
        conv = self.encoder.to_height
        weight = conv.weight.flatten(1).unflatten(0, (-1, features))  # of P [S, F, C]
        bias = conv.bias.view(-1, features)
        with torch.no_grad():
            whole = torch.einsum("of,sfc->soc", output.weight[6 : 7 + classes], weight)
            whole_bias = bias @ output.weight[6 : 7 + classes].T + output.bias[6 : 7 + classes]
        parts = {"opacity_weight": whole[:, 0], "opacity_bias": whole_bias[:, 0]}
        parts |= {"class_weight": whole[:, 1:], "class_bias": whole_bias[:, 1:]}
        for name, value in parts.items():
            self.register_buffer(name, value.contiguous(), persistent=False)

    @staticmethod
    def serves(model: GSRender) -> bool:
        """Whether a network has such cells: encoder of kind bev, and a Gaussian head of one layer."""
        return isinstance(model.encoder, BevEncoder) and isinstance(model.head, GaussianHead) and model.head.linear

    def forward(self, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.encoder.rows(self.encoder_input(volume))[0].flatten(0, 1).float()
        with torch.autocast(rows.device.type, enabled=False):
            return F.linear(rows, self.opacity_weight, self.opacity_bias), rows

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Class logits [N, K] of all voxels of such cells."""
        every = F.linear(rows, self.class_weight.flatten(0, 1), self.class_bias.flatten())
        return every.view(-1, self.class_bias.shape[1])


def after_the_lift(model: GSRender) -> VolumePart | CellPart:
    """The cheaper of the two that serves a network."""
    return (CellPart if CellPart.serves(model) else VolumePart)(model).eval()


def voxels_of_rays(view, cells: tuple[int, int], ego_from_pixel: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
    """Voxel of every point that ``LiftSplat`` (``view``) lifts, int64 [C, D, h * w]; -1 for those outside the grid.

    ``cells``: (h, w); ``ego_from_pixel``, ``origins``: as ``LiftSplat.frustum``.
    """
    X, Y, Z = view.shape
    with torch.autocast(origins.device.type, enabled=False):  # geometry in bfloat16 misses voxels by half a metre
        points = view.frustum(*cells, ego_from_pixel, origins).flatten(2, 3)
    x, y, z = torch.floor((points - view.low) / view.size).unbind(-1)
    inside = (x >= 0) & (x < X) & (y >= 0) & (y < Y) & (z >= 0) & (z < Z)
    return torch.where(inside, (x * Y + y) * Z + z, torch.full_like(x, -1)).long()


def labels_of(
    opacity: torch.Tensor, logits: torch.Tensor, tau: torch.Tensor, free: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 7 in fixed shapes: opacity before the sigmoid [N] and logits [N, K] to labels uint8 and confidence [N]."""
    best, label = torch.softmax(logits, dim=-1).max(dim=-1)
    opacity = torch.sigmoid(opacity)
    occupied = opacity >= tau
    confidence = torch.where(occupied, opacity * best, torch.zeros_like(opacity))
    return torch.where(occupied, label, torch.full_like(label, free)).to(torch.uint8), confidence


class WholeNetwork(nn.Module):
    """Images of one frame to labels and confidences, without a shape that depends on values (CUDA graphs, ONNX)."""

    def __init__(self, model: GSRender):
        super().__init__()
        self.images, self.view, self.volume = ImagePart(model), model.view, after_the_lift(model)
        self.free = model.config.num_classes
        width, height = model.config.image_size
        self.cells = (-(-height // self.view.stride), -(-width // self.view.stride))

    def forward(self, images, Ks, T_ego_cam, ego_from_pixel, tau):
        """Labels uint8 and confidence float32, both [X, Y, Z].

        Args:
            images: uint8 [C, 3, H, W].
            Ks, T_ego_cam: [C, 3, 3] px, [C, 4, 4] m.
            ego_from_pixel: as ``view_transformer.ego_from_pixel``; inverting K neither exports nor captures.
            tau: threshold of Eq. 7, float32 [].
        """
        probability, rows = self.images(images, Ks, T_ego_cam)
        opacity, rows = self.volume(self._lift(probability, rows, ego_from_pixel, T_ego_cam[:, :3, 3]))
        with torch.autocast(rows.device.type, enabled=False):
            label, confidence = labels_of(opacity.flatten(), self.volume.logits(rows), tau, self.free)
        return self.volume.by_voxel(label), self.volume.by_voxel(confidence)

    def _lift(self, probability, rows, ego_from_pixel, origins):
        X, Y, Z = self.view.shape
        # Points outside go to one row more, which is cut off: a selection would have no fixed size.
        flat = voxels_of_rays(self.view, self.cells, ego_from_pixel, origins).flatten()
        flat = torch.where(flat < 0, torch.full_like(flat, X * Y * Z), flat)
        lifted = (probability[..., None] * rows[:, None]).flatten(0, 2)
        volume = torch.zeros(X * Y * Z + 1, rows.shape[-1], dtype=lifted.dtype, device=lifted.device)
        volume = volume.scatter_add(0, flat[:, None].expand_as(lifted), lifted)
        return volume[:-1].view(X, Y, Z, -1)
