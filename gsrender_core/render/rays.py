"""Rays of listed pixels inside a voxel grid, cut into intervals: where a volume renderer takes its samples.

A ray is cut into intervals of ``step_m`` between its entry into the grid and its exit; behind the exit there is
nothing, so the samples that RenderOcc adds outside are left out. Rays are parametrised by camera z, which is what the
labels measure.
"""

from dataclasses import dataclass

import torch

from gsrender_core.render.interface import Cameras, Pixels, check_views
from gsrender_core.voxel_grid import VoxelGrid


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
