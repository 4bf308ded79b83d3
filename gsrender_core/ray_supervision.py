"""Direct ray supervision (beyond the paper): free before a LiDAR label, occupied with its class at it.

Rendering alone is content with fog: many faint Gaussians whose blend has the right depth. The same
projected points also say something about single voxels along their camera ray, with no rendering in
between, which reaches opacities that the rasteriser culls (cf. QueryOcc).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from gsrender_core.classes import FLAT_IDS
from gsrender_core.config import TrainConfig
from gsrender_core.losses import dynamic_weights
from gsrender_core.views import Adjacent
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.voxel_index import flat_index

FREE_SAMPLES = 5  # a ray; with one hit each, about the share of observed voxels that are occupied
MARGIN_M = 0.5  # the last free sample stays this far in front of the surface: more than a voxel's half diagonal


@dataclass
class RayTargets:
    """Voxels of the current grid with a statement about each.

    ``voxel`` int64 [S] flat index, ``occupied`` bool [S], ``class_id`` int64 [S] (ignored ids for free
    samples), ``weight`` float [S].
    """

    voxel: torch.Tensor
    occupied: torch.Tensor
    class_id: torch.Tensor
    weight: torch.Tensor


def neighbourhood(voxels: torch.Tensor, grid: VoxelGrid) -> torch.Tensor:
    """Mask bool [X * Y * Z] of the given voxels (flat indices) and all 26 around each."""
    mask = torch.zeros(grid.shape, dtype=torch.bool, device=voxels.device)
    mask.view(-1)[voxels] = True
    for axis, size in enumerate(grid.shape):  # a cube's neighbourhood is that of a line, along each axis in turn
        before = mask.clone()
        mask.narrow(axis, 1, size - 1).logical_or_(before.narrow(axis, 0, size - 1))
        mask.narrow(axis, 0, size - 1).logical_or_(before.narrow(axis, 1, size - 1))
    return mask.view(-1)


def ray_targets(
    hits: torch.Tensor,
    origins: torch.Tensor,
    class_id: torch.Tensor,
    weight: torch.Tensor,
    blocked: torch.Tensor,
    grid: VoxelGrid,
) -> RayTargets:
    """Sample statements along M camera rays, all in the current ego frame.

    Args:
        hits: [M, 3] labelled points, metres.
        origins: [M, 3] their cameras' positions.
        class_id: int64 [M].
        weight: [M] weight of the hit.
        blocked: bool [voxels], voxels that hold any LiDAR point: never called free, whatever ray
            grazes them.
        grid: the volume; samples outside are dropped.
    """
    along = hits - origins
    distance = along.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    reach = (distance - MARGIN_M).clamp(min=0)
    t = torch.rand(len(hits), FREE_SAMPLES, device=hits.device)
    # The last two samples look at the 4 m in front of the surface, where fog settles.
    near = t[:, -2:] * torch.minimum(reach, torch.full_like(reach, 4.0))
    t = torch.cat((t[:, :-2] * reach, reach - near), dim=1)
    samples = origins[:, None] + (along / distance)[:, None] * t[..., None]
    free_voxel, free_inside = flat_index(samples.reshape(-1, 3), grid)
    free_inside &= (reach.expand(-1, FREE_SAMPLES).reshape(-1) > 0) & ~blocked[free_voxel]
    hit_voxel, hit_inside = flat_index(hits, grid)
    free_voxel = free_voxel[free_inside]
    hit_voxel = hit_voxel[hit_inside]
    return RayTargets(
        torch.cat((hit_voxel, free_voxel)),
        torch.arange(len(hit_voxel) + len(free_voxel), device=hits.device) < len(hit_voxel),
        torch.cat((class_id[hit_inside], torch.full_like(free_voxel, 255))),
        torch.cat((weight[hit_inside], torch.ones(len(free_voxel), device=hits.device))),
    )


def prior_targets(blocked: torch.Tensor, count: int, weight: float) -> RayTargets:
    """Voxels drawn at random that hold no LiDAR point, called free with a low weight.

    The sky above the road returns nothing and is crossed by no labelled ray: without a word about it
    the network fills it at will. The weight is low enough for rays to overrule it.
    """
    voxel = torch.randint(len(blocked), (count,), device=blocked.device)
    voxel = voxel[~blocked[voxel]]
    return RayTargets(
        voxel,
        torch.zeros(len(voxel), dtype=torch.bool, device=voxel.device),
        torch.full_like(voxel, 255),
        torch.full((len(voxel),), weight, device=voxel.device),
    )


def ray_loss(
    opacity_logit: torch.Tensor,
    logits: torch.Tensor,
    targets: RayTargets,
    beta: torch.Tensor,
    object_weight: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy of the opacity over all samples, and class cross-entropy at the hits.

    Args:
        opacity_logit: [S] before the sigmoid.
        logits: [S, K].
        targets: S statements.
        beta: [K] class balance.
        object_weight: of the opacity at hits that are not flat ground. Where the ground is, the rig
            tells; how far a wall or a car is, the image has to tell, and a surface that may be in any
            of five voxels deserves none of them more than a fifth. The weight lifts such
            surfaces to where one tau of Eq. 7 suits them and the ground.
    """
    if len(targets.voxel) == 0:
        return opacity_logit.sum() * 0, logits.sum() * 0
    entropy = F.binary_cross_entropy_with_logits(opacity_logit, targets.occupied.to(opacity_logit), reduction="none")
    known = targets.class_id < logits.shape[1]
    objects = known.clone()  # hits without a class may be road: they keep their weight
    for ground in FLAT_IDS:
        objects &= targets.class_id != ground
    opacity = (entropy * torch.where(objects, object_weight * targets.weight, targets.weight)).mean()
    if not known.any():
        return opacity, logits.sum() * 0
    target = targets.class_id[known]
    semantic = F.cross_entropy(logits[known], target, reduction="none")
    return opacity, (semantic * targets.weight[known] * beta[target]).sum() / beta[target].sum()


class RaySupervision:
    """Direct ray supervision from the labels of several frames, looked up in the current volume.

    Args:
        config: ``rays``, the loss weights and the grid.
        head: gives opacity and logits of rows of features.
        beta: [K] class balance.
        dynamic: bool [K], classes that move.
    """

    def __init__(self, config: TrainConfig, head: nn.Module, beta: torch.Tensor, dynamic: torch.Tensor):
        self.config, self.head, self.beta, self.dynamic = config, head, beta, dynamic

    def __call__(
        self, P: torch.Tensor, frames: list[Adjacent], mirror: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Opacity, class and free-prior losses, each a mean.

        Args:
            P: [F, X, Y, Z], voxel features, mirrored.
            frames: the current frame first.
            mirror: [4, 4] reflection of the volume.
        """
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        targets = self._targets(frames, mirror)
        # One look-up for all frames: the gradient of a look-up is as large as the volume.
        features = rows.index_select(0, torch.cat([t.voxel for t in targets]))
        opacity, logits = self.head.opacity_and_logits(features)
        sizes = [len(t.voxel) for t in targets]
        parts = [
            ray_loss(o, s, t, self.beta, self.config.loss.object_weight)
            for o, s, t in zip(opacity.split(sizes), logits.split(sizes), targets, strict=True)
        ]
        opacity_losses, semantic_losses = zip(*parts, strict=True)
        return torch.stack(opacity_losses[:-1]).mean(), torch.stack(semantic_losses[:-1]).mean(), opacity_losses[-1]

    def _targets(self, frames: list[Adjacent], mirror: torch.Tensor) -> list[RayTargets]:
        """Statements of every frame, and the free prior's at the end."""
        c, grid, device = self.config, self.config.model.grid, mirror.device
        placed, blocked = [], torch.zeros(grid.size, dtype=torch.bool, device=device)
        for number, frame in enumerate(frames):
            T = mirror @ frame.T_curr_adj
            everything = torch.arange(len(frame.labels.camera), device=device)
            points, origins = frame.labels.points_and_origins(everything)
            points, origins = points @ T[:3, :3].T + T[:3, 3], origins @ T[:3, :3].T + T[:3, 3]
            voxel, inside = flat_index(points, grid)
            blocked[voxel[inside]] = True
            index = frame.labels.sample(c.rays)
            class_id = frame.labels.class_id[index]
            weight = torch.ones(len(index), device=device)
            if number > 0:
                weight = dynamic_weights(class_id, self.dynamic, c.loss.alpha)
            else:
                moving = inside & (dynamic_weights(frame.labels.class_id, self.dynamic, 0.0) == 0)
                around_moving = neighbourhood(voxel[moving], grid)
            placed.append((points[index], origins[index], class_id, weight))
        # What stands here now may have left by the adjacent frame: its rays must not call it free.
        masks = [blocked] + [blocked | around_moving] * (len(placed) - 1)
        targets = [ray_targets(*part, mask, grid) for part, mask in zip(placed, masks, strict=True)]
        return [*targets, prior_targets(blocked, c.rays, c.loss.free_prior)]
