"""The training objective of one frame (Eq. 14 plus the terms beyond the paper), weights applied in one place."""

import logging

import numpy as np
import torch

from gsrender_core.classes import DYNAMIC_IDS, RENDEROCC_DYNAMIC_IDS, balance_weights
from gsrender_core.config import TrainConfig
from gsrender_core.data.augment import augmented_pixels
from gsrender_core.geometry import inverse
from gsrender_core.losses import (
    MIN_ALPHA,
    depth_loss,
    depth_net_loss,
    dynamic_weights,
    semantic_loss,
    transmittance_entropy_loss,
)
from gsrender_core.marching import march_view
from gsrender_core.model.gsrender import GSRender
from gsrender_core.ray_supervision import RaySupervision
from gsrender_core.splatting import Seen, splat_view
from gsrender_core.training_frames import FrameLabels, TrainingFrames
from gsrender_core.views import Adjacent, View, draw_view, inside_volume
from gsrender_core.voxel_supervision import VoxelSupervision

logger = logging.getLogger(__name__)

RAY_FRAMES = 2  # adjacent frames whose labels a step's direct ray supervision reads


class Objective:
    """Computes all loss terms of one frame."""

    def __init__(self, config: TrainConfig, model: GSRender, frames: TrainingFrames):
        self.config, self.model, self.frames = config, model, frames
        self._named_unlabelled = False
        device = frames.device
        self.beta = torch.from_numpy(balance_weights()).to(device)
        self.dynamic = torch.zeros(config.model.num_classes, dtype=torch.bool, device=device)
        self.dynamic[list(RENDEROCC_DYNAMIC_IDS if config.loss.renderocc_dynamic else DYNAMIC_IDS)] = True
        self.rays = RaySupervision(config, model.head, self.beta, self.dynamic)
        self.voxels = VoxelSupervision(config, model.head, frames.dataset, device)
        grid = config.model.grid
        centred = all(abs(lo + hi) < 1e-6 for lo, hi in zip(grid.min_m[:2], grid.max_m[:2], strict=True))
        if config.bev_flip and not centred:
            raise ValueError(
                f"train.bev_flip mirrors the volume at the ego axes: {grid} is not centred; set it to false"
            )

    def __call__(self, i: int, render: bool = True) -> dict[str, torch.Tensor]:
        """Loss terms of frame i, each already weighted; their sum is what is minimised.

        ``render=False`` leaves out the rendered terms, the most expensive ones. A network whose features or head are
        not finite has one term, ``network``, which is not finite either.

        Names starting with ``_`` are for the log only (detached, not part of the sum).
        """
        c, w = self.config, self.config.loss
        network, labels = self.frames.seen(i, c.augment), self.frames.labels(i)
        with torch.autocast(self.frames.device.type, torch.bfloat16, enabled=c.bf16):
            before = self.model.recall(self.frames.past(i, network.A))
            lifted, depth_logits = self.model.lift(network.maps, network.Ks[None], labels.T_ego_cam[None], before)
            mirror = self._mirror()
            axes = [axis + 2 for axis in (0, 1) if mirror[axis, axis] < 0]
            P = self.model.encoder(lifted.flip(axes) if axes else lifted).squeeze(0).float()
        if not torch.isfinite(health := P.sum() + sum(p.sum() for p in self.model.head.parameters())):
            return {"network": health}  # not the frame's fault, as an error of the renderer below would look
        terms = {"depth_net": w.depth_net * self._depth_net(depth_logits[0], labels, network.A)}
        current = Adjacent(labels, torch.eye(4, device=P.device))
        # The view of everything below is mirrored with the volume: T_curr' = S T_curr S for frames, S T for cameras.
        if w.ray > 0:
            others = self._adjacent_frames(i, c.ray_adjacent, RAY_FRAMES, labels)
            opacity, semantic, prior = self.rays(P, [current, *others], mirror)
            terms["ray_opacity"], terms["ray_semantic"] = w.ray * opacity, w.ray * semantic
            terms["free_prior"] = w.ray * prior
        if w.voxel > 0 and (voxel := self.voxels(i, P, [axis - 2 for axis in axes])) is not None:
            terms["voxel"] = w.voxel * voxel
        if render and max(w.semantic, w.depth) > 0:
            view = draw_view(labels, c, mirror, self._allowed(current))
            if self._has_labels(view, i):
                terms |= self._rendered("", self._see(P, view, None), view, None)
            if c.compensation != "none":
                terms |= self._adjacent_terms(i, P, mirror)
        return terms

    def _adjacent_terms(self, i: int, P: torch.Tensor, mirror: torch.Tensor) -> dict[str, torch.Tensor]:
        """The sum over k of Eq. 14, not divided by their number: k frames weigh k times as much as one.

        At a scene's end without such a frame its term is skipped, never made up. Figures for the log are means.
        """
        c, parts = self.config, {}
        chosen = self._adjacent_frames(i, c.adjacent, c.adjacent_per_step or len(c.adjacent), self.frames.labels(i))
        for adjacent in chosen:
            view = draw_view(adjacent.labels, c, mirror, self._allowed(adjacent))
            if not self._has_labels(view, i, "seen from an adjacent frame, "):
                continue
            seen = self._see(P, view, mirror @ adjacent.T_curr_adj @ mirror)
            for name, value in self._rendered("adj_", seen, view, c.loss.alpha).items():
                parts.setdefault(name, []).append(value)
        return {n: torch.stack(v).mean() if n.startswith("_") else torch.stack(v).sum() for n, v in parts.items()}

    def _allowed(self, frame: Adjacent) -> torch.Tensor | None:
        """Labels of a frame that are rendered; None: all."""
        return None if self.config.render_outside else inside_volume(frame, self.config.model.grid)

    def _has_labels(self, view: View, i: int, where: str = "") -> bool:
        """Whether anything of a view can be supervised; a loss of 0 for want of labels would look like success."""
        if len(view.index) == 0 and not self._named_unlabelled:
            logger.warning(
                "frame %d: %snone of %d labels lies in the volume: rendered losses are left out there and of all such "
                "frames", i, where, len(view.labels.camera),
            )  # fmt: skip
            self._named_unlabelled = True
        return len(view.index) > 0

    def _mirror(self) -> torch.Tensor:
        """Random reflection of x and y [4, 4]; reflections are their own inverse."""
        S = torch.eye(4, device=self.frames.device)
        if self.config.bev_flip:
            S[0, 0], S[1, 1] = (1 - 2 * torch.randint(0, 2, (2,))).tolist()
        return S

    def _adjacent_frames(self, i: int, ks: tuple[int, ...], count: int, labels: FrameLabels) -> list[Adjacent]:
        """At most ``count`` of the frames i + k that exist, at random.

        Raises:
            ValueError: one of them belongs to another scene, whose poses mean nothing here.
        """
        existing = [j for k in ks if (j := self.frames.dataset.adjacent(i, k)) is not None]
        chosen = [existing[n] for n in torch.randperm(len(existing))[:count].tolist()]
        result = []
        for j in chosen:
            other = self.frames.labels(j)
            if other.scene != labels.scene:
                raise ValueError(
                    f"frame {j} is given as adjacent to frame {i}, but belongs to scene {other.scene!r}, not to "
                    f"{labels.scene!r}; adjacent() of the data set must stay within a scene"
                )
            T = inverse(labels.T_global_ego) @ other.T_global_ego
            result.append(Adjacent(other, torch.from_numpy(T.astype(np.float32)).to(self.frames.device)))
        return result

    def _depth_net(self, depth_logits: torch.Tensor, labels: FrameLabels, A: torch.Tensor | None) -> torch.Tensor:
        """Cross-entropy at sampled labels, read in the images that the network saw (moved by ``A`` where not None)."""
        index = labels.sample(self.config.rays)
        uv = labels.uv[index]
        if A is not None:
            uv = augmented_pixels(uv, A[labels.camera[index]])
            inside = ((uv >= 0) & (uv < uv.new_tensor(self.config.model.image_size))).all(1)
            index, uv = index[inside], uv[inside]
        column, row = (uv / self.config.model.view.stride).long().unbind(1)
        cell = torch.stack((labels.camera[index], row, column), dim=1)
        return depth_net_loss(depth_logits, cell, labels.depth_m[index], self.model.depth_edges_m)

    def _see(self, P: torch.Tensor, view: View, T_curr_view: torch.Tensor | None) -> Seen:
        """Render a view of the current (None) or an adjacent frame from P, whatever the head."""
        see = march_view if self.config.model.head.kind == "nerf" else splat_view
        seen, w = see(self.model, self.config, P, view, T_curr_view), self.config.loss
        if w.transmittance_entropy > 0:
            name, omega = ("entropy", 1.0) if T_curr_view is None else ("adj_entropy", w.omega)
            entropy = transmittance_entropy_loss(seen.rendered.alpha)
            seen.terms[name] = omega * w.transmittance_entropy * entropy
        return seen

    def _rendered(self, prefix: str, seen: Seen, view: View, alpha: float | None) -> dict:
        """Eq. 10 (current) or 11 (adjacent, with alpha) at a sample of the frame's labelled pixels."""
        c, w, labels, index = self.config, self.config.loss, view.labels, view.index
        logits, depth, opaque = seen.rendered.logits, seen.rendered.depth, seen.rendered.alpha
        class_id, target = labels.class_id[index], labels.depth_m[index]
        weights = None if alpha is None else dynamic_weights(class_id, self.dynamic, alpha)
        omega = 1.0 if alpha is None else w.omega
        terms = dict(seen.terms)
        terms[f"{prefix}semantic"] = omega * w.semantic * semantic_loss(logits, class_id, self.beta, weights)
        terms[f"{prefix}depth"] = omega * w.depth * depth_loss(depth, target, opaque, w.silog_lambda, weights)
        log = dict(seen.log)
        with torch.no_grad():
            known, covered = class_id < c.model.num_classes, opaque > MIN_ALPHA
            log["alpha"] = opaque.mean()
            if covered.any():
                log["depth_error"] = ((depth - target).abs() / target)[covered].median()
            if known.any():
                log["accuracy"] = (logits.argmax(1) == class_id)[known].float().mean()
        return terms | {f"_{prefix}{name}": value for name, value in log.items()}
