"""Rendering of a view by the NeRF head: the rays, the voxels they touch, and what the field shows along them."""

import torch

from gsrender_core.config import TrainConfig
from gsrender_core.model.gsrender import GSRender
from gsrender_core.ray_compensation import compensate_features
from gsrender_core.render import Cameras
from gsrender_core.render.rays import VolumeSettings, cast_into_grid
from gsrender_core.render.volume_renderer import reached_voxels, render_rays, touched_voxels
from gsrender_core.splatting import Seen
from gsrender_core.views import View
from gsrender_core.voxel_field import EMPTY, VoxelField


def march_view(
    model: GSRender,
    config: TrainConfig,
    P: torch.Tensor,
    view: View,
    T_curr_view: torch.Tensor | None,
    backend: str = "auto",
) -> Seen:
    """Sample the field of voxel features along the rays of a view's pixels; the peer of ``splat_view``.

    Ray Compensation at the features reads the adjacent frame's voxels in the current volume, empty outside of it.
    At the logits the field stays where it is, in the current volume, and the adjacent cameras are moved there.

    Args:
        model: whose head makes the field.
        config: step, jitter, and what is compensated how.
        P: [F, X, Y, Z], voxel features of the current frame.
        view: of the current or an adjacent frame.
        T_curr_view: [4, 4] adjacent ego -> current ego: Ray Compensation; None in the current frame.
        backend: as ``render_rays``.
    """
    grid, head, cameras = config.model.grid, config.model.head, view.cameras
    at_features = T_curr_view is not None and config.compensation == "features"
    if T_curr_view is not None and not at_features:
        T_view_curr = torch.linalg.inv(T_curr_view.double()).to(cameras.viewmats)
        cameras = Cameras(cameras.viewmats @ T_view_curr, cameras.Ks, cameras.width, cameras.height)
    rays = cast_into_grid(cameras, view.pixels, grid, VolumeSettings(step_m=head.nerf_step_m), head.nerf_jitter)

    def features(voxels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if at_features:
            return compensate_features(P, model.centers[voxels], T_curr_view, grid)
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        return rows.index_select(0, voxels), torch.ones_like(voxels, dtype=torch.bool)

    # Looked up twice: once without a gradient to see where the rays end, then only what lies in front.
    voxels = touched_voxels(rays)
    with torch.no_grad():
        candidates, inside = features(voxels)
        opacity = torch.where(inside, model.head.opacity(candidates), EMPTY)
        voxels = reached_voxels(rays, opacity, voxels)
    rows, inside = features(voxels)
    field = VoxelField(*model.head.opacity_and_logits(rows), voxels, grid).without(inside)
    seen = Seen(render_rays(field, rays, backend))
    if T_curr_view is None and len(field) > 0:
        with torch.no_grad():
            seen.log = {
                "opacity_over_half": (field.opacity_logits > 0).float().mean(),
                "samples_per_ray": rays.count.float().mean(),
            }
    return seen
