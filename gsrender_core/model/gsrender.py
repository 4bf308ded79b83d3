"""The whole network on one screen: images -> features -> volume -> voxel features -> Gaussians."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gsrender_core.config import ModelConfig, check_readout
from gsrender_core.data.frame import Frame
from gsrender_core.gaussians import Gaussians, VoxelEvidence
from gsrender_core.model.backbone import Backbone
from gsrender_core.model.blocks import FeaturePyramid
from gsrender_core.model.depth_net import DepthNet, depth_edges
from gsrender_core.model.gaussian_head import GaussianHead
from gsrender_core.model.nerf_head import NerfHead
from gsrender_core.model.view_transformer import LiftSplat, Projection
from gsrender_core.model.voxel_encoder import BevEncoder, ResNet3d
from gsrender_core.readout import anchored, audible, splat_evidence, together

_ROWS = 1 << 14  # voxels a chunk of the head at inference


@dataclass
class CameraInput:
    """What the network sees: B frames of C cameras.

    ``images`` uint8 [B, C, 3, H, W], ``Ks`` float32 [B, C, 3, 3] px, ``T_ego_cam`` float32 [B, C, 4, 4] m.
    """

    images: torch.Tensor
    Ks: torch.Tensor
    T_ego_cam: torch.Tensor

    @classmethod
    def from_frames(cls, frames: list[Frame], device="cpu") -> "CameraInput":
        """Stack frames of equal camera count and image size."""
        return cls(
            torch.from_numpy(np.stack([f.images for f in frames])).to(device),
            torch.from_numpy(np.stack([f.Ks for f in frames])).float().to(device),
            torch.from_numpy(np.stack([f.T_ego_cam for f in frames])).float().to(device),
        )


class GSRender(nn.Module):
    """GSRender (Sec. 3): any 2D-to-3D extractor, then the Gaussian head that is shared by all frames.

    The steps are separate methods, so that training can cache a frozen backbone's features and
    render adjacent frames from one volume (Ray Compensation).
    """

    def __init__(self, config: ModelConfig, load_pretrained: bool = True):
        super().__init__()
        self.config, view = config, config.view
        self.backbone = Backbone(config.backbone, load_pretrained)
        self.neck = FeaturePyramid(self.backbone.channels, self.backbone.strides, view.stride, view.neck_channels)
        edges = depth_edges(config.depth)
        self.register_buffer("depth_edges_m", edges, persistent=False)
        self.depth_net = DepthNet(view.neck_channels, config.depth.bins, view.channels)
        if view.kind == "lift_splat":
            self.view = LiftSplat(config.grid, view.downsample, view.stride, (edges[1:] + edges[:-1]) / 2)
        elif view.kind == "projection":
            self.view = Projection(config.grid, view.downsample, view.stride, edges)
        else:
            raise ValueError(f"unknown view.kind {view.kind!r}; known: lift_splat, projection")
        lifted, encoder = view.channels + self.view.extra_channels, config.encoder
        if encoder.kind == "bev":
            height = config.grid.shape[2]
            self.encoder = BevEncoder(lifted, encoder.channels, encoder.features, height, view.downsample)
        elif encoder.kind == "resnet3d":
            self.encoder = ResNet3d(lifted, encoder.channels, encoder.features, view.downsample)
        else:
            raise ValueError(f"unknown encoder.kind {encoder.kind!r}; known: bev, resnet3d")
        for module in self.modules():  # one layout throughout: every change of layout is a copy of the map
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        head = {"gaussian": GaussianHead, "nerf": NerfHead}[config.head.kind]
        self.head = head(config.head, encoder.features, config.num_classes)
        centers = torch.from_numpy(config.grid.centers_ego()).view(-1, 3)
        self.register_buffer("centers", centers, persistent=False)

    def image_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Backbone maps [B * C, F_s, h_s, w_s] of images uint8 [B, C, 3, H, W]."""
        return self.backbone(images.flatten(0, 1))

    def lift(
        self, maps: list[torch.Tensor], Ks: torch.Tensor, T_ego_cam: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image maps -> lifted volume [B, F', X', Y', Z'] and the depth logits [B, C, D, h, w] that placed them."""
        B, C = Ks.shape[:2]
        depth_logits, context = self.depth_net(self.neck(maps), Ks.flatten(0, 1))
        depth_logits = depth_logits.float()
        probability = torch.softmax(depth_logits, dim=1)
        with torch.autocast(Ks.device.type, enabled=False):  # geometry in bfloat16 misses voxels by half a metre
            lifted = self.view(context.float().unflatten(0, (B, C)), probability.unflatten(0, (B, C)), Ks, T_ego_cam)
        return lifted, depth_logits.unflatten(0, (B, C))

    def gaussians(self, P: torch.Tensor, voxels: torch.Tensor | None = None) -> Gaussians:
        """Gaussians of one frame's voxel features [F, X, Y, Z] in that frame's ego.

        Args:
            P: voxel features.
            voxels: int64 [N] flat indices of the voxels wanted; default all, in the grid's order.
        """
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        if voxels is None:
            return self.head(rows, self.centers)
        return self.head(rows.index_select(0, voxels), self.centers[voxels])

    def forward(self, cameras: CameraInput) -> torch.Tensor:
        """Voxel features P [B, F, X, Y, Z] of a batch of frames."""
        lifted, _ = self.lift(self.image_features(cameras.images), cameras.Ks, cameras.T_ego_cam)
        return self.encoder(lifted)

    def opacity_and_logits(self, P: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Opacity before the sigmoid [X, Y, Z] and logits [X, Y, Z, K] of one frame's P: what Eq. 7 reads.

        In chunks that stay in the processor's cache.
        """
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        parts = [self.head.opacity_and_logits(chunk) for chunk in rows.split(_ROWS)]
        opacity, logits = (torch.cat(values) for values in zip(*parts, strict=True))
        return opacity.view(self.config.grid.shape), logits.view(*self.config.grid.shape, -1)

    @torch.no_grad()
    def evidence(self, P: torch.Tensor, readout: str | None = None, lowest_tau: float = 0.0) -> VoxelEvidence:
        """Opacity and class of every voxel [X, Y, Z] before the threshold, for one frame's P [F, X, Y, Z].

        Args:
            P: voxel features.
            readout: one of ``config.READOUTS``; default the configuration's.
            lowest_tau: no lower threshold will be asked for (``splat`` then sums up fewer classes).

        Raises:
            ValueError: an unknown read-out, or one that needs Gaussians where the head makes none.
        """
        readout, shape = readout or self.config.readout, self.config.grid.shape
        check_readout(readout, self.config.head)
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        if readout == "voxel":
            opacity, logits = self.opacity_and_logits(P)
            seen = Gaussians(self.centers, self.centers, torch.sigmoid(opacity).view(-1), logits.flatten(0, 2))
        else:
            chunks = zip(rows.split(_ROWS), self.centers.split(_ROWS), strict=True)
            seen = [self.head(features, centers) for features, centers in chunks]
            if readout == "splat":  # most are too faint to matter: dropped before they are put together
                return splat_evidence(together([audible(g) for g in seen]), self.config.grid, lowest_tau)
            seen = anchored(together(seen), self.centers, self.config.grid.voxel_size_m)
        return seen.evidence().view(shape)

    def occupancy(self, P: torch.Tensor, tau: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 7 for one frame's P [F, X, Y, Z]: labels uint8 and confidence float32, both [X, Y, Z].

        With the read-out ``voxel`` equal to ``gaussians(P).to_occupancy``, without the means, scales and logits
        that it never reads; the confidence of a free voxel is 0.
        """
        tau, free = self.config.tau if tau is None else tau, self.config.num_classes
        if self.config.readout != "voxel":
            return self.evidence(P, self.config.readout, tau).at(tau, free)
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        labels = torch.full((len(rows),), free, dtype=torch.uint8, device=P.device)
        confidence = torch.zeros(len(rows), device=P.device)
        for start in range(0, len(rows), _ROWS):
            index, opacity, logits = self.head.occupied(rows[start : start + _ROWS], tau)
            index = index + start
            centers = self.centers[index]
            label, sure = Gaussians(centers, centers, opacity, logits).to_occupancy(tau, free)
            labels[index], confidence[index] = label, sure
        return labels.view(self.config.grid.shape), confidence.view(self.config.grid.shape)
