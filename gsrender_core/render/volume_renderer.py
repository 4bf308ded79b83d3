"""Volume rendering of a ``VoxelField`` along the rays of listed pixels: the baseline's peer of ``render_pixels``.

One sample an interval of a ray: density and logits are interpolated trilinearly between voxel centres (constant in the
outer half voxel) and composited. ``render_rays_torch`` is the readable reference for any device, ``numba_volume`` the
fast path for the CPU.
"""

import torch
import torch.nn.functional as F

from gsrender_core.render.interface import Rendered
from gsrender_core.render.rays import Rays
from gsrender_core.voxel_field import EMPTY, VoxelField

BACKENDS = ("auto", "torch", "numba")


def touched_voxels(rays: Rays) -> torch.Tensor:
    """Flat indices int64 [V] of all voxels that the rays' samples interpolate between: what a field must hold."""
    if rays.count.device.type == "cpu":
        from gsrender_core.render.numba_volume import touched_voxels_numba

        return touched_voxels_numba(rays)
    return touched_voxels_torch(rays)


def touched_voxels_torch(rays: Rays) -> torch.Tensor:
    """``touched_voxels`` for any device."""
    z, length = rays.samples()
    at = (rays.origin[:, None] + rays.direction[:, None] * z[..., None])[length > 0]
    shape = torch.tensor(rays.grid.shape, device=z.device)
    low = torch.minimum(torch.floor(at.clamp(min=0)).long(), (shape - 2).clamp(min=0))
    mask = torch.zeros(rays.grid.shape, dtype=torch.bool, device=z.device)
    for corner in range(8):
        i, j, k = (torch.minimum(low[:, a] + (corner >> a & 1), shape[a] - 1) for a in range(3))
        mask[i, j, k] = True
    return torch.nonzero(mask.view(-1)).squeeze(1)


def reached_voxels(rays: Rays, opacity_logits: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """The part of ``touched_voxels`` in front of where the rays end, int64 [V]: the rest does not change the image.

    Args:
        opacity_logits: [T] without gradient.
        voxels: int64 [T], the ``touched_voxels``.
    """
    if rays.count.device.type == "cpu":
        from gsrender_core.render.numba_volume import reached_voxels_numba

        return reached_voxels_numba(rays, opacity_logits, voxels)
    return voxels


def render_rays(field: VoxelField, rays: Rays, backend: str = "auto") -> Rendered:
    """Composite a field along rays; differentiable in its opacity logits and logits.

    Args:
        field: must hold the ``touched_voxels`` of the rays, unless what it lacks shall be empty.
        rays: of ``cast_into_grid`` with the field's grid.
        backend: one of ``BACKENDS``; "auto" takes numba for float32 on the CPU, else torch.

    Returns:
        logits [M, K], depth [M] metres of camera z, alpha [M], over a zero background.

    Raises:
        ValueError: unknown backend, another grid, or a field that is not finite.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown volume backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if field.grid != rays.grid:
        raise ValueError(f"the rays were cast into {rays.grid}, the field lies on {field.grid}")
    for name in ("opacity_logits", "logits"):
        if not torch.isfinite(getattr(field, name).detach().sum(dtype=torch.float64)):
            raise ValueError(f"field holds non-finite {name}; check the network's output before rendering")
    on_cpu = field.logits.device.type == "cpu" and field.logits.dtype == torch.float32
    if backend == "numba" or (backend == "auto" and on_cpu):
        from gsrender_core.render.numba_volume import render_rays_numba

        return render_rays_numba(field, rays)
    return render_rays_torch(field, rays)


def render_rays_torch(field: VoxelField, rays: Rays) -> Rendered:
    """``render_rays`` in plain torch: every sample of every ray at once."""
    values = torch.cat((field.opacity_logits[:, None], field.logits), dim=1)
    background = torch.zeros(rays.grid.size, values.shape[1], dtype=values.dtype, device=values.device)
    background[:, 0] = EMPTY
    volume = background.index_copy(0, field.voxels, values).view(*rays.grid.shape, -1).permute(3, 0, 1, 2)[None]
    z, length = rays.samples()
    # align_corners=False: -1 and 1 are the volume's outer borders, half a voxel beyond the outermost centres.
    shape = torch.tensor(rays.grid.shape, dtype=torch.float64, device=z.device)
    position = (rays.origin[:, None] + rays.direction[:, None] * z[..., None] + 0.5) / shape * 2 - 1
    at = position.flip(-1).to(values.dtype)[None, None]  # grid_sample wants (last axis, ..., first axis)
    sampled = F.grid_sample(volume, at, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0]
    z, length = z.to(values.dtype), length.to(values.dtype)
    optical_depth = F.softplus(sampled[0], threshold=50) * length / rays.grid.voxel_size_m  # [M, S]
    optical_depth = optical_depth * (-torch.expm1(-optical_depth) >= rays.settings.alpha_min)
    before = torch.exp(optical_depth - optical_depth.cumsum(dim=1))  # transmittance in front of each sample
    before = before * (before > rays.settings.transmittance_min)
    weight = before * -torch.expm1(-optical_depth)
    return Rendered(torch.einsum("ms,kms->mk", weight, sampled[1:]), (weight * z).sum(1), weight.sum(1))
