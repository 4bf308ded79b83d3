"""Direct ray supervision (beyond the paper): free before a LiDAR label, occupied with its class at it.

Rendering alone is content with fog: many faint Gaussians whose blend has the right depth. The same
projected points also say something about single voxels along their camera ray, with no rendering in
between, which reaches opacities that the rasteriser culls (cf. QueryOcc).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gsrender_core.classes import FLAT_IDS
from gsrender_core.voxel_grid import VoxelGrid

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


def flat_index(points: torch.Tensor, grid: VoxelGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat voxel index int64 [...] of ego points [..., 3] (m), and which lie inside the grid."""
    index = torch.floor((points - torch.tensor(grid.min_m, device=points.device)) / grid.voxel_size_m).long()
    shape = torch.tensor(grid.shape, device=points.device)
    inside = ((index >= 0) & (index < shape)).all(-1)
    index = torch.minimum(index.clamp(min=0), shape - 1)
    return (index[..., 0] * grid.shape[1] + index[..., 1]) * grid.shape[2] + index[..., 2], inside


def neighbourhood(voxels: torch.Tensor, grid: VoxelGrid) -> torch.Tensor:
    """Mask bool [X * Y * Z] of the given voxels (flat indices) and all 26 around each."""
    mask = torch.zeros(grid.size, device=voxels.device)
    mask[voxels] = 1.0
    return F.max_pool3d(mask.view(1, 1, *grid.shape), 3, 1, 1).view(-1) > 0


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
    entropy = F.binary_cross_entropy_with_logits(opacity_logit, targets.occupied.float(), reduction="none")
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
