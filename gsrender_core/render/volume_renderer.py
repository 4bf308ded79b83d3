"""Volume rendering of a ``VoxelField`` along the rays of listed pixels: the baseline's peer of ``render_pixels``.

A ray is cut into intervals of ``step_m`` between its entry into the grid and its exit; behind the exit there is
nothing, so the samples that RenderOcc adds outside are left out. One sample an interval: density and logits are
interpolated trilinearly between voxel centres (constant in the outer half voxel) and composited. Rays are
parametrised by camera z, which is what the labels measure.

``render_rays_torch`` is the readable reference for any device, ``numba_volume`` the fast path for the CPU.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gsrender_core.render.interface import Cameras, Pixels, Rendered, check_views
from gsrender_core.voxel_field import EMPTY, VoxelField
from gsrender_core.voxel_grid import VoxelGrid

BACKENDS = ("auto", "torch", "numba")


@dataclass(frozen=True)
class VolumeSettings:
    """Constants of the sampling and compositing.

    Attributes:
        step_m: length of an interval along the ray (Euclidean); RenderOcc's is half a voxel, 0.2 m.
        near_m: rays start at this camera z, as for Gaussians.
        alpha_min: samples below it are skipped.
        transmittance_min: a ray is finished when this or less is left.
    """

    step_m: float = 0.2
    near_m: float = 0.5
    alpha_min: float = 1e-7
    transmittance_min: float = 1e-4

    def __post_init__(self):
        if self.step_m <= 0 or self.near_m <= 0:
            raise ValueError(f"need step_m > 0 and near_m > 0, got {self.step_m} and {self.near_m} m")
        if not 0 <= self.alpha_min < 1 or not 0 <= self.transmittance_min < 1:
            raise ValueError(f"thresholds lie in [0, 1), got {self.alpha_min} and {self.transmittance_min}")


@dataclass
class Rays:
    """M rays through a grid, float64. Positions are in voxels: 0 is the centre of the first voxel.

    Attributes:
        origin: [M, 3] camera centre, voxels.
        direction: [M, 3] voxels a metre of camera z.
        length: [M] metres along the ray a metre of camera z.
        z_in, z_out: [M] camera z where the ray enters and leaves the grid, metres; equal where it misses.
        count: int64 [M] intervals, the last one cut at z_out.
        offsets: float32 [M, max(count)] in [0, 1], where in its interval each sample lies; None: in the middle.
        grid: the volume.
        settings: the constants used.
    """

    origin: torch.Tensor
    direction: torch.Tensor
    length: torch.Tensor
    z_in: torch.Tensor
    z_out: torch.Tensor
    count: torch.Tensor
    offsets: torch.Tensor | None
    grid: VoxelGrid
    settings: VolumeSettings

    def __len__(self) -> int:
        return self.count.shape[0]

    def samples(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Camera z and length in metres of every interval's sample, [M, max(count)]; length 0 behind the exit."""
        n = torch.arange(int(self.count.max()) if len(self) else 0, device=self.count.device)
        spacing = (self.settings.step_m / self.length)[:, None]
        low = self.z_in[:, None] + n * spacing
        width = torch.minimum(spacing, self.z_out[:, None] - low) * (n < self.count[:, None])
        return low + (0.5 if self.offsets is None else self.offsets) * width, width * self.length[:, None]


def cast_into_grid(
    cameras: Cameras, pixels: Pixels, grid: VoxelGrid, settings: VolumeSettings | None = None, jitter: bool = False
) -> Rays:
    """Rays of listed pixels inside a grid.

    Args:
        cameras: their T_cam_ego may be moved or mirrored: any orthogonal matrix with a translation.
        pixels: M positions.
        grid: the volume in the ego frame.
        settings: default ``VolumeSettings()``.
        jitter: draw each sample's place in its interval at random (stratified sampling, for training).

    Raises:
        ValueError: cameras or pixels that no renderer can answer for.
    """
    settings = VolumeSettings() if settings is None else settings
    check_views(cameras, pixels)
    T, K = cameras.viewmats.detach().double(), cameras.Ks.detach().double()
    R, t, K = T[pixels.camera, :3, :3], T[pixels.camera, :3, 3], K[pixels.camera]
    uv = pixels.uv.double()
    xy = (uv - K[:, :2, 2]) / torch.stack((K[:, 0, 0], K[:, 1, 1]), dim=1)
    at_camera = torch.cat((xy, torch.ones_like(xy[:, :1])), dim=1)  # z = 1: z along the ray is camera z
    low = torch.tensor(grid.min_m, dtype=torch.float64, device=uv.device)
    # Row vectors times R are R^T: a camera's inverse rotation.
    direction = torch.einsum("mi,mij->mj", at_camera, R) / grid.voxel_size_m
    origin = (-torch.einsum("mi,mij->mj", t, R) - low) / grid.voxel_size_m - 0.5
    z_in, z_out = _enter_and_leave(origin, direction, grid, settings.near_m)
    length = at_camera.norm(dim=1)
    count = torch.ceil((z_out - z_in) * length / settings.step_m - 1e-9).long()
    offsets = None
    if jitter:
        longest = int(count.max()) if len(count) else 0
        offsets = torch.rand(len(count), longest, device=uv.device)
    return Rays(origin, direction, length, z_in, z_out, count, offsets, grid, settings)


def _enter_and_leave(
    origin: torch.Tensor, direction: torch.Tensor, grid: VoxelGrid, near_m: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Camera z [M] of entry and exit; (near_m, near_m) where a ray misses the grid."""
    shape = torch.tensor(grid.shape, dtype=torch.float64, device=origin.device)
    # A ray within a plane of constant x never crosses its slab: a tiny slope puts the crossing far away.
    slope = torch.where(direction.abs() < 1e-12, torch.full_like(direction, 1e-12), direction)
    first, second = (-0.5 - origin) / slope, (shape - 0.5 - origin) / slope
    z_in = torch.minimum(first, second).amax(dim=1).clamp(min=near_m)
    z_out = torch.maximum(first, second).amin(dim=1)
    hit = z_out > z_in
    near = torch.full_like(z_in, near_m)
    return torch.where(hit, z_in, near), torch.where(hit, z_out, near)


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
