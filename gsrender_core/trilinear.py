"""Trilinear look-up of points in a voxel volume, differentiable in the volume.

``torch.grid_sample`` is the reference and the path for other devices. On the CPU it walks one
channel after the other through memory that is laid out channels-last; the numba kernels read and
write whole feature rows.
"""

import numba
import numpy as np
import torch
import torch.nn.functional as F

from gsrender_core.numba_threads import numba_threads


def sample_rows(rows: torch.Tensor, shape: tuple[int, int, int], index: torch.Tensor) -> torch.Tensor:
    """Features at fractional voxel positions; zero outside, as ``grid_sample`` pads.

    Args:
        rows: [X * Y * Z, F] volume, channels last.
        shape: (X, Y, Z).
        index: [N, 3] positions in voxels: 0 is the centre of the first voxel. No gradient.

    Returns:
        [N, F]
    """
    if rows.device.type == "cpu" and rows.dtype == torch.float32:
        return _SampleRows.apply(rows, shape, index)
    return sample_rows_reference(rows, shape, index)


def sample_rows_reference(rows: torch.Tensor, shape: tuple[int, int, int], index: torch.Tensor) -> torch.Tensor:
    """``sample_rows`` by ``torch.grid_sample``."""
    volume = rows.view(*shape, -1).permute(3, 0, 1, 2)[None]
    # align_corners=False: -1 and 1 are the volume's outer borders, half a voxel beyond the outermost centres.
    position = (index + 0.5) / torch.tensor(shape, device=rows.device) * 2 - 1
    at = position.flip(-1).to(rows.dtype).view(1, 1, 1, -1, 3)  # grid_sample wants (last axis, ..., first axis)
    return F.grid_sample(volume, at, mode="bilinear", padding_mode="zeros", align_corners=False)[0, :, 0, 0].T


class _SampleRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, shape, index):
        ctx.shape, ctx.size = shape, rows.shape
        at = np.ascontiguousarray(index.detach().numpy(), dtype=np.float32)
        ctx.at = at
        out = np.zeros((len(at), rows.shape[1]), dtype=np.float32)
        with numba_threads():
            _gather(rows.detach().contiguous().numpy(), np.array(shape), at, out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx, grad):
        out = np.zeros(ctx.size, dtype=np.float32)
        with numba_threads() as threads:
            _scatter(np.ascontiguousarray(grad.numpy()), np.array(ctx.shape), ctx.at, out, threads)
        return torch.from_numpy(out), None, None


@numba.njit(cache=True, inline="always")
def _tap(shape, at, n, corner):
    """Row and weight of one of the eight corners around point n; row -1 where the corner lies outside."""
    row = 0
    weight = np.float32(1.0)
    for axis in range(3):
        low = np.floor(at[n, axis])
        fraction = at[n, axis] - low
        i = np.int64(low)
        if (corner >> axis) & 1:
            i += 1
            weight *= fraction
        else:
            weight *= np.float32(1.0) - fraction
        if i < 0 or i >= shape[axis]:
            return -1, np.float32(0.0)
        row = row * shape[axis] + i
    return row, weight


@numba.njit(parallel=True, cache=True)
def _gather(rows, shape, at, out):
    for n in numba.prange(len(at)):
        for corner in range(8):
            row, weight = _tap(shape, at, n, corner)
            if row >= 0:
                for f in range(rows.shape[1]):
                    out[n, f] += weight * rows[row, f]


@numba.njit(parallel=True, cache=True)
def _scatter(grad, shape, at, out, threads):
    """Each thread owns a range of channels, so that no two ever add to the same number."""
    channels = out.shape[1]
    for t in numba.prange(threads):
        first, last = t * channels // threads, (t + 1) * channels // threads
        for n in range(len(at)):
            for corner in range(8):
                row, weight = _tap(shape, at, n, corner)
                if row >= 0:
                    for f in range(first, last):
                        out[row, f] += weight * grad[n, f]
