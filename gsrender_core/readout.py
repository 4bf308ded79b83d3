"""Read-outs: from Gaussians to voxels, with their shape instead of their address.

Eq. 7 (``Gaussians.evidence``) asks a voxel's own Gaussian for its opacity and class, wherever its mean has moved and
however far it reaches. Here every Gaussian speaks for the voxels that it covers:

    opacity of a voxel = 1 - prod over Gaussians i of (1 - o_i w_i),    class = argmax_k sum_i o_i w_i p_ik,

with p_i the class *probabilities* (logits of faint Gaussians would outvote the rest) and w_i the Gaussian averaged over
the voxel, relative to the same average over a voxel centred on its mean. Along one axis, d voxels from the mean:

    w(d) = [erf((d + 1/2) / (s sqrt 2)) - erf((d - 1/2) / (s sqrt 2))] / [2 erf(1 / (2 s sqrt 2))],    s in voxels,

which is exp(-d^2 / 2 s^2) for wide Gaussians and, for narrow ones, 1 in the voxel that holds them: a narrow Gaussian at
its voxel's centre gives exactly Eq. 7. w is the product over the Gaussian's own axes (a turned Gaussian sees the cell
turned with it), and zero in voxels that its box of three standard deviations leaves alone.

``numba`` for CPU tensors, torch for others; ``readout_reference`` is the readable twin.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
import torch

from gsrender_core.gaussians import Gaussians, VoxelEvidence
from gsrender_core.numba_threads import numba_threads
from gsrender_core.render.torch_renderer import rotation_matrices
from gsrender_core.voxel_grid import VoxelGrid

REACH = 3.0  # standard deviations
MIN_OPACITY = 1 / 255  # fainter Gaussians are left out, as the renderers do
_SLAB = 4  # voxels in x that one task owns: tasks write to disjoint voxels, whatever the number of threads
_PAIRS = 1 << 21  # Gaussian-voxel pairs that torch holds at a time
_SQRT2 = math.sqrt(2.0)


class _Splats(NamedTuple):
    """Gaussians in voxel units, as contiguous float32 arrays."""

    means: np.ndarray  # [N, 3]; voxel (i, j, k) is [i, i + 1] x [j, j + 1] x [k, k + 1]
    scales: np.ndarray  # [N, 3]
    rotations: np.ndarray  # [N, 3, 3], columns are the own axes; or [0, 3, 3] for axis-aligned Gaussians
    opacities: np.ndarray  # [N]
    probabilities: np.ndarray  # [N, K]
    first: np.ndarray  # int32 [N, 3], the voxels that the box of REACH deviations overlaps
    last: np.ndarray  # int32 [N, 3], inclusive; below ``first`` outside the grid


def audible(gaussians: Gaussians) -> Gaussians:
    """Those that ``splat_evidence`` listens to: opacity of ``MIN_OPACITY`` or more."""
    return gaussians.select(torch.nonzero(gaussians.opacities >= MIN_OPACITY).squeeze(1))


def together(parts: list[Gaussians]) -> Gaussians:
    """Lists of Gaussians, one after the other; all with rotations or all without."""
    quats = None if parts[0].quats is None else torch.cat([g.quats for g in parts])
    means, scales, opacities, logits = (
        torch.cat([getattr(g, name) for g in parts]) for name in ("means", "scales", "opacities", "logits")
    )
    return Gaussians(means, scales, opacities, logits, quats)


def anchored(gaussians: Gaussians, centers: torch.Tensor, voxel_size_m: float) -> Gaussians:
    """The Gaussians, those that have left their own voxel made transparent (Fig. 8, "filtered by o and mu").

    Args:
        gaussians: N, one a voxel.
        centers: [N, 3], centres of their voxels, m.
        voxel_size_m: edge of a voxel.
    """
    inside = ((gaussians.means - centers).abs() <= voxel_size_m / 2).all(dim=-1)
    opacities = torch.where(inside, gaussians.opacities, torch.zeros_like(gaussians.opacities))
    return Gaussians(gaussians.means, gaussians.scales, opacities, gaussians.logits, gaussians.quats)


@torch.no_grad()
def splat_evidence(gaussians: Gaussians, grid: VoxelGrid, lowest_tau: float = 0.0) -> VoxelEvidence:
    """Spread Gaussians over the voxels of a grid, as the module says.

    Args:
        gaussians: N in the grid's ego frame, at any place.
        grid: the volume.
        lowest_tau: classes are summed up only where the opacity reaches it.

    Returns:
        opacity and probability float32, label uint8, all [X, Y, Z]; elsewhere label and probability are 0.
    """
    seen = audible(gaussians)
    low = torch.tensor(grid.min_m, dtype=torch.float64, device=seen.means.device)
    means = ((seen.means.double() - low) / grid.voxel_size_m).float()
    scales = (seen.scales / grid.voxel_size_m).float()
    R = None if seen.quats is None else rotation_matrices(seen.quats).float()
    reach = REACH * (scales if R is None else torch.einsum("nij,nj->ni", R.abs(), scales))
    shape = torch.tensor(grid.shape, device=means.device)
    # A box that ends on a border does not overlap the voxel beyond it.
    first = torch.minimum(torch.floor(means - reach).clamp(min=0), shape)
    last = torch.minimum(torch.ceil(means + reach).clamp(min=0), shape) - 1
    parts = (means, scales, R, seen.opacities.float(), torch.softmax(seen.logits.float(), dim=-1), first, last)
    run = _splat_numba if means.device.type == "cpu" else splat_torch
    return VoxelEvidence(*run(parts, tuple(grid.shape), lowest_tau)).view(grid.shape)


def _splat_numba(parts, shape, lowest_tau):
    means, scales, R, opacities, probabilities, first, last = parts

    def array(tensor, dtype):
        return np.ascontiguousarray(tensor.numpy(), dtype=dtype)

    splats = _Splats(
        array(means, np.float32),
        array(scales, np.float32),
        np.zeros((0, 3, 3), np.float32) if R is None else array(R, np.float32),
        array(opacities, np.float32),
        array(probabilities, np.float32),
        array(first, np.int32),
        array(last, np.int32),
    )
    members, begin = _by_slab(splats.first, splats.last, (shape[0] + _SLAB - 1) // _SLAB)
    free = np.ones(shape, np.float32)
    with numba_threads():
        _opacity_pass(splats, members, begin, free)
        opacity = 1 - free.reshape(-1)
        wanted = np.flatnonzero(opacity >= max(lowest_tau, 1e-7))
        rows = np.full(free.size, -1, np.int32)
        rows[wanted] = np.arange(len(wanted), dtype=np.int32)
        votes = np.zeros((len(wanted), splats.probabilities.shape[1]), np.float32)
        _class_pass(splats, members, begin, rows.reshape(shape), votes)
    label, probability = np.zeros(free.size, np.uint8), np.zeros(free.size, np.float32)
    label[wanted] = votes.argmax(axis=1)
    probability[wanted] = votes.max(axis=1, initial=0) / np.maximum(votes.sum(axis=1), np.float32(1e-30))
    return tuple(torch.from_numpy(values) for values in (opacity, label, probability))


@numba.njit(cache=True)
def _by_slab(first, last, slabs):
    """Gaussians that touch each slab of x: int32 members, grouped, in order, and where each group begins."""
    begin = np.zeros(slabs + 1, np.int64)
    for turn in range(2):
        if turn == 1:
            for s in range(slabs):
                begin[s + 1] += begin[s]
            members = np.empty(begin[slabs], np.int32)
            place = begin[:-1].copy()
        for g in range(len(first)):
            if last[g, 0] < first[g, 0] or last[g, 1] < first[g, 1] or last[g, 2] < first[g, 2]:
                continue
            for s in range(first[g, 0] // _SLAB, last[g, 0] // _SLAB + 1):
                if turn == 0:
                    begin[s + 1] += 1
                else:
                    members[place[s]] = g
                    place[s] += 1
    return members, begin


@numba.njit(cache=True)
def _profile(mean, scale, first, last, weights):
    """w of the voxels first .. last along one axis, into ``weights`` [0 .. last - first]."""
    unit = 1.0 / (np.float64(scale) * _SQRT2)
    peak = 2 * math.erf(0.5 * unit)
    below = math.erf((first - np.float64(mean)) * unit)
    for i in range(first, last + 1):
        above = math.erf((i + 1 - np.float64(mean)) * unit)
        weights[i - first] = (above - below) / peak
        below = above


@numba.njit(cache=True)
def _turned(splats, g, x, y, z):
    """w of a voxel for a turned Gaussian; 0 beyond its reach along an own axis."""
    dx = x + 0.5 - np.float64(splats.means[g, 0])
    dy = y + 0.5 - np.float64(splats.means[g, 1])
    dz = z + 0.5 - np.float64(splats.means[g, 2])
    weight = 1.0
    for a in range(3):
        R, scale = splats.rotations[g], np.float64(splats.scales[g, a])
        d = R[0, a] * dx + R[1, a] * dy + R[2, a] * dz
        if abs(d) >= REACH * scale + 0.5:
            return 0.0
        unit = 1.0 / (scale * _SQRT2)
        weight *= (math.erf((d + 0.5) * unit) - math.erf((d - 0.5) * unit)) / (2 * math.erf(0.5 * unit))
    return weight


@numba.njit(cache=True)
def _spread(splats, members, slab, counting, free, rows, votes):
    """Let a slab's Gaussians speak: multiply ``free`` or, ``counting``, add to the ``votes`` of voxels with a row."""
    turned, shape = len(splats.rotations) > 0, rows.shape if counting else free.shape
    wx, wy, wz = np.ones(_SLAB), np.ones(shape[1]), np.ones(shape[2])
    for g in members:
        x0, x1 = max(splats.first[g, 0], slab * _SLAB), min(splats.last[g, 0], slab * _SLAB + _SLAB - 1)
        y0, y1, z0, z1 = splats.first[g, 1], splats.last[g, 1], splats.first[g, 2], splats.last[g, 2]
        if not turned:
            _profile(splats.means[g, 0], splats.scales[g, 0], x0, x1, wx)
            _profile(splats.means[g, 1], splats.scales[g, 1], y0, y1, wy)
            _profile(splats.means[g, 2], splats.scales[g, 2], z0, z1, wz)
        for x in range(x0, x1 + 1):
            for y in range(y0, y1 + 1):
                along = splats.opacities[g] * wx[x - x0] * wy[y - y0]
                for z in range(z0, z1 + 1):
                    row = rows[x, y, z] if counting else 0
                    if row < 0:
                        continue
                    if turned:
                        part = splats.opacities[g] * _turned(splats, g, x, y, z)
                    else:
                        part = along * wz[z - z0]
                    if counting:
                        for k in range(votes.shape[1]):
                            votes[row, k] += part * splats.probabilities[g, k]
                    else:
                        free[x, y, z] *= 1 - part


@numba.njit(cache=True, parallel=True)
def _opacity_pass(splats, members, begin, free):
    rows, votes = np.zeros((0, 0, 0), np.int32), np.zeros((0, 0), np.float32)
    for slab in numba.prange(len(begin) - 1):
        _spread(splats, members[begin[slab] : begin[slab + 1]], slab, False, free, rows, votes)


@numba.njit(cache=True, parallel=True)
def _class_pass(splats, members, begin, rows, votes):
    free = np.zeros((0, 0, 0), np.float32)
    for slab in numba.prange(len(begin) - 1):
        _spread(splats, members[begin[slab] : begin[slab + 1]], slab, True, free, rows, votes)


def splat_torch(parts, shape, lowest_tau):
    """The same in torch, for any device."""
    means, probabilities = parts[0], parts[4]
    size = shape[0] * shape[1] * shape[2]
    log_free = torch.zeros(size, device=means.device)
    for _, voxel, part in _pairs(parts, shape):
        log_free.index_add_(0, voxel, torch.log1p(-part))
    opacity = -torch.expm1(log_free)
    wanted = torch.nonzero(opacity >= max(lowest_tau, 1e-7)).squeeze(1)
    row = torch.full((size,), -1, dtype=torch.int64, device=means.device)
    row[wanted] = torch.arange(len(wanted), device=means.device)
    votes = torch.zeros(len(wanted), probabilities.shape[1], device=means.device)
    for gaussian, voxel, part in _pairs(parts, shape):
        counted = row[voxel] >= 0
        gaussian, voxel, part = gaussian[counted], voxel[counted], part[counted]
        votes.index_add_(0, row[voxel], part[:, None] * probabilities[gaussian])
    label = torch.zeros(size, dtype=torch.uint8, device=means.device)
    probability = torch.zeros(size, device=means.device)
    if len(wanted):
        best, index = votes.max(dim=1)
        label[wanted] = index.to(torch.uint8)
        probability[wanted] = best / votes.sum(dim=1).clamp(min=1e-30)
    return opacity, label, probability


def _pairs(parts, shape):
    """Gaussian and voxel it may reach, a chunk at a time: indices int64 [P] of both and ``o w`` float32 [P]."""
    means, scales, R, opacities, _, first, last = parts
    extent = (last - first + 1).clamp(min=0).long()
    count = extent.prod(dim=1)
    if len(means) == 0:
        return
    size = max(1, _PAIRS // max(1, int(count.max())))
    for chunk in torch.arange(len(means), device=means.device).split(size):
        own = count[chunk]
        gaussian = chunk.repeat_interleave(own)
        n = torch.arange(len(gaussian), device=means.device) - (own.cumsum(0) - own).repeat_interleave(own)
        _, ny, nz = extent[gaussian].unbind(1)
        voxel = first[gaussian].long() + torch.stack((n // (ny * nz), n // nz % ny, n % nz), dim=1)
        d, scale = voxel + 0.5 - means[gaussian], scales[gaussian]
        if R is not None:
            d = torch.einsum("nij,ni->nj", R[gaussian], d)
        unit = 1 / (scale * _SQRT2)
        w = (torch.erf((d + 0.5) * unit) - torch.erf((d - 0.5) * unit)) / (2 * torch.erf(0.5 * unit))
        if R is not None:
            w = torch.where(d.abs() < REACH * scale + 0.5, w, torch.zeros_like(w))
        flat = (voxel[:, 0] * shape[1] + voxel[:, 1]) * shape[2] + voxel[:, 2]
        yield gaussian, flat, (opacities[gaussian] * w.prod(dim=1)).clamp(max=1)
