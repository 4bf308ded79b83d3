"""Rendering of a view by the Gaussian head: which Gaussians it needs, and what they look like."""

from dataclasses import dataclass, field

import torch

from gsrender_core.config import TrainConfig
from gsrender_core.gaussians import Gaussians
from gsrender_core.losses import offset_drift_loss
from gsrender_core.model.gsrender import GSRender
from gsrender_core.ray_compensation import compensate_features, compensate_gaussians
from gsrender_core.render import Rendered, render_pixels
from gsrender_core.views import View
from gsrender_core.visibility import visible_voxels

QUANTILES_OF = 1 << 14  # opacities, for the log


@dataclass
class Seen:
    """What a head shows of a view.

    ``rendered``: values at the view's pixels, in their order. ``terms``: losses that only this head has, weighted.
    ``log``: detached figures about the head's output.
    """

    rendered: Rendered
    terms: dict[str, torch.Tensor] = field(default_factory=dict)
    log: dict[str, torch.Tensor] = field(default_factory=dict)


def splat_view(
    model: GSRender, config: TrainConfig, P: torch.Tensor, view: View, T_curr_view: torch.Tensor | None
) -> Seen:
    """Splat the Gaussians of voxel features into a view's pixels.

    Voxels of an adjacent frame's grid that lie outside the current volume have no Gaussian: the head of a
    zero feature is a constant, not empty.

    Args:
        model: whose head makes the Gaussians.
        config: what is compensated how, what is pruned, and the weight of the drift loss.
        P: [F, X, Y, Z], voxel features of the current frame.
        view: of the current or an adjacent frame.
        T_curr_view: [4, 4] adjacent ego -> current ego: Ray Compensation; None in the current frame.
    """
    if T_curr_view is not None and config.compensation == "logits":
        everything = model.gaussians(P)
        opacity = everything.opacities.detach()
        gaussians = compensate_gaussians(everything.select(kept_gaussians(opacity, config)), T_curr_view)
        return Seen(render_pixels(gaussians, view.cameras, view.pixels), log=_opacity_statistics(opacity, gaussians))

    def features(voxels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if T_curr_view is None:
            rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
            wanted = rows if len(voxels) == len(rows) else rows.index_select(0, voxels)  # all: no copy of P
            return wanted, torch.ones_like(voxels, dtype=torch.bool)
        return compensate_features(P, model.centers[voxels], T_curr_view, config.model.grid)

    voxels = visible_voxels(model.centers, view, config.model.head.max_offset_m + 3 * config.model.head.max_scale_m)
    if config.prune_opacity > 0:
        # Looked up twice: once without a gradient to see what matters, then only that.
        with torch.no_grad():
            candidates, inside = features(voxels)
            voxels, candidates = voxels[inside], candidates[inside]
            opacity = torch.sigmoid(model.head.opacity(candidates))
            voxels = voxels[kept_gaussians(opacity, config)]
        kept, _ = features(voxels)
        centers = model.centers[voxels]
        gaussians = model.head(kept, centers)
    else:
        rows, inside = features(voxels)
        if T_curr_view is not None:
            voxels, rows = voxels[inside], rows[inside]
        centers = model.centers[voxels]
        gaussians = model.head(rows, centers)
        opacity = gaussians.opacities.detach()
    voxel_m = config.model.grid.voxel_size_m
    seen = Seen(render_pixels(gaussians, view.cameras, view.pixels))
    if T_curr_view is None:
        seen.terms["drift"] = config.loss.offset_drift * offset_drift_loss(gaussians.means, centers, voxel_m)
    seen.log = _opacity_statistics(opacity, gaussians) | _offset_statistics(gaussians.means, centers, voxel_m)
    return seen


def kept_gaussians(opacity: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Which Gaussians are rasterised: indices int64 [M] of opacities [N] (detached).

    Those of ``prune_opacity`` or more, and of the others a share of ``prune_keep``, drawn anew in every call.
    Without that share a Gaussian that falls below the limit would be dead: what is not rasterised has no
    gradient from the images, and with ``loss.ray`` 0 (the paper's setting) none at all. With it, every
    Gaussian sees its gradient once in 1 / prune_keep steps, so one that the images ask for comes back.
    """
    if config.prune_opacity == 0:
        return torch.arange(len(opacity), device=opacity.device)
    keep = opacity >= config.prune_opacity
    if config.prune_keep > 0:
        keep |= torch.rand_like(opacity) < config.prune_keep
    return torch.nonzero(keep).squeeze(1)


def _opacity_statistics(opacity: torch.Tensor, rasterised: Gaussians) -> dict[str, torch.Tensor]:
    """10, 50 and 90 % quantiles of the candidates' opacities [N], share above 0.5, and how many are rasterised.

    Of more than 16,384 candidates, quantiles are those of every n-th: of all they took a quarter of a step's time on an
    H200.
    """
    if len(opacity) == 0:
        return {}
    some = opacity[:: len(opacity) // QUANTILES_OF | 1]  # odd: else all would have the same height
    log = {
        f"opacity_{percent}": some.kthvalue(max(1, round(percent / 100 * len(some)))).values for percent in (10, 50, 90)
    }
    log["opacity_over_half"] = (opacity > 0.5).float().mean()
    log["rendered_share"] = torch.tensor(len(rasterised) / len(opacity))
    return log


@torch.no_grad()
def _offset_statistics(means: torch.Tensor, centers: torch.Tensor, voxel_m: float) -> dict[str, torch.Tensor]:
    """Mean and spread of the offsets in voxels, and the share of Gaussians that left their own voxel."""
    if len(means) == 0:
        return {}
    offset = (means - centers) / voxel_m
    return {
        "offset_mean": offset.mean(0).norm(),
        "offset_spread": offset.std(0, unbiased=False).norm(),
        "offset_over_half": (offset.abs() > 0.5).any(1).float().mean(),
    }
