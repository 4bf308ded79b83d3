"""2D to 3D: image features and depth distributions -> a volume in the ego frame.

Two transformers with one signature:
``(context [B, C, F, h, w], depth [B, C, D, h, w], Ks [B, C, 3, 3], T_ego_cam [B, C, 4, 4]) -> [B, F', X, Y, Z]``.
Both work on a grid whose voxels are ``downsample`` times wider in x and y than the output's.
"""

import torch
import torch.nn.functional as F
from torch import nn

from gsrender_core.model.lift_numba import splat_points
from gsrender_core.voxel_grid import VoxelGrid


def coarse_grid(grid: VoxelGrid, downsample: int) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Shape and voxel size (x, y, z) in metres of the lifted volume.

    Raises:
        ValueError: the grid does not divide by ``downsample``.
    """
    x, y, z = grid.shape
    if x % downsample or y % downsample:
        raise ValueError(f"view.downsample {downsample} must divide the grid's {x} x {y} voxels")
    wide = grid.voxel_size_m * downsample
    return (x // downsample, y // downsample, z), (wide, wide, grid.voxel_size_m)


def ego_from_pixel(Ks: torch.Tensor, T_ego_cam: torch.Tensor) -> torch.Tensor:
    """R_ego_cam K^-1 [C, 3, 3] of intrinsics [C, 3, 3] and poses [C, 4, 4]: homogeneous pixels to ego directions."""
    return T_ego_cam[:, :3, :3] @ torch.linalg.inv(Ks)


class LiftSplat(nn.Module):
    """Lift every feature along its ray by its depth distribution, sum into voxels (Philion & Fidler 2020)."""

    def __init__(self, grid: VoxelGrid, downsample: int, stride: int, bin_centers_m: torch.Tensor):
        super().__init__()
        self.shape, size = coarse_grid(grid, downsample)
        self.stride = stride
        self.register_buffer("bin_centers_m", bin_centers_m, persistent=False)
        self.register_buffer("low", torch.tensor(grid.min_m), persistent=False)
        self.register_buffer("size", torch.tensor(size), persistent=False)
        self.extra_channels = 0

    def frustum_ego(self, h: int, w: int, Ks: torch.Tensor, T_ego_cam: torch.Tensor) -> torch.Tensor:
        """Ego positions [C, D, h, w, 3] of the bin centres along each feature cell's central ray."""
        return self.frustum(h, w, ego_from_pixel(Ks, T_ego_cam), T_ego_cam[:, :3, 3])

    def frustum(self, h: int, w: int, ego_from_pixel: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
        """``frustum_ego`` from ``ego_from_pixel`` [C, 3, 3] and camera positions [C, 3], m."""
        u = (torch.arange(w, device=origins.device) + 0.5) * self.stride
        v = (torch.arange(h, device=origins.device) + 0.5) * self.stride
        pixel = torch.stack(torch.meshgrid(u, v, indexing="xy") + (torch.ones(h, w, device=origins.device),), dim=-1)
        rays = torch.einsum("cij,hwj->chwi", ego_from_pixel, pixel)
        return rays[:, None] * self.bin_centers_m.view(1, -1, 1, 1, 1) + origins[:, None, None, None]

    def forward(self, context, depth, Ks, T_ego_cam):
        splat = splat_points if self._numba_can(context, depth) else splat_points_torch
        volumes = []
        for b in range(len(context)):
            points = self.frustum_ego(*context.shape[-2:], Ks[b], T_ego_cam[b])
            volume = splat(points, context[b], depth[b], self.low, self.size, self.shape)
            volumes.append(volume.view(*self.shape, -1))
        return torch.stack(volumes).permute(0, 4, 1, 2, 3)

    @staticmethod
    def _numba_can(context: torch.Tensor, depth: torch.Tensor) -> bool:
        """Whether the kernel serves: float32 on a CPU, nothing to trace."""
        plain = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in (context, depth))
        return plain and not torch.jit.is_tracing() and not torch.compiler.is_compiling()


def splat_points_torch(
    points: torch.Tensor, context: torch.Tensor, depth: torch.Tensor, low: torch.Tensor, size: torch.Tensor, shape
) -> torch.Tensor:
    """``splat_points`` in torch, for any device and with gradients; its reference."""
    C, features, h, w = context.shape
    X, Y, Z = shape
    # Floor, not truncation: truncation would pull (-1, 0) into voxel 0.
    index = torch.floor((points - low) / size).long()
    inside = ((index >= 0) & (index < torch.tensor(shape, device=index.device))).all(-1)
    kept = torch.nonzero(inside.view(-1)).squeeze(1)
    flat = ((index[..., 0] * Y + index[..., 1]) * Z + index[..., 2]).view(-1)[kept]
    # Which feature cell each kept frustum point belongs to.
    cell = torch.arange(C * h * w, device=index.device).view(C, 1, h, w).expand(inside.shape).reshape(-1)[kept]
    rows = context.permute(0, 2, 3, 1).reshape(-1, features)
    lifted = rows.index_select(0, cell) * depth.reshape(-1).index_select(0, kept)[:, None]
    volume = torch.zeros(X * Y * Z, features, dtype=lifted.dtype, device=lifted.device)
    return volume.index_add(0, flat, lifted)


class Projection(nn.Module):
    """Pull: project every voxel centre into the cameras, sample features there and weigh them by depth evidence.

    A voxel receives, averaged over the cameras that see it, the context feature times the
    probability that its ray ends near it, and two channels of its own: that probability and the
    probability that the ray ends before it (occlusion). No voxel in view stays empty, unlike with
    ``LiftSplat``; far voxels share features instead.
    """

    def __init__(self, grid: VoxelGrid, downsample: int, stride: int, edges_m: torch.Tensor):
        super().__init__()
        self.shape, size = coarse_grid(grid, downsample)
        self.stride = stride
        self.register_buffer("edges_m", edges_m, persistent=False)
        axes = [lo + (torch.arange(n) + 0.5) * s for lo, n, s in zip(grid.min_m, self.shape, size, strict=True)]
        centers = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3).float()
        self.register_buffer("centers", centers, persistent=False)
        # Half a voxel's edge: how far from its centre a ray may end.
        self.reach_m = 0.5 * size[0]
        self.extra_channels = 2

    def _bin_position(self, depth_m: torch.Tensor) -> torch.Tensor:
        """Fractional edge index of a depth: 0 at the first edge, D at the last."""
        upper = torch.searchsorted(self.edges_m, depth_m.contiguous()).clamp(1, len(self.edges_m) - 1)
        low, high = self.edges_m[upper - 1], self.edges_m[upper]
        return (upper - 1) + ((depth_m - low) / (high - low)).clamp(0, 1)

    def forward(self, context, depth, Ks, T_ego_cam):
        B, C, features, h, w = context.shape
        D = depth.shape[2]
        T_cam_ego = torch.linalg.inv(T_ego_cam.double()).float()
        volumes = []
        for b in range(B):
            total = context.new_zeros(len(self.centers), features + 2)
            count = context.new_zeros(len(self.centers), 1)
            for c in range(C):
                at_camera = self.centers @ T_cam_ego[b, c, :3, :3].T + T_cam_ego[b, c, :3, 3]
                z = at_camera[:, 2]
                uv = (at_camera @ Ks[b, c].T)[:, :2] / z.clamp(min=1e-3)[:, None]
                size = torch.tensor([w, h], device=uv.device) * self.stride
                seen = torch.nonzero(
                    (z > self.edges_m[0]) & (z < self.edges_m[-1]) & ((uv > 0) & (uv < size)).all(-1)
                ).squeeze(1)
                if len(seen) == 0:
                    continue
                xy = uv[seen] / size * 2 - 1
                feature = F.grid_sample(context[b, c][None], xy[None, None], align_corners=False)[0, :, 0].T
                # Probability that the ray ends before a depth, linear between bin edges.
                before = F.pad(depth[b, c].cumsum(0), (0, 0, 0, 0, 1, 0))
                near, far = self._bin_position(z[seen] - self.reach_m), self._bin_position(z[seen] + self.reach_m)
                ends = []
                for position in (near, far):
                    # align_corners: edge 0 is the first sample and edge D the last, so index/D spans -1..1; x and y
                    # are cell-centred and converted to that convention.
                    grid_xyz = torch.stack(
                        (
                            (uv[seen, 0] / self.stride - 0.5) / max(w - 1, 1) * 2 - 1,
                            (uv[seen, 1] / self.stride - 0.5) / max(h - 1, 1) * 2 - 1,
                            position / D * 2 - 1,
                        ),
                        dim=-1,
                    )
                    sampled = F.grid_sample(
                        before[None, None].float(),
                        grid_xyz[None, None, None],
                        align_corners=True,
                        padding_mode="border",
                    )
                    ends.append(sampled.view(-1, 1))
                here = (ends[1] - ends[0]).clamp(min=0)
                # Long lenses spread little probability a voxel: the square root keeps the gradient alive.
                value = torch.cat((feature * (here + 1e-4).sqrt(), here, ends[0]), dim=1)
                total = total.index_add(0, seen, value.to(total.dtype))
                count = count.index_add(0, seen, torch.ones_like(here, dtype=count.dtype))
            volumes.append((total / count.clamp(min=1)).view(*self.shape, features + 2))
        return torch.stack(volumes).permute(0, 4, 1, 2, 3)
