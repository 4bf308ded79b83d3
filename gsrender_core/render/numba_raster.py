"""Tile lists and alpha compositing of the numba renderer, forward and backward.

A task is a view (one strip of one camera, see ``numba_projection``): its tiles, its pixels and its entries belong to
nobody else, so gradients are added up without locks and in a fixed order, whatever the number of threads.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from gsrender_core.render.numba_projection import DEPTH, OPACITY, REACH, STRIPS, A, B, C, U, V

# Reassociation lets dot products use vector registers; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz"}


class Tiles(NamedTuple):
    """Listed pixels grouped by tile; tile ``(camera * lines + line) * columns + column``."""

    start: np.ndarray  # int32 [tiles + 1], first pixel of each tile
    order: np.ndarray  # int32 [M], index of each grouped pixel in the caller's list
    uv: np.ndarray  # float32 [M, 2], grouped
    box: np.ndarray  # float32 [tiles, 4], u low, u high, v low, v high of the tile's pixels
    shape: np.ndarray  # int64 [2], lines and columns of tiles
    first_column: np.ndarray  # int32 [STRIPS + 1]
    views: np.ndarray  # int32 [C * STRIPS], order in which tasks are dealt out


class Composite(NamedTuple):
    """Outputs of the forward pass in the caller's pixel order, and what the backward pass needs of it."""

    logits: np.ndarray  # float32 [M, K]
    depth: np.ndarray  # float32 [M]
    alpha: np.ndarray  # float32 [M]
    transmittance: np.ndarray  # float64 [M], grouped order: what is left behind the last contribution
    last: np.ndarray  # int64 [M], grouped order: end of the part of the tile's list that contributed


@numba.njit(cache=True, inline="always")
def _nearest_exponent(geometry, box):
    """Smallest 0.5 d^T conic d over a rectangle: 0 inside, else on an edge that faces the centre.

    A little less, so that rounding at a pixel never finds what this bound has ruled out.
    """
    u, v = geometry[U], geometry[V]
    dx = max(box[0] - u, np.float32(0)) + min(box[1] - u, np.float32(0))
    dy = max(box[2] - v, np.float32(0)) + min(box[3] - v, np.float32(0))
    if dx == 0 and dy == 0:
        return np.float32(0)
    a, b, c = geometry[A], geometry[B], geometry[C]
    best = np.float32(np.inf)
    if dx != 0:
        y = min(max(-b * dx / c, box[2] - v), box[3] - v)
        best = np.float32(0.499999) * (a * dx * dx + c * y * y) + b * dx * y
    if dy != 0:
        x = min(max(-b * dy / a, box[0] - u), box[1] - u)
        best = min(best, np.float32(0.499999) * (a * x * x + c * dy * dy) + b * x * dy)
    return best


@numba.njit(cache=True)
def _count_tile_entries(task, entries, view_start, tiles, counts):
    """``count_tile_entries`` for one view."""
    lines, columns = tiles.shape[0], tiles.shape[1]
    view = tiles.views[task]
    base = (view // STRIPS) * lines
    for e in range(view_start[view], view_start[view + 1]):
        geometry = entries.geometry[e]
        limit = geometry[REACH] * np.float32(1.0001) + np.float32(1e-3)
        for line in range(entries.tiles[e, 2], entries.tiles[e, 3] + 1):
            for column in range(entries.tiles[e, 0], entries.tiles[e, 1] + 1):
                tile = (base + line) * columns + column
                if tiles.start[tile] < tiles.start[tile + 1]:
                    if _nearest_exponent(geometry, tiles.box[tile]) <= limit:
                        counts[tile] += 1


@numba.njit(cache=True, parallel=True)
def count_tile_entries(entries, view_start, tiles, counts):
    """Number of entries that reach a pixel of each tile, int64 [tiles], zero on entry."""
    for task in numba.prange(len(tiles.views)):
        _count_tile_entries(task, entries, view_start, tiles, counts)


@numba.njit(cache=True)
def _fill_tile_lists(task, entries, depth_order, view_start, tiles, list_end, members):
    """``fill_tile_lists`` for one view."""
    lines, columns = tiles.shape[0], tiles.shape[1]
    view = tiles.views[task]
    base = (view // STRIPS) * lines
    for i in range(view_start[view], view_start[view + 1]):
        e = depth_order[i]
        geometry = entries.geometry[e]
        limit = geometry[REACH] * np.float32(1.0001) + np.float32(1e-3)
        for line in range(entries.tiles[e, 2], entries.tiles[e, 3] + 1):
            for column in range(entries.tiles[e, 0], entries.tiles[e, 1] + 1):
                tile = (base + line) * columns + column
                if tiles.start[tile] < tiles.start[tile + 1]:
                    if _nearest_exponent(geometry, tiles.box[tile]) <= limit:
                        members[list_end[tile]] = e
                        list_end[tile] += 1


@numba.njit(cache=True, parallel=True)
def fill_tile_lists(entries, depth_order, view_start, tiles, list_end, members):
    """List the entries of each tile, nearest first.

    depth_order: int32 [E], entries of each view by depth. list_end: int64 [tiles], where each list starts; on return
    where it ends. members: int32, all lists behind each other.
    """
    for task in numba.prange(len(tiles.views)):
        _fill_tile_lists(task, entries, depth_order, view_start, tiles, list_end, members)


@numba.njit(cache=True, fastmath=FAST)
def _composite_forward(task, logits, entries, tiles, list_start, members, caps, out):
    """``composite_forward`` for one view."""
    lines, columns = tiles.shape[0], tiles.shape[1]
    K = logits.shape[1]
    alpha_max, transmittance_min = caps[0], np.float64(caps[1])
    view = tiles.views[task]
    base, strip = (view // STRIPS) * lines, view % STRIPS
    total = np.empty(K, np.float32)
    for line in range(lines):
        for column in range(tiles.first_column[strip], tiles.first_column[strip + 1]):
            tile = (base + line) * columns + column
            for p in range(tiles.start[tile], tiles.start[tile + 1]):
                u, v = tiles.uv[p, 0], tiles.uv[p, 1]
                total[:] = 0
                depth = np.float32(0)
                T = 1.0
                last = list_start[tile]
                for i in range(list_start[tile], list_start[tile + 1]):
                    e = members[i]
                    dx, dy = entries.geometry[e, U] - u, entries.geometry[e, V] - v
                    sigma = (
                        np.float32(0.5) * (entries.geometry[e, A] * dx * dx + entries.geometry[e, C] * dy * dy)
                        + entries.geometry[e, B] * dx * dy
                    )
                    # alpha >= alpha_min, asked without the exponential; below 0 is rounding, skipped as gsplat does.
                    if sigma > entries.geometry[e, REACH] or sigma < 0:
                        continue
                    alpha = min(entries.geometry[e, OPACITY] * math.exp(-sigma), alpha_max)
                    behind = T * (1.0 - alpha)
                    if behind <= transmittance_min:
                        break
                    weight = np.float32(alpha * T)
                    g = entries.gaussian[e]
                    for k in range(K):
                        total[k] += weight * logits[g, k]
                    depth += weight * entries.geometry[e, DEPTH]
                    T = behind
                    last = i + 1
                m = tiles.order[p]
                for k in range(K):
                    out.logits[m, k] = total[k]
                out.depth[m] = depth
                out.alpha[m] = 1.0 - T
                out.transmittance[p] = T
                out.last[p] = last


@numba.njit(cache=True, parallel=True)
def composite_forward(logits, entries, tiles, list_start, members, caps, out):
    """Blend every listed pixel front to back. caps: float32 [2], alpha_max and transmittance_min."""
    for task in numba.prange(len(tiles.views)):
        _composite_forward(task, logits, entries, tiles, list_start, members, caps, out)


@numba.njit(cache=True, fastmath=FAST)
def _composite_backward(task, logits, entries, tiles, list_start, members, caps, out, grads, entry_gradients):
    """``composite_backward`` for one view."""
    lines, columns = tiles.shape[0], tiles.shape[1]
    K = logits.shape[1]
    alpha_max = caps[0]
    grad_logits, grad_depth, grad_alpha = grads
    view = tiles.views[task]
    base, strip = (view // STRIPS) * lines, view % STRIPS
    pixel_grad = np.empty(K, np.float32)
    for line in range(lines):
        for column in range(tiles.first_column[strip], tiles.first_column[strip + 1]):
            tile = (base + line) * columns + column
            for p in range(tiles.start[tile], tiles.start[tile + 1]):
                u, v = tiles.uv[p, 0], tiles.uv[p, 1]
                m = tiles.order[p]
                for k in range(K):
                    pixel_grad[k] = grad_logits[m, k]
                d_depth, d_alpha = grad_depth[m], grad_alpha[m]
                T = out.transmittance[p]
                behind = -T * d_alpha  # d loss of everything behind, per unit of what passes
                for i in range(out.last[p] - 1, list_start[tile] - 1, -1):
                    e = members[i]
                    dx, dy = entries.geometry[e, U] - u, entries.geometry[e, V] - v
                    a, b, c = entries.geometry[e, A], entries.geometry[e, B], entries.geometry[e, C]
                    sigma = np.float32(0.5) * (a * dx * dx + c * dy * dy) + b * dx * dy
                    if sigma > entries.geometry[e, REACH] or sigma < 0:
                        continue
                    fall = math.exp(-sigma)
                    uncapped = entries.geometry[e, OPACITY] * fall
                    alpha = min(uncapped, alpha_max)
                    passes = 1.0 / (1.0 - alpha)
                    T *= passes
                    weight = np.float32(alpha * T)
                    g = entries.gaussian[e]
                    gradient = entry_gradients[e]
                    dot = np.float32(0)
                    for k in range(K):
                        dot += pixel_grad[k] * logits[g, k]
                        gradient[8 + k] += weight * pixel_grad[k]
                    dot += d_depth * entries.geometry[e, DEPTH]
                    gradient[DEPTH] += weight * d_depth
                    gradient[REACH] += np.float32(1)
                    d_value = T * dot - behind * passes
                    behind += alpha * T * dot
                    if uncapped <= alpha_max:
                        gradient[OPACITY] += np.float32(fall * d_value)
                        d_sigma = np.float32(-uncapped * d_value)
                        gradient[U] += d_sigma * (a * dx + b * dy)
                        gradient[V] += d_sigma * (b * dx + c * dy)
                        gradient[A] += d_sigma * np.float32(0.5) * dx * dx
                        gradient[B] += d_sigma * dx * dy
                        gradient[C] += d_sigma * np.float32(0.5) * dy * dy


@numba.njit(cache=True, parallel=True)
def composite_backward(logits, entries, tiles, list_start, members, caps, out, grads, entry_gradients):
    """Walk every pixel's list back to front.

    out: the forward pass's Composite. grads: gradients of its logits [M, K], depth [M] and alpha [M].
    entry_gradients: float32 [E, 8 + K], zero on entry; columns as Entries.geometry (REACH counts contributions), then
    logits.
    """
    for task in numba.prange(len(tiles.views)):
        _composite_backward(task, logits, entries, tiles, list_start, members, caps, out, grads, entry_gradients)
