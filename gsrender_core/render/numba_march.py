"""Kernels of the volume renderer on the CPU: march along rays, interpolate, composite; and the same way back.

A voxel's logits are read once for each cell of eight voxel centres that a ray crosses, however many samples lie in
it: weights are summed for the cell's corners first. So the cost of a sample is the cost of its density. The backward
pass marches again, in the same direction, because the sum of everything behind a sample is the known total minus what
lies in front of it.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

# Reassociation lets dot products use vector registers; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz"}


class March(NamedTuple):
    """``Rays`` as arrays."""

    origin: np.ndarray  # float64 [M, 3], voxels
    direction: np.ndarray  # float64 [M, 3], voxels a metre of camera z
    z: np.ndarray  # float64 [M, 2], entry and exit
    spacing: np.ndarray  # float64 [M], camera z of an interval
    count: np.ndarray  # int64 [M]
    offsets: np.ndarray  # float32 [M, S], or [1, 1] where every sample lies in the middle
    voxels_per_z: np.ndarray  # float64 [M], length along the ray in voxels, a metre of camera z
    limits: np.ndarray  # float64 [2], alpha_min and transmittance_min


@numba.njit(cache=True, inline="always")
def _sample(march, m, n):
    """Camera z of sample n of ray m, and its interval's length in camera z."""
    low = march.z[m, 0] + n * march.spacing[m]
    width = min(march.spacing[m], march.z[m, 1] - low)
    offset = march.offsets[0, 0] if march.offsets.shape[0] == 1 and march.offsets.shape[1] == 1 else march.offsets[m, n]
    return low + offset * width, width


@numba.njit(cache=True, inline="always")
def _along(position, size):
    """Lower voxel and fraction beyond it on one axis; constant in the outer half voxel."""
    position = min(max(position, 0.0), size - 1.0)
    low = min(np.int64(position), max(size - 2, 0))
    return low, np.float32(position - low)


@numba.njit(cache=True, inline="always")
def _cell(march, m, z, shape):
    """Lowest corner of the cell of eight voxel centres around a sample, and the fractions beyond it."""
    i, x = _along(march.origin[m, 0] + march.direction[m, 0] * z, shape[0])
    j, y = _along(march.origin[m, 1] + march.direction[m, 1] * z, shape[1])
    k, w = _along(march.origin[m, 2] + march.direction[m, 2] * z, shape[2])
    return i, j, k, x, y, w


@numba.njit(cache=True, inline="always")
def _corner_weights(x, y, z, weights):
    one = np.float32(1)
    for corner in range(8):
        a = x if corner & 1 else one - x
        b = y if corner & 2 else one - y
        c = z if corner & 4 else one - z
        weights[corner] = a * b * c


@numba.njit(cache=True, inline="always")
def _corner_rows(rows, i, j, k, corners):
    """Table rows of a cell's corners; a grid of one voxel on an axis has the same voxel on both sides."""
    for corner in range(8):
        corners[corner] = rows[
            min(i + (corner & 1), rows.shape[0] - 1),
            min(j + (corner >> 1 & 1), rows.shape[1] - 1),
            min(k + (corner >> 2), rows.shape[2] - 1),
        ]


@numba.njit(cache=True, inline="always")
def _optical_depth(x, voxels):
    """softplus(x) times the length in voxels, and the probability sigmoid(x), its slope."""
    if x > 0:
        small = math.exp(-x)
        return (x + math.log1p(small)) * voxels, 1.0 / (1.0 + small)
    small = math.exp(x)
    return math.log1p(small) * voxels, small / (1.0 + small)


@numba.njit(cache=True)
def _buffers():
    return np.zeros(8, np.int32), np.zeros(8, np.float32), np.zeros(8, np.float32)


@numba.njit(cache=True, parallel=True)
def mark_cells(march, cells):
    """Set the lowest corner of every cell that a sample lies in. Threads only ever write the same 1."""
    for m in numba.prange(len(march.count)):
        for n in range(march.count[m]):
            z, _ = _sample(march, m, n)
            i, j, k, _, _, _ = _cell(march, m, z, cells.shape)
            cells[i, j, k] = 1


@numba.njit(cache=True, parallel=True)
def mark_reached(march, rows, opacity, cells, threads):
    """``mark_cells`` for the samples that ``_composite_ray`` reaches."""
    for t in numba.prange(threads):
        corners, weights, _ = _buffers()
        for m in range(t, len(march.count), threads):
            left = 1.0
            for n in range(march.count[m]):
                if left <= march.limits[1]:
                    break
                z, width = _sample(march, m, n)
                i, j, k, fx, fy, fz = _cell(march, m, z, rows.shape)
                cells[i, j, k] = 1
                _corner_rows(rows, i, j, k, corners)
                _corner_weights(fx, fy, fz, weights)
                x = 0.0
                for corner in range(8):
                    x += weights[corner] * opacity[corners[corner]]
                alpha = -math.expm1(-_optical_depth(x, width * march.voxels_per_z[m])[0])
                if alpha >= march.limits[0]:
                    left -= left * alpha


@numba.njit(cache=True, fastmath=FAST)
def _add_cell(table, corners, weights, out):
    """out += sum over the corners of weight * logits; the weights are reset."""
    for corner in range(8):
        weight, row = weights[corner], corners[corner]
        for k in range(len(out)):
            out[k] += weight * table[row, k]
        weights[corner] = 0


@numba.njit(cache=True, fastmath=FAST)
def _composite_ray(march, m, rows, opacity, table, logits, buffers):
    """Depth and alpha of one ray; its logits [K] are added to ``logits``."""
    corners, weights, summed = buffers
    last_i, last_j, last_k = -1, -1, -1
    transmittance, depth = 1.0, 0.0
    for n in range(march.count[m]):
        if transmittance <= march.limits[1]:
            break
        z, width = _sample(march, m, n)
        i, j, k, fx, fy, fz = _cell(march, m, z, rows.shape)
        if i != last_i or j != last_j or k != last_k:
            if last_i >= 0:
                _add_cell(table, corners, summed, logits)
            _corner_rows(rows, i, j, k, corners)
            last_i, last_j, last_k = i, j, k
        _corner_weights(fx, fy, fz, weights)
        x = 0.0
        for corner in range(8):
            x += weights[corner] * opacity[corners[corner]]
        thickness, _ = _optical_depth(x, width * march.voxels_per_z[m])
        alpha = -math.expm1(-thickness)
        if alpha < march.limits[0]:
            continue
        weight = transmittance * alpha
        transmittance -= weight
        depth += weight * z
        for corner in range(8):
            summed[corner] += np.float32(weight) * weights[corner]
    if last_i >= 0:
        _add_cell(table, corners, summed, logits)
    return depth, 1.0 - transmittance


@numba.njit(cache=True, parallel=True)
def composite(march, rows, opacity, table, logits, depth, alpha, threads):
    """Thread t takes every ray t modulo ``threads``: neighbours in the list are about as long."""
    for t in numba.prange(threads):
        buffers = _buffers()
        for m in range(t, len(march.count), threads):
            depth[m], alpha[m] = _composite_ray(march, m, rows, opacity, table, logits[m], buffers)


@numba.njit(cache=True, fastmath=FAST)
def _leave_cell(corners, weights, slopes, grad, to_opacity, to_table):
    """Add a cell's share to the gradients and reset the sums."""
    for corner in range(8):
        weight, row = weights[corner], corners[corner]
        to_opacity[row] += slopes[corner]
        for k in range(len(grad)):
            to_table[row, k] += weight * grad[k]
        weights[corner] = 0
        slopes[corner] = 0


@numba.njit(cache=True, fastmath=FAST)
def _dot(a, b):
    total = np.float32(0)
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@numba.njit(cache=True, fastmath=FAST)
def _backward_ray(march, m, rows, opacity, table, total, grad, grads, gradients, buffers):
    """One ray's share of the gradients.

    total: sum of w_n v_n over the ray; v_n = grad . (logits_n, z_n, 1) is what weight w_n is worth. With t_n the
    optical depths, dL/dt_n = T_(n+1) v_n - sum of w_l v_l over the samples l behind n.
    """
    corners, weights, summed = buffers
    slopes, values = np.zeros(8, np.float32), np.zeros(8, np.float32)
    grad_depth, grad_alpha = grads
    to_opacity, to_table = gradients
    last_i, last_j, last_k = -1, -1, -1
    transmittance, behind = 1.0, total
    for n in range(march.count[m]):
        if transmittance <= march.limits[1]:
            break
        z, width = _sample(march, m, n)
        i, j, k, fx, fy, fz = _cell(march, m, z, rows.shape)
        if i != last_i or j != last_j or k != last_k:
            if last_i >= 0:
                _leave_cell(corners, summed, slopes, grad, to_opacity, to_table)
            _corner_rows(rows, i, j, k, corners)
            for corner in range(8):
                values[corner] = _dot(table[corners[corner]], grad)
            last_i, last_j, last_k = i, j, k
        _corner_weights(fx, fy, fz, weights)
        x, value = 0.0, grad_depth * z + grad_alpha
        for corner in range(8):
            x += weights[corner] * opacity[corners[corner]]
            value += weights[corner] * values[corner]
        voxels = width * march.voxels_per_z[m]
        thickness, probability = _optical_depth(x, voxels)
        alpha = -math.expm1(-thickness)
        if alpha < march.limits[0]:
            continue
        weight = transmittance * alpha
        transmittance -= weight
        behind -= weight * value
        slope = np.float32((transmittance * value - behind) * probability * voxels)
        for corner in range(8):
            summed[corner] += np.float32(weight) * weights[corner]
            slopes[corner] += slope * weights[corner]
    if last_i >= 0:
        _leave_cell(corners, summed, slopes, grad, to_opacity, to_table)


@numba.njit(cache=True, parallel=True)
def composite_backward(
    march, rows, opacity, table, logits, depth, alpha, grad_logits, grad_depth, grad_alpha, to_opacity, to_table
):
    """Gradients of the tables; each thread has sums of its own, [threads, V + 1] and [threads, V + 1, K]."""
    threads = len(to_opacity)
    for t in numba.prange(threads):
        buffers = _buffers()
        for m in range(t, len(march.count), threads):
            total = np.float64(grad_depth[m]) * depth[m] + np.float64(grad_alpha[m]) * alpha[m]
            for k in range(logits.shape[1]):
                total += np.float64(grad_logits[m, k]) * logits[m, k]
            grads = np.float64(grad_depth[m]), np.float64(grad_alpha[m])
            gradients = to_opacity[t], to_table[t]
            _backward_ray(march, m, rows, opacity, table, total, grad_logits[m], grads, gradients, buffers)
