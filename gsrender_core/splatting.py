"""Rendering of a view by the Gaussian head: which Gaussians it needs, and what they look like."""

from dataclasses import dataclass, field

import torch

from gsrender_core.config import TrainConfig
from gsrender_core.gaussians import Gaussians
from gsrender_core.losses import offset_drift_loss
from gsrender_core.model.gsrender import GSRender
from gsrender_core.ray_compensation import compensate_features, compensate_gaussians, without
from gsrender_core.render import Rendered, render_pixels
from gsrender_core.views import View


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

    Args:
        model: whose head makes the Gaussians.
        config: what is compensated how, and the weight of the drift loss.
        P: [F, X, Y, Z], voxel features of the current frame.
        view: of the current or an adjacent frame.
        T_curr_view: [4, 4] adjacent ego -> current ego: Ray Compensation; None in the current frame.
    """
    voxels = visible_voxels(model.centers, view, config.model.head.max_offset_m + 3 * config.model.head.max_scale_m)
    if T_curr_view is None:
        gaussians = model.gaussians(P, voxels)
    elif config.compensation == "logits":
        gaussians = compensate_gaussians(model.gaussians(P), T_curr_view)
    else:
        centers = model.centers[voxels]
        features, inside = compensate_features(P, centers, T_curr_view, config.model.grid)
        gaussians = without(model.head(features, centers), inside)
    seen = Seen(render_pixels(gaussians, view.cameras, view.pixels))
    if T_curr_view is None:
        centers, voxel_m = model.centers[voxels], config.model.grid.voxel_size_m
        seen.terms["drift"] = config.loss.offset_drift * offset_drift_loss(gaussians.means, centers, voxel_m)
        seen.log = _statistics(gaussians, centers, voxel_m)
    return seen


def visible_voxels(centers: torch.Tensor, view: View, reach_m: float) -> torch.Tensor:
    """Voxels that may show in a view's cameras: flat indices int64 [N] of ``centers`` [V, 3] (m).

    A voxel counts where its Gaussian may reach into the image, wherever its mean and scale end up: anything
    within ``reach_m`` of its centre.
    """
    width, height = view.cameras.width, view.cameras.height
    visible = torch.zeros(len(centers), dtype=torch.bool, device=centers.device)
    for camera in torch.nonzero(view.chosen).squeeze(1).tolist():
        T, K = view.cameras.viewmats[camera], view.cameras.Ks[camera]
        x, y, z = (centers @ T[:3, :3].T + T[:3, 3]).unbind(1)
        ahead = z + reach_m > 0
        z = z.clamp(min=0.1)
        in_u = (x * K[0, 0] > -(K[0, 2] * z + reach_m * K[0, 0])) & (
            x * K[0, 0] < (width - K[0, 2]) * z + reach_m * K[0, 0]
        )
        in_v = (y * K[1, 1] > -(K[1, 2] * z + reach_m * K[1, 1])) & (
            y * K[1, 1] < (height - K[1, 2]) * z + reach_m * K[1, 1]
        )
        visible |= ahead & in_u & in_v
    return torch.nonzero(visible).squeeze(1)


@torch.no_grad()
def _statistics(gaussians: Gaussians, centers: torch.Tensor, voxel_m: float) -> dict[str, torch.Tensor]:
    offset = (gaussians.means - centers) / voxel_m
    return {
        "offset_mean": offset.mean(0).norm(),
        "offset_spread": offset.std(0).norm(),
        "opacity_over_half": (gaussians.opacities > 0.5).float().mean(),
    }
