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
        voxel = voxels_of_points(points, low, size, shape)
        splat_rows(voxel, rows, weights, volume)
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


def voxels_of_points(points: torch.Tensor, low: torch.Tensor, size: torch.Tensor, shape) -> np.ndarray:
    """Flat voxel index int32 [C, D, h * w] of points float32 [C, D, h, w, 3] (m, ego frame), -1 outside the grid."""
    flat_points = np.ascontiguousarray(points.flatten(2, 3).numpy())
    with numba_threads():
        return _voxels(flat_points, low.numpy(), size.numpy(), *shape)


def voxels_of_rays(
    ego_from_pixel: torch.Tensor, origins: torch.Tensor, bins_m: torch.Tensor, cells, stride: int, lattice
) -> np.ndarray:
    """``voxels_of_points`` of ``LiftSplat.frustum``, whose points are never stored.

    Args:
        ego_from_pixel: float32 [C, 3, 3], homogeneous pixels to ego directions.
        origins: float32 [C, 3], cameras' positions, m.
        bins_m: float32 [D], centres of the depth bins.
        cells: (h, w) of the feature map.
        stride: pixels a cell.
        lattice: the grid's lower corner and voxel size (float32 [3], m) and its shape (X, Y, Z).
    """
    low, size, shape = lattice
    arrays = (np.ascontiguousarray(t.numpy()) for t in (ego_from_pixel, origins, bins_m, low, size))
    with numba_threads():
        return _ray_voxels(*arrays, *cells, np.float32(stride), *shape)


def splat_rows(voxel: np.ndarray, rows: np.ndarray, weights: np.ndarray, volume: np.ndarray) -> None:
    """``splat_points`` on arrays as the kernel reads them, into memory that the caller keeps.

    Args:
        voxel: int32 [C, D, h * w], as ``voxels_of_points``.
        rows: float32 [C, h * w, F], contiguous.
        weights: float32 [C, D, h * w], contiguous.
        volume: float32 [X * Y * Z, F]; overwritten.
    """
    with numba_threads() as threads:
        _add(voxel, rows, weights, threads, volume)


@numba.njit(cache=True, parallel=True)
def _ray_voxels(ego_from_pixel, origins, bins_m, low, size, h, w, stride, X, Y, Z):
    C, D = len(ego_from_pixel), len(bins_m)
    voxel = np.empty((C, D, h * w), np.int32)
    half = np.float32(0.5)
    for plane in numba.prange(C * D):
        c, d = plane // D, plane % D
        R, o, depth = ego_from_pixel[c], origins[c], bins_m[d]
        for row in range(h):
            v = (np.float32(row) + half) * stride
            for column in range(w):
                u = (np.float32(column) + half) * stride
                x = math.floor(((R[0, 0] * u + R[0, 1] * v + R[0, 2]) * depth + o[0] - low[0]) / size[0])
                y = math.floor(((R[1, 0] * u + R[1, 1] * v + R[1, 2]) * depth + o[1] - low[1]) / size[1])
                z = math.floor(((R[2, 0] * u + R[2, 1] * v + R[2, 2]) * depth + o[2] - low[2]) / size[2])
                inside = 0 <= x < X and 0 <= y < Y and 0 <= z < Z
                voxel[c, d, row * w + column] = (x * Y + y) * Z + z if inside else -1
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
