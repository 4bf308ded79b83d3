"""The sum of ``LiftSplat`` on a CPU: no list of kept points, no copy of features per point, also in the gradient."""

import math

import numba
import numpy as np
import torch
from torch.autograd.function import once_differentiable

from gsrender_core.numba_threads import numba_threads


def splat_points(
    points: torch.Tensor, context: torch.Tensor, depth: torch.Tensor, low: torch.Tensor, size: torch.Tensor, shape
) -> torch.Tensor:
    """Sum every feature, times the probability of its depth bin, into the voxel of its point.

    The result does not depend on the number of threads: each owns a range of voxels and adds in the points' order.

    Args:
        points: float32 [C, D, h, w, 3], m, ego frame.
        context: float32 [C, F, h, w].
        depth: float32 [C, D, h, w], probabilities.
        low, size: float32 [3], the grid's lower corner and voxel size, m.
        shape: (X, Y, Z).

    Returns:
        float32 [X * Y * Z, F]; points outside the grid are left out. Differentiable once in ``context`` and ``depth``.
    """
    return _Splat.apply(context, depth, points.detach(), low, size, shape)


class _Splat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, context, depth, points, low, size, shape):
        rows = np.ascontiguousarray(context.detach().permute(0, 2, 3, 1).flatten(1, 2).numpy())
        weights = np.ascontiguousarray(depth.detach().flatten(2).numpy())
        volume = np.empty((math.prod(shape), rows.shape[-1]), np.float32)
        voxel = splat_rows(points, rows, weights, (low, size, shape), volume)
        ctx.kept, ctx.context_shape, ctx.depth_shape = (voxel, rows, weights), context.shape, depth.shape
        return torch.from_numpy(volume)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        voxel, rows, weights = ctx.kept
        grad_rows, grad_weights = np.empty_like(rows), np.empty_like(weights)
        with numba_threads():
            _gradients(voxel, rows, weights, np.ascontiguousarray(grad.numpy()), grad_rows, grad_weights)
        h, w = ctx.context_shape[2:]
        grad_context = torch.from_numpy(grad_rows).unflatten(1, (h, w)).permute(0, 3, 1, 2)
        return grad_context, torch.from_numpy(grad_weights).view(ctx.depth_shape), None, None, None, None


def splat_rows(points: torch.Tensor, rows: np.ndarray, weights: np.ndarray, lattice, volume: np.ndarray) -> np.ndarray:
    """``splat_points`` on arrays as the kernels read them, into memory that the caller keeps.

    Args:
        points: float32 [C, D, h, w, 3], m.
        rows: float32 [C, h * w, F], contiguous.
        weights: float32 [C, D, h * w], contiguous.
        lattice: lower corner and voxel size (float32 [3] tensors, m) and shape (X, Y, Z).
        volume: float32 [X * Y * Z, F]; overwritten.

    Returns:
        Flat voxel index of every point, int32 [C, D, h * w], -1 outside.
    """
    low, size, (X, Y, Z) = lattice
    flat_points = np.ascontiguousarray(points.flatten(2, 3).numpy())
    with numba_threads() as threads:
        voxel = _voxels(flat_points, low.numpy(), size.numpy(), X, Y, Z)
        _add(voxel, rows, weights, threads, volume)
    return voxel


@numba.njit(cache=True, parallel=True)
def _voxels(points, low, size, X, Y, Z):
    """Flat voxel index int32 [C, D, N] of every point, -1 outside."""
    C, D, N = points.shape[:3]
    voxel = np.empty((C, D, N), np.int32)
    for plane in numba.prange(C * D):
        c, d = plane // D, plane % D
        for n in range(N):
            x = math.floor((points[c, d, n, 0] - low[0]) / size[0])
            y = math.floor((points[c, d, n, 1] - low[1]) / size[1])
            z = math.floor((points[c, d, n, 2] - low[2]) / size[2])
            inside = 0 <= x < X and 0 <= y < Y and 0 <= z < Z
            voxel[c, d, n] = (x * Y + y) * Z + z if inside else -1
    return voxel


@numba.njit(cache=True, parallel=True)
def _add(voxel, rows, weights, threads, volume):
    C, D, N = voxel.shape
    for v in numba.prange(len(volume)):
        volume[v] = 0
    for t in numba.prange(threads):
        # Interleaved blocks: the car's surroundings, where most points lie, are shared out evenly.
        for c in range(C):
            for d in range(D):
                for n in range(N):
                    v = voxel[c, d, n]
                    if v >= 0 and (v >> 8) % threads == t:
                        weight = weights[c, d, n]
                        for f in range(rows.shape[2]):
                            volume[v, f] += rows[c, n, f] * weight


# Sums of products in any order: in vector registers.
@numba.njit(cache=True, parallel=True, fastmath={"reassoc", "contract"})
def _gradients(voxel, rows, weights, grad, grad_rows, grad_weights):
    """Every feature cell by itself: no two threads add to the same number."""
    C, D, N = voxel.shape
    for cell in numba.prange(C * N):
        c, n = cell // N, cell % N
        for f in range(rows.shape[2]):
            grad_rows[c, n, f] = 0
        for d in range(D):
            v = voxel[c, d, n]
            weight, product = weights[c, d, n], np.float32(0)
            if v >= 0:
                for f in range(rows.shape[2]):
                    product += rows[c, n, f] * grad[v, f]
                    grad_rows[c, n, f] += weight * grad[v, f]
            grad_weights[c, d, n] = product
