"""The training objective of one frame (Eq. 14 plus the terms beyond the paper), weights applied in one place."""

from dataclasses import dataclass

import numpy as np
import torch

from gsrender_core.classes import DYNAMIC_IDS, RENDEROCC_DYNAMIC_IDS, balance_weights
from gsrender_core.config import TrainConfig
from gsrender_core.gaussians import Gaussians
from gsrender_core.geometry import inverse
from gsrender_core.losses import (
    depth_loss,
    depth_net_loss,
    dynamic_weights,
    offset_drift_loss,
    semantic_loss,
)
from gsrender_core.model.gsrender import GSRender
from gsrender_core.ray_compensation import compensate_features, compensate_gaussians, without
from gsrender_core.ray_supervision import flat_index, neighbourhood, prior_targets, ray_loss, ray_targets
from gsrender_core.render import Cameras, Pixels, render_pixels
from gsrender_core.training_frames import FrameLabels, TrainingFrames

RAY_FRAMES = 2  # adjacent frames whose labels a step's direct ray supervision reads


@dataclass
class Adjacent:
    """An adjacent frame: its labels and ``T_curr_adj`` float32 [4, 4]."""

    labels: FrameLabels
    T_curr_adj: torch.Tensor


@dataclass
class View:
    """What is rendered of a frame: label indices, its cameras, and the voxels whose Gaussians can be seen."""

    labels: FrameLabels
    index: torch.Tensor
    cameras: Cameras
    voxels: torch.Tensor


class Objective:
    """Computes all loss terms of one frame."""

    def __init__(self, config: TrainConfig, model: GSRender, frames: TrainingFrames):
        self.config, self.model, self.frames = config, model, frames
        device = frames.device
        self.beta = torch.from_numpy(balance_weights()).to(device)
        self.dynamic = torch.zeros(config.model.num_classes, dtype=torch.bool, device=device)
        self.dynamic[list(RENDEROCC_DYNAMIC_IDS if config.loss.renderocc_dynamic else DYNAMIC_IDS)] = True
        grid = config.model.grid
        centred = all(abs(lo + hi) < 1e-6 for lo, hi in zip(grid.min_m[:2], grid.max_m[:2], strict=True))
        if config.bev_flip and not centred:
            raise ValueError(
                f"train.bev_flip mirrors the volume at the ego axes: {grid} is not centred; set it to false"
            )

    def __call__(self, i: int, render: bool = True) -> dict[str, torch.Tensor]:
        """Loss terms of frame i, each already weighted; their sum is what is minimised.

        ``render=False`` leaves out the rendered terms, the most expensive ones.

        Names starting with ``_`` are for the log only (detached, not part of the sum).
        """
        c, w = self.config, self.config.loss
        maps, labels = self.frames.maps(i), self.frames.labels(i)
        with torch.autocast(self.frames.device.type, torch.bfloat16, enabled=c.bf16):
            lifted, depth_logits = self.model.lift(maps, labels.Ks[None], labels.T_ego_cam[None])
            mirror = self._mirror()
            axes = [axis + 2 for axis in (0, 1) if mirror[axis, axis] < 0]
            P = self.model.encoder(lifted.flip(axes) if axes else lifted).squeeze(0).float()
        terms = {"depth_net": w.depth_net * self._depth_net(depth_logits[0], labels)}
        current = Adjacent(labels, torch.eye(4, device=P.device))
        # The view of everything below is mirrored with the volume: T_curr' = S T_curr S for frames, S T for cameras.
        if w.ray > 0:
            others = self._adjacent_frames(i, c.ray_adjacent, RAY_FRAMES, labels)
            opacity, semantic, prior = self._rays(P, [current, *others], mirror)
            terms["ray_opacity"], terms["ray_semantic"] = w.ray * opacity, w.ray * semantic
            terms["free_prior"] = w.ray * prior
        if render and (w.semantic > 0 or w.depth > 0):
            view = self._view(current, mirror)
            gaussians = self.model.gaussians(P, view.voxels)
            centers = self.model.centers[view.voxels]
            terms["drift"] = w.offset_drift * offset_drift_loss(gaussians.means, centers, c.model.grid.voxel_size_m)
            terms |= self._rendered("", gaussians, view, None)
            # At a scene's end without such a frame the term is skipped, never made up.
            for adjacent in self._adjacent_frames(i, c.adjacent, 1, labels) if c.compensation != "none" else []:
                view = self._view(adjacent, mirror)
                seen = self._compensated(P, view.voxels, mirror @ adjacent.T_curr_adj @ mirror)
                terms |= self._rendered("adj_", seen, view, w.alpha)
            with torch.no_grad():
                offset = (gaussians.means - centers) / c.model.grid.voxel_size_m
                terms["_offset_mean"] = offset.mean(0).norm()
                terms["_offset_spread"] = offset.std(0).norm()
                terms["_opacity_over_half"] = (gaussians.opacities > 0.5).float().mean()
        return terms

    def _mirror(self) -> torch.Tensor:
        """Random reflection of x and y [4, 4]; reflections are their own inverse."""
        S = torch.eye(4, device=self.frames.device)
        if self.config.bev_flip:
            S[0, 0], S[1, 1] = (1 - 2 * torch.randint(0, 2, (2,))).tolist()
        return S

    def _adjacent_frames(self, i: int, ks: tuple[int, ...], count: int, labels: FrameLabels) -> list[Adjacent]:
        """At most ``count`` of the frames i + k that exist, at random."""
        existing = [j for k in ks if (j := self.frames.dataset.adjacent(i, k)) is not None]
        chosen = [existing[n] for n in torch.randperm(len(existing))[:count].tolist()]
        result = []
        for j in chosen:
            other = self.frames.labels(j)
            T = inverse(labels.T_global_ego) @ other.T_global_ego
            result.append(Adjacent(other, torch.from_numpy(T.astype(np.float32)).to(self.frames.device)))
        return result

    def _depth_net(self, depth_logits: torch.Tensor, labels: FrameLabels) -> torch.Tensor:
        index = labels.sample(self.config.rays)
        column, row = (labels.uv[index] / self.config.model.view.stride).long().unbind(1)
        cell = torch.stack((labels.camera[index], row, column), dim=1)
        return depth_net_loss(depth_logits, cell, labels.depth_m[index], self.model.depth_edges_m)

    def _rays(self, P, frames: list[Adjacent], mirror) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Direct ray supervision from the labels of several frames, looked up in the current volume.

        Opacity, class and free-prior losses, each a mean.
        """
        c, grid = self.config, self.config.model.grid
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        placed, blocked = [], torch.zeros(grid.size, dtype=torch.bool, device=P.device)
        for number, frame in enumerate(frames):
            T = mirror @ frame.T_curr_adj
            everything = torch.arange(len(frame.labels.camera), device=P.device)
            points, origins = frame.labels.points_and_origins(everything)
            points, origins = points @ T[:3, :3].T + T[:3, 3], origins @ T[:3, :3].T + T[:3, 3]
            voxel, inside = flat_index(points, grid)
            blocked[voxel[inside]] = True
            index = frame.labels.sample(c.rays)
            class_id = frame.labels.class_id[index]
            weight = torch.ones(len(index), device=P.device)
            if number > 0:
                weight = dynamic_weights(class_id, self.dynamic, c.loss.alpha)
            else:
                moving = inside & (dynamic_weights(frame.labels.class_id, self.dynamic, 0.0) == 0)
                around_moving = neighbourhood(voxel[moving], grid)
            placed.append((points[index], origins[index], class_id, weight))
        # What stands here now may have left by the adjacent frame: its rays must not call it free.
        masks = [blocked] + [blocked | around_moving] * (len(placed) - 1)
        targets = [ray_targets(*part, mask, grid) for part, mask in zip(placed, masks, strict=True)]
        targets.append(prior_targets(blocked, c.rays, c.loss.free_prior))
        # One look-up for all frames: the gradient of a look-up is as large as the volume.
        features = rows.index_select(0, torch.cat([t.voxel for t in targets]))
        opacity, logits = self.model.head.opacity_and_logits(features)
        sizes = [len(t.voxel) for t in targets]
        parts = [
            ray_loss(o, s, t, self.beta, c.loss.object_weight)
            for o, s, t in zip(opacity.split(sizes), logits.split(sizes), targets, strict=True)
        ]
        opacity_losses, semantic_losses = zip(*parts, strict=True)
        return torch.stack(opacity_losses[:-1]).mean(), torch.stack(semantic_losses[:-1]).mean(), opacity_losses[-1]

    def _view(self, frame: Adjacent, mirror: torch.Tensor) -> View:
        """Draw the cameras and labelled pixels of a frame that this step renders, and the voxels they can see."""
        c, labels = self.config, frame.labels
        count = len(labels.Ks)
        chosen = torch.ones(count, dtype=torch.bool, device=labels.Ks.device)
        if 0 < c.render_cameras < count:
            chosen[torch.randperm(count)[c.render_cameras :]] = False
        index = labels.sample(c.pixels, chosen[labels.camera])
        viewmats = torch.linalg.inv(labels.T_ego_cam) @ mirror
        width, height = c.model.image_size
        visible = torch.zeros(len(self.model.centers), dtype=torch.bool, device=viewmats.device)
        for camera in torch.nonzero(chosen).squeeze(1).tolist():
            x, y, z = (self.model.centers @ viewmats[camera, :3, :3].T + viewmats[camera, :3, 3]).unbind(1)
            K, reach = labels.Ks[camera], c.model.head.max_offset_m + 3 * c.model.head.max_scale_m
            # A voxel counts where its Gaussian may reach into the image, wherever its mean and scale end up.
            ahead = z + reach > 0
            z = z.clamp(min=0.1)
            in_u = (x * K[0, 0] > -(K[0, 2] * z + reach * K[0, 0])) & (
                x * K[0, 0] < (width - K[0, 2]) * z + reach * K[0, 0]
            )
            in_v = (y * K[1, 1] > -(K[1, 2] * z + reach * K[1, 1])) & (
                y * K[1, 1] < (height - K[1, 2]) * z + reach * K[1, 1]
            )
            visible |= ahead & in_u & in_v
        return View(labels, index, Cameras(viewmats, labels.Ks, width, height), torch.nonzero(visible).squeeze(1))

    def _compensated(self, P, voxels: torch.Tensor, T_curr_adj) -> Gaussians:
        """The adjacent frame's Gaussians at the given voxels of its grid, from the current features."""
        if self.config.compensation == "logits":
            return compensate_gaussians(self.model.gaussians(P), T_curr_adj)
        centers = self.model.centers[voxels]
        sampled, inside = compensate_features(P, centers, T_curr_adj, self.config.model.grid)
        return without(self.model.head(sampled, centers), inside)

    def _rendered(self, prefix: str, gaussians: Gaussians, view: View, alpha: float | None) -> dict:
        """Eq. 10 (current) or 11 (adjacent, with alpha) at a sample of the frame's labelled pixels."""
        c, w, labels, index = self.config, self.config.loss, view.labels, view.index
        rendered = render_pixels(gaussians, view.cameras, Pixels(labels.camera[index], labels.uv[index]))
        class_id, target = labels.class_id[index], labels.depth_m[index]
        weights = None if alpha is None else dynamic_weights(class_id, self.dynamic, alpha)
        omega = 1.0 if alpha is None else w.omega
        with torch.no_grad():
            covered = rendered.alpha > 0.01
            relative = (rendered.depth - target).abs() / target
            right = rendered.logits.argmax(1) == class_id
        return {
            f"{prefix}semantic": omega * w.semantic * semantic_loss(rendered.logits, class_id, self.beta, weights),
            f"{prefix}depth": omega
            * w.depth
            * depth_loss(rendered.depth, target, rendered.alpha, w.silog_lambda, weights),
            f"_{prefix}depth_error": relative[covered].median() if covered.any() else torch.tensor(float("nan")),
            f"_{prefix}accuracy": right[class_id < c.model.num_classes].float().mean(),
        }
