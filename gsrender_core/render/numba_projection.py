"""Projection of Gaussians for the numba renderer: cull, cut into views, project.

Each image is cut into ``STRIPS`` vertical strips of tiles. A *view* is one strip of one camera; view
``camera * STRIPS + strip``. A Gaussian seen in a view is an *entry* of it. Everything after the projection works on
views independently, which gives parallel tasks that share no memory, whatever the number of threads.

Parallel loops call serial functions (``_name``): arrays inside tuples that a parallel loop itself writes to are lost
in numba's parallel transformation.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

STRIPS = 4
CHUNK = 4096  # Gaussians a task projects
HIDDEN = 255  # strip number of a Gaussian that a camera does not see

# Columns of Entries.geometry.
U, V, A, B, C, REACH, OPACITY, DEPTH = range(8)


class Scene(NamedTuple):
    """Gaussians as contiguous arrays; only the L ``live`` ones (opacity >= alpha_min) are looked at."""

    means: np.ndarray  # float32 [N, 3] m, ego
    scales: np.ndarray  # float32 [N, 3] m
    quats: np.ndarray  # float32 [N, 4] wxyz, or [0, 4] for axis-aligned Gaussians
    opacities: np.ndarray  # float32 [N]
    logits: np.ndarray  # float32 [N, K]
    live: np.ndarray  # int32 [L], increasing
    reach: np.ndarray  # float32 [L], ln(opacity / alpha_min): the largest exponent that still counts


class Images(NamedTuple):
    """Cameras and where the listed pixels lie."""

    cameras: np.ndarray  # float64 [C, 20]: R row by row, t, fx, fy, cx, cy, slope limits x low, x high, y low, y high
    wanted: np.ndarray  # int32 [C, lines + 1, columns + 1], tiles with pixels above and left of a tile corner
    strip_of_column: np.ndarray  # uint8 [columns]
    first_column: np.ndarray  # int32 [STRIPS + 1]
    limits: np.ndarray  # float64 [4]: near m, far m, eps2d px^2, tile px


class Entries(NamedTuple):
    """E Gaussians as their views see them, grouped by view, by Gaussian inside a view."""

    geometry: np.ndarray  # float32 [E, 8]: u, v, conic a, b, c, reach, opacity, depth
    gaussian: np.ndarray  # int32 [E]
    tiles: np.ndarray  # int16 [E, 4]: first column, last column, first line, last line, inside the strip


@numba.njit(cache=True, inline="always")
def camera_point(row, means, g):
    """Centre of Gaussian g in the camera, float64."""
    x, y, z = np.float64(means[g, 0]), np.float64(means[g, 1]), np.float64(means[g, 2])
    return (
        row[0] * x + row[1] * y + row[2] * z + row[9],
        row[3] * x + row[4] * y + row[5] * z + row[10],
        row[6] * x + row[7] * y + row[8] * z + row[11],
    )


@numba.njit(cache=True)
def _rotation(quats, g, out):
    """Rotation matrix of a quaternion into out [3, 3]; returns the quaternion's norm."""
    w, x, y, z = np.float64(quats[g, 0]), np.float64(quats[g, 1]), np.float64(quats[g, 2]), np.float64(quats[g, 3])
    norm = max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    out[0, 0], out[0, 1], out[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    out[1, 0], out[1, 1], out[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    out[2, 0], out[2, 1], out[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return norm


@numba.njit(cache=True)
def camera_axes(row, quats, g, rotation, out):
    """Gaussian axes in the camera, R_cam R_gaussian, into out [3, 3]; ``rotation`` [3, 3] is scratch."""
    if len(quats) == 0:
        for i in range(9):
            out[i // 3, i % 3] = row[i]
        return 1.0
    norm = _rotation(quats, g, rotation)
    for i in range(3):
        for j in range(3):
            out[i, j] = row[3 * i] * rotation[0, j] + row[3 * i + 1] * rotation[1, j] + row[3 * i + 2] * rotation[2, j]
    return norm


@numba.njit(cache=True)
def _covariance(row, point, axes, scales, g):
    """2D covariance c00, c01, c11 and |det| of one Gaussian, without blur; the determinant has no cancellation."""
    x, y, z = point
    j00, j11 = row[12] / z, row[13] / z
    j02 = -j00 * min(max(x / z, row[16]), row[17])
    j12 = -j11 * min(max(y / z, row[18]), row[19])
    c00 = c01 = c11 = 0.0
    s0, s1, s2 = np.float64(scales[g, 0]), np.float64(scales[g, 1]), np.float64(scales[g, 2])
    a0, b0 = (j00 * axes[0, 0] + j02 * axes[2, 0]) * s0, (j11 * axes[1, 0] + j12 * axes[2, 0]) * s0
    a1, b1 = (j00 * axes[0, 1] + j02 * axes[2, 1]) * s1, (j11 * axes[1, 1] + j12 * axes[2, 1]) * s1
    a2, b2 = (j00 * axes[0, 2] + j02 * axes[2, 2]) * s2, (j11 * axes[1, 2] + j12 * axes[2, 2]) * s2
    c00 = a0 * a0 + a1 * a1 + a2 * a2
    c01 = a0 * b0 + a1 * b1 + a2 * b2
    c11 = b0 * b0 + b1 * b1 + b2 * b2
    det = (a0 * b1 - a1 * b0) ** 2 + (a0 * b2 - a2 * b0) ** 2 + (a1 * b2 - a2 * b1) ** 2
    return c00, c01, c11, det


@numba.njit(cache=True, inline="always")
def _tile_span(center, radius, tile, last):
    """First and last tile that [center - radius, center + radius] px touches; first > last when none."""
    low = min(max(math.floor((center - radius) / tile), 0.0), last + 1.0)
    high = min(max(math.floor((center + radius) / tile), -1.0), np.float64(last))
    return int(low), int(high)


@numba.njit(cache=True)
def _find_entries(task, scene, images, strips, counts):
    """``find_entries`` for one chunk of Gaussians in one camera."""
    chunks = counts.shape[1]
    columns, lines = len(images.strip_of_column), images.wanted.shape[1] - 1
    near, far, eps, tile = images.limits[0], images.limits[1], images.limits[2], images.limits[3]
    c, chunk = task // chunks, task % chunks
    row = images.cameras[c]
    wanted = images.wanted[c]
    if wanted[lines, columns] == 0:  # nobody asks for a pixel of this camera
        strips[c, chunk * CHUNK : (chunk + 1) * CHUNK, 0] = HIDDEN
        return
    rotation, axes = np.empty((3, 3)), np.empty((3, 3))
    slope = math.sqrt(1 + max(row[16] ** 2, row[17] ** 2) + max(row[18] ** 2, row[19] ** 2))
    for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(scene.live))):
        strips[c, i, 0] = HIDDEN
        g = scene.live[i]
        x, y, z = camera_point(row, scene.means, g)
        if not (z >= near and z <= far):
            continue
        u, v = row[12] * x / z + row[14], row[13] * y / z + row[15]
        extent = math.sqrt(2 * np.float64(scene.reach[i]))
        # A bound on the radius, cheap enough to drop most Gaussians before the covariance is formed.
        widest = max(scene.scales[g, 0], scene.scales[g, 1], scene.scales[g, 2])
        bound = extent * (widest * max(row[12], row[13]) * slope / z + math.sqrt(eps)) + 1
        if u + bound < 0 or v + bound < 0 or u - bound > columns * tile or v - bound > lines * tile:
            continue
        camera_axes(row, scene.quats, g, rotation, axes)
        c00, _, c11, _ = _covariance(row, (x, y, z), axes, scene.scales, g)
        column0, column1 = _tile_span(u, extent * math.sqrt(c00 + eps) * 1.0001 + 0.01, tile, columns - 1)
        line0, line1 = _tile_span(v, extent * math.sqrt(c11 + eps) * 1.0001 + 0.01, tile, lines - 1)
        if column0 > column1 or line0 > line1:
            continue
        c1, l1 = column1 + 1, line1 + 1
        if wanted[l1, c1] - wanted[line0, c1] - wanted[l1, column0] + wanted[line0, column0] == 0:
            continue
        first, last = images.strip_of_column[column0], images.strip_of_column[column1]
        strips[c, i, 0], strips[c, i, 1] = first, last
        for strip in range(first, last + 1):
            counts[c * STRIPS + strip, chunk] += 1


@numba.njit(cache=True, parallel=True)
def find_entries(scene, images, strips, counts):
    """Which live Gaussian is seen in which strips.

    Fills strips uint8 [C, L, 2] (first and last strip, or HIDDEN) and counts int32 [C * STRIPS, chunks].
    """
    chunks = counts.shape[1]
    for task in numba.prange(len(images.cameras) * chunks):
        _find_entries(task, scene, images, strips, counts)


@numba.njit(cache=True)
def _write_entries(task, scene, images, strips, starts, entries):
    """``write_entries`` for one chunk of Gaussians in one camera."""
    chunks = starts.shape[1]
    columns, lines = len(images.strip_of_column), images.wanted.shape[1] - 1
    eps, tile = images.limits[2], images.limits[3]
    c, chunk = task // chunks, task % chunks
    row = images.cameras[c]
    rotation, axes = np.empty((3, 3)), np.empty((3, 3))
    at = starts[c * STRIPS : (c + 1) * STRIPS, chunk].copy()
    for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(scene.live))):
        if strips[c, i, 0] == HIDDEN:
            continue
        g = scene.live[i]
        x, y, z = camera_point(row, scene.means, g)
        u, v = row[12] * x / z + row[14], row[13] * y / z + row[15]
        camera_axes(row, scene.quats, g, rotation, axes)
        c00, c01, c11, det = _covariance(row, (x, y, z), axes, scene.scales, g)
        det += eps * (c00 + c11 + eps)
        c00, c11 = c00 + eps, c11 + eps
        extent = math.sqrt(2 * np.float64(scene.reach[i]))
        column0, column1 = _tile_span(u, extent * math.sqrt(c00) * 1.0001 + 0.01, tile, columns - 1)
        line0, line1 = _tile_span(v, extent * math.sqrt(c11) * 1.0001 + 0.01, tile, lines - 1)
        for strip in range(strips[c, i, 0], strips[c, i, 1] + 1):
            e = at[strip]
            at[strip] += 1
            geometry = entries.geometry[e]
            geometry[U], geometry[V] = u, v
            geometry[A], geometry[B], geometry[C] = c11 / det, -c01 / det, c00 / det
            geometry[REACH], geometry[OPACITY], geometry[DEPTH] = scene.reach[i], scene.opacities[g], z
            entries.gaussian[e] = g
            entries.tiles[e, 0] = max(column0, images.first_column[strip])
            entries.tiles[e, 1] = min(column1, images.first_column[strip + 1] - 1)
            entries.tiles[e, 2], entries.tiles[e, 3] = line0, line1


@numba.njit(cache=True, parallel=True)
def write_entries(scene, images, strips, starts, entries):
    """Project what ``find_entries`` found; starts int64 [C * STRIPS, chunks] is where each chunk writes."""
    chunks = starts.shape[1]
    for task in numba.prange(len(images.cameras) * chunks):
        _write_entries(task, scene, images, strips, starts, entries)
