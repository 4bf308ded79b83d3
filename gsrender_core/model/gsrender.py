"""The whole network on one screen: images -> features -> volume -> voxel features -> Gaussians."""

from collections.abc import Sequence

import torch
from torch import nn

from gsrender_core.config import EncoderConfig, ModelConfig, ViewConfig, check_readout
from gsrender_core.gaussians import Gaussians, VoxelEvidence
from gsrender_core.model.backbone import Backbone
from gsrender_core.model.bevdepth_net import STEREO_STRIDE, BevDepthNet
from gsrender_core.model.blocks import FeaturePyramid, JoinedPyramid
from gsrender_core.model.camera_input import CameraInput
from gsrender_core.model.depth_net import DepthNet, depth_edges
from gsrender_core.model.gaussian_head import GaussianHead
from gsrender_core.model.nerf_head import NerfHead
from gsrender_core.model.observation import Observation, PastMaps
from gsrender_core.model.stereo import stereo_distribution
from gsrender_core.model.view_transformer import LiftSplat, Projection
from gsrender_core.model.voxel_encoder import BevEncoder, BevStereo3d, ResNet3d
from gsrender_core.readout import anchored, audible, splat_evidence, together

__all__ = ["CameraInput", "GSRender"]

_ROWS = 1 << 14  # voxels a chunk of the head at inference on a CPU, whose cache holds one


def _chunk(rows: torch.Tensor) -> int:
    """Rows that the head takes at a time: on a GPU all, for there every chunk waits for launches."""
    return _ROWS if rows.device.type == "cpu" else len(rows)


def _depth_net(view: ViewConfig, bins: int) -> nn.Module:
    if view.depth_net == "bevdepth":
        return BevDepthNet(view.neck_channels, bins, view.channels, view.stride if view.stereo else None)
    return DepthNet(view.neck_channels, bins, view.channels)


def _encoder(config: EncoderConfig, inputs: int, height: int, upsample: int) -> nn.Module:
    if config.kind == "bev":
        return BevEncoder(inputs, config, height, upsample)
    kinds = {"resnet3d": ResNet3d, "bevstereo3d": BevStereo3d}
    if config.kind not in kinds:
        raise ValueError(f"unknown encoder.kind {config.kind!r}; known: bev, resnet3d, bevstereo3d")
    return kinds[config.kind](inputs, config.channels, config.features, upsample)


class GSRender(nn.Module):
    """GSRender (Sec. 3): any 2D-to-3D extractor, then the Gaussian head that is shared by all frames.

    The steps are separate methods, so that training can cache a frozen backbone's features and
    render adjacent frames from one volume (Ray Compensation).
    """

    def __init__(self, config: ModelConfig, load_pretrained: bool = True):
        super().__init__()
        self.config, view = config, config.view
        self.backbone = Backbone(config.backbone, load_pretrained)
        neck = {"fpn": FeaturePyramid, "joined": JoinedPyramid}[view.neck]
        self.neck = neck(self.backbone.channels, self.backbone.strides, view.stride, view.neck_channels)
        edges = depth_edges(config.depth)
        self.register_buffer("depth_edges_m", edges, persistent=False)
        self.register_buffer("depth_planes_m", (edges[1:] + edges[:-1]) / 2, persistent=False)
        self.depth_net = _depth_net(view, config.depth.bins)
        if view.kind == "lift_splat":
            self.view = LiftSplat(config.grid, view.downsample, view.stride, self.depth_planes_m.clone())
        elif view.kind == "projection":
            self.view = Projection(config.grid, view.downsample, view.stride, edges)
        else:
            raise ValueError(f"unknown view.kind {view.kind!r}; known: lift_splat, projection")
        lifted, encoder = view.channels + self.view.extra_channels, config.encoder
        if view.history:
            # What stands for a history that does not exist (the first frame of a scene): learnt, zero at first.
            self.no_history = nn.Parameter(torch.zeros(lifted))
            lifted *= 2
        self.encoder = _encoder(encoder, lifted, config.grid.shape[2], view.downsample)
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

    def observe(
        self,
        maps: list[torch.Tensor],
        Ks: torch.Tensor,
        T_ego_cam: torch.Tensor,
        previous: Observation | None = None,
    ) -> Observation:
        """The 2D part: context and depth of every image, from its maps and, with ``view.stereo``, the previous frame.

        Args:
            maps: of ``image_features``.
            Ks, T_ego_cam: [B, C, 3, 3] px, [B, C, 4, 4] m.
            previous: what was observed in the previous frame, seen from this frame's ego; None where there is none.
        """
        B, C = Ks.shape[:2]
        flat_K, flat_T = Ks.flatten(0, 1), T_ego_cam.flatten(0, 1)
        matching = self._matching(maps) if self.config.view.stereo else None
        if self.config.view.depth_net == "bevdepth":
            stereo = None
            if matching is not None and previous is not None:
                stereo = self._stereo(matching, flat_K, flat_T, previous)
            depth_logits, context = self.depth_net(self.neck(maps), flat_K, flat_T, stereo)
        else:
            depth_logits, context = self.depth_net(self.neck(maps), flat_K)
        return Observation(
            context.unflatten(0, (B, C)), depth_logits.float().unflatten(0, (B, C)), matching, Ks, T_ego_cam
        )

    @torch.no_grad()
    def recall(self, past: Sequence[PastMaps]) -> Observation | None:
        """What earlier frames leave for the current one, seen from its ego.

        Without gradient: the losses train the current frame alone, as in BEVDet4D and BEVStereo.

        Args:
            past: the frames before, newest first; what lies beyond ``view.frames_before`` is not looked at.

        Returns:
            None without frames or without ``view.history`` and ``view.stereo``.
        """
        view = self.config.view
        if not past or view.frames_before == 0:
            return None
        if not view.history:
            return self._stereo_only(past[0])
        # The previous frame's own stereo depth looks at the frame before it.
        earlier = self._stereo_only(past[1]) if view.stereo and len(past) > 1 else None
        newest = past[0]
        return self.observe(newest.maps, newest.Ks, newest.T_ego_cam, earlier).seen_from(newest.T_next_this)

    def _matching(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return maps[self.backbone.strides.index(STEREO_STRIDE)]

    def _stereo_only(self, past: PastMaps) -> Observation:
        seen = Observation(None, None, self._matching(past.maps), past.Ks, past.T_ego_cam)
        return seen.seen_from(past.T_next_this)

    def volume(self, now: Observation, previous: Observation | None = None) -> torch.Tensor:
        """The 3D part up to the encoder: lifted volume [B, F', X', Y', Z'], with ``view.history`` 2 F' channels.

        The previous frame's features are lifted straight into the current grid, through the poses of its cameras
        in the current ego: no resampling, and nothing is cut off at the previous volume's border.
        """
        lifted = self._lifted(now)
        if not self.config.view.history:
            return lifted
        if previous is None:
            before = self.no_history.view(1, -1, 1, 1, 1).expand_as(lifted)
        else:
            with torch.no_grad():
                before = self._lifted(previous)
        return torch.cat((lifted, before.to(lifted)), dim=1)

    def lift(
        self,
        maps: list[torch.Tensor],
        Ks: torch.Tensor,
        T_ego_cam: torch.Tensor,
        previous: Observation | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image maps -> what the encoder takes [B, F', X', Y', Z'] and the depth logits [B, C, D, h, w]."""
        now = self.observe(maps, Ks, T_ego_cam, previous)
        return self.volume(now, previous), now.depth_logits

    def _lifted(self, seen: Observation) -> torch.Tensor:
        probability = torch.softmax(seen.depth_logits, dim=2)
        with torch.autocast(seen.Ks.device.type, enabled=False):  # geometry in bfloat16 misses voxels by half a metre
            return self.view(seen.context.float(), probability, seen.Ks, seen.T_ego_cam)

    def _stereo(self, matching, Ks, T_ego_cam, previous: Observation) -> torch.Tensor:
        """Depth evidence [B * C, D, h4, w4]: every camera against itself one frame earlier."""
        if previous.Ks.flatten(0, 1).shape != Ks.shape:
            raise ValueError(
                f"stereo compares each camera with itself one frame earlier: {tuple(Ks.shape[:1])} cameras now, "
                f"{tuple(previous.Ks.flatten(0, 1).shape[:1])} before; give frames of the same cameras"
            )
        # To pixels of the stride-4 maps.
        scale = torch.tensor([1 / STEREO_STRIDE, 1 / STEREO_STRIDE, 1.0], device=Ks.device).view(3, 1)
        both = (Ks * scale, previous.Ks.flatten(0, 1) * scale)
        with torch.autocast(Ks.device.type, enabled=False):
            T_prevcam_curcam = torch.linalg.inv(previous.T_ego_cam.flatten(0, 1)) @ T_ego_cam
            return stereo_distribution(matching, previous.matching, both, T_prevcam_curcam, self.depth_planes_m)

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
        past = []
        with torch.no_grad():
            for T_next_this, before in cameras.chain()[: self.config.view.frames_before]:
                past.append(PastMaps(self.image_features(before.images), before.Ks, before.T_ego_cam, T_next_this))
        maps = self.image_features(cameras.images)
        lifted, _ = self.lift(maps, cameras.Ks, cameras.T_ego_cam, self.recall(past))
        return self.encoder(lifted)

    def opacity_and_logits(self, P: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Opacity before the sigmoid [X, Y, Z] and logits [X, Y, Z, K] of one frame's P: what Eq. 7 reads.

        In chunks, see ``_chunk``.
        """
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        parts = [self.head.opacity_and_logits(chunk) for chunk in rows.split(_chunk(rows))]
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
            chunks = zip(rows.split(_chunk(rows)), self.centers.split(_chunk(rows)), strict=True)
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
        step = _chunk(rows)
        for start in range(0, len(rows), step):
            index, opacity, logits = self.head.occupied(rows[start : start + step], tau)
            index = index + start
            centers = self.centers[index]
            label, sure = Gaussians(centers, centers, opacity, logits).to_occupancy(tau, free)
            labels[index], confidence[index] = label, sure
        return labels.view(self.config.grid.shape), confidence.view(self.config.grid.shape)
