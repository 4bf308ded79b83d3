"""Volume rendering on the CPU: fused numba kernels behind a torch.autograd.Function, float32.

Results do not depend on the number of threads but for the order in which gradients are added. Calls from several
Python threads take turns (``gsrender_core.numba_threads``).
"""

import numpy as np
import torch

from gsrender_core.numba_threads import numba_threads
from gsrender_core.render.interface import Rendered
from gsrender_core.render.numba_march import March, composite, composite_backward, mark_cells, mark_reached
from gsrender_core.render.rays import Rays
from gsrender_core.voxel_field import EMPTY, VoxelField


def touched_voxels_numba(rays: Rays) -> torch.Tensor:
    """``volume_renderer.touched_voxels`` on the CPU."""
    cells = np.zeros(rays.grid.shape, np.uint8)
    with numba_threads():
        mark_cells(_march(rays), cells)
    return _corners(cells)


def reached_voxels_numba(rays: Rays, opacity_logits: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """``volume_renderer.reached_voxels`` on the CPU."""
    rows, opacity = _tables(rays, voxels, opacity_logits)
    cells = np.zeros(rays.grid.shape, np.uint8)
    with numba_threads() as threads:
        mark_reached(_march(rays), rows, opacity, cells, threads)
    return _corners(cells)


def _corners(cells: np.ndarray) -> torch.Tensor:
    """Flat indices of the voxels around marked cells, which are named by their lowest corner; changes ``cells``."""
    for axis in range(3):
        shifted = cells.swapaxes(0, axis)
        if shifted.shape[0] > 1:
            shifted[1:] = shifted[1:] | shifted[:-1]
    return torch.from_numpy(np.flatnonzero(cells))


def _tables(rays: Rays, voxels: torch.Tensor, opacity_logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row of each voxel in the tables, int32 [X, Y, Z], and the table of opacity logits; row 0 is the empty voxel."""
    rows = np.zeros(rays.grid.shape, np.int32)
    rows.reshape(-1)[voxels.numpy()] = np.arange(1, len(voxels) + 1, dtype=np.int32)
    return rows, np.concatenate((np.array([EMPTY], np.float32), _array(opacity_logits)))


def render_rays_numba(field: VoxelField, rays: Rays) -> Rendered:
    """``volume_renderer.render_rays`` on the CPU, float32.

    Raises:
        ValueError: the field is not on the CPU.
    """
    if field.logits.device.type != "cpu":
        raise ValueError(f"the numba renderer runs on the CPU, the field is on {field.logits.device}")
    logits, depth, alpha = _RenderRays.apply(field.opacity_logits, field.logits, field.voxels, rays)
    return Rendered(logits, depth, alpha)


class _RenderRays(torch.autograd.Function):
    @staticmethod
    def forward(ctx, opacity_logits, logits, voxels, rays):
        march = _march(rays)
        rows, opacity = _tables(rays, voxels, opacity_logits)
        table = np.concatenate((np.zeros((1, logits.shape[1]), np.float32), _array(logits)))
        m, K = len(rays), logits.shape[1]
        out = np.zeros((m, K), np.float32), np.zeros(m, np.float32), np.zeros(m, np.float32)
        with numba_threads() as threads:
            composite(march, rows, opacity, table, *out, threads)
        ctx.arrays = march, rows, opacity, table, out
        return tuple(torch.from_numpy(array) for array in out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logits, grad_depth, grad_alpha):
        march, rows, opacity, table, out = ctx.arrays
        grads = _array(grad_logits), _array(grad_depth), _array(grad_alpha)
        with numba_threads() as threads:
            to_opacity = np.zeros((threads, len(opacity)), np.float32)
            to_table = np.zeros((threads, *table.shape), np.float32)
            composite_backward(march, rows, opacity, table, *out, *grads, to_opacity, to_table)
        to_opacity, to_table = torch.from_numpy(to_opacity).sum(0), torch.from_numpy(to_table).sum(0)
        return to_opacity[1:], to_table[1:], None, None


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as a contiguous float32 array, without a copy where possible."""
    return tensor.detach().to(torch.float32).contiguous().numpy()


def _march(rays: Rays) -> March:
    voxel = rays.grid.voxel_size_m
    offsets = np.full((1, 1), 0.5, np.float32) if rays.offsets is None else _array(rays.offsets)
    return March(
        rays.origin.contiguous().numpy(),
        rays.direction.contiguous().numpy(),
        torch.stack((rays.z_in, rays.z_out), dim=1).numpy(),
        (rays.settings.step_m / rays.length).numpy(),
        rays.count.numpy(),
        offsets,
        (rays.length / voxel).numpy(),
        np.array([rays.settings.alpha_min, rays.settings.transmittance_min]),
    )
