"""Losses (Sec. 3.5, Eq. 10 to 14), each of one frame; ``train`` adds them up with their weights in one place."""

import torch
import torch.nn.functional as F

MIN_ALPHA = 0.01  # a pixel that (almost) nothing covers has no depth to compare
MIN_DEPTH_M = 0.1
_EPSILON = 1e-6


def semantic_loss(
    logits: torch.Tensor, class_id: torch.Tensor, beta: torch.Tensor, alpha: torch.Tensor | None = None
) -> torch.Tensor:
    """Class-balanced cross-entropy (Eq. 12) as a weighted mean.

    Args:
        logits: [M, K] rendered logits.
        class_id: int64 [M]; ids >= K are ignored.
        beta: [K], class balance.
        alpha: [M], weight of a pixel's dynamics in adjacent frames; None in the current frame. It is
            not part of the denominator: there it would cancel itself.
    """
    known = class_id < logits.shape[1]
    if not known.any():
        return logits.sum() * 0
    target = class_id[known]
    weight = beta[target]
    loss = F.cross_entropy(logits[known], target, reduction="none")
    alpha = torch.ones_like(weight) if alpha is None else alpha[known]
    return (alpha * weight * loss).sum() / weight.sum()


def depth_loss(
    depth_m: torch.Tensor,
    target_m: torch.Tensor,
    rendered_alpha: torch.Tensor,
    silog_lambda: float = 0.85,
    alpha: torch.Tensor | None = None,
) -> torch.Tensor:
    """SILog depth loss (Eq. 13; Eigen et al.): sqrt(mean(a d^2) - lambda mean(a d)^2), d = log D - log D'.

    Args:
        depth_m: [M] rendered depth; clamped to at least 0.1 m.
        target_m: [M] z-depth labels.
        rendered_alpha: [M] accumulated opacity; pixels below 0.01 are skipped.
        silog_lambda: 0.85 as RenderOcc; 1 is Eq. 13 as printed, fully scale-invariant.
        alpha: [M] weight of dynamics in adjacent frames, to the first power in both terms.
    """
    covered = rendered_alpha > MIN_ALPHA
    if not covered.any():
        return depth_m.sum() * 0
    d = torch.log(depth_m[covered].clamp(min=MIN_DEPTH_M)) - torch.log(target_m[covered])
    alpha = torch.ones_like(d) if alpha is None else alpha[covered]
    variance = (alpha * d.square()).mean() - silog_lambda * (alpha * d).mean().square()
    return torch.sqrt(variance.clamp(min=0) + _EPSILON)  # epsilon inside: the root's slope is infinite at 0


def depth_net_loss(depth_logits: torch.Tensor, cell: torch.Tensor, target_m: torch.Tensor, edges_m: torch.Tensor):
    """Cross-entropy of the lift's depth distribution at labelled feature cells.

    Args:
        depth_logits: [C, D, h, w].
        cell: int64 [M, 3] = camera, row, column of each label.
        target_m: [M] z-depth.
        edges_m: [D + 1] edges of the depth bins; labels outside are skipped.
    """
    inside = (target_m >= edges_m[0]) & (target_m < edges_m[-1])
    if not inside.any():
        return depth_logits.sum() * 0
    camera, row, column = cell[inside].unbind(1)
    target = torch.searchsorted(edges_m, target_m[inside].contiguous(), right=True) - 1
    return F.cross_entropy(depth_logits[camera, :, row, column], target)


def offset_drift_loss(means: torch.Tensor, centers: torch.Tensor, voxel_size_m: float) -> torch.Tensor:
    """Squared mean offset of all Gaussians, in voxels: nothing in the images forbids the whole lattice
    to slide by one vector, and Eq. 7 then reads the wrong voxels (not in the paper)."""
    if len(means) == 0:
        return means.sum() * 0
    return ((means - centers).mean(dim=0) / voxel_size_m).square().sum()


def transmittance_entropy_loss(rendered_alpha: torch.Tensor) -> torch.Tensor:
    """Mean binary entropy (nats) of what passes through a pixel, as RenderOcc's: rays shall end opaque or empty.

    Args:
        rendered_alpha: [M] accumulated opacity.
    """
    if len(rendered_alpha) == 0:
        return rendered_alpha.sum()
    left = (1 - rendered_alpha).clamp(_EPSILON, 1 - _EPSILON)
    return -(left * torch.log(left) + (1 - left) * torch.log(1 - left)).mean()


def dynamic_weights(class_id: torch.Tensor, dynamic: torch.Tensor, alpha: float) -> torch.Tensor:
    """alpha_s(i) of Eq. 12 and 13: ``alpha`` where a label's class moves, else 1.

    Args:
        class_id: int64 [M], ignored ids >= K count as static.
        dynamic: bool [K].
    """
    known = class_id < len(dynamic)
    moving = known & dynamic[class_id.clamp(max=len(dynamic) - 1)]
    return torch.where(moving, alpha, 1.0)


def voxel_loss(
    opacity_logit: torch.Tensor, logits: torch.Tensor, target: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """Class-balanced negative log-likelihood of voxel labels in the terms of Eq. 7, a weighted mean.

    A head with opacity o and class logits s says of a voxel: p(free) = 1 - o, p(c) = o softmax(s)_c. These K + 1
    numbers sum to 1, Eq. 7 reads both factors, and the class of a free voxel is not asked for.

    Args:
        opacity_logit: [S] before the sigmoid.
        logits: [S, K].
        target: int64 [S], 0 .. K - 1, or K for free.
        beta: [K + 1] class balance, free included.
    """
    if len(target) == 0:
        return opacity_logit.sum() * 0 + logits.sum() * 0
    free = target == logits.shape[1]
    occupancy = F.binary_cross_entropy_with_logits(opacity_logit, (~free).to(opacity_logit), reduction="none")
    semantic = F.cross_entropy(logits, torch.where(free, 0, target), reduction="none")
    weight = beta[target]
    return (weight * (occupancy + torch.where(free, 0.0, semantic))).sum() / weight.sum()
