"""Projection of Gaussians for the numba renderer: cull, project, and the way back for the gradients.

Each image is cut into ``STRIPS`` vertical strips of tiles. A *view* is one strip of one camera; view
``camera * STRIPS + strip``. A Gaussian seen in a view is an *entry* of it. Everything after the projection works on
views independently, which gives parallel tasks that share no memory, whatever the number of threads.
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
def _camera_point(row, means, g):
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
def _axes(row, quats, g, rotation, out):
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
    chunks = counts.shape[1]
    columns, lines = len(images.strip_of_column), images.wanted.shape[1] - 1
    near, far, eps, tile = images.limits[0], images.limits[1], images.limits[2], images.limits[3]
    c, chunk = task // chunks, task % chunks
    row = images.cameras[c]
    wanted = images.wanted[c]
    rotation, axes = np.empty((3, 3)), np.empty((3, 3))
    slope = math.sqrt(1 + max(row[16] ** 2, row[17] ** 2) + max(row[18] ** 2, row[19] ** 2))
    for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(scene.live))):
        strips[c, i, 0] = HIDDEN
        g = scene.live[i]
        x, y, z = _camera_point(row, scene.means, g)
        if not (z >= near and z <= far):
            continue
        u, v = row[12] * x / z + row[14], row[13] * y / z + row[15]
        extent = math.sqrt(2 * np.float64(scene.reach[i]))
        # A bound on the radius, cheap enough to drop most Gaussians before the covariance is formed.
        widest = max(scene.scales[g, 0], scene.scales[g, 1], scene.scales[g, 2])
        bound = extent * (widest * max(row[12], row[13]) * slope / z + math.sqrt(eps)) + 1
        if u + bound < 0 or v + bound < 0 or u - bound > columns * tile or v - bound > lines * tile:
            continue
        _axes(row, scene.quats, g, rotation, axes)
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
        x, y, z = _camera_point(row, scene.means, g)
        u, v = row[12] * x / z + row[14], row[13] * y / z + row[15]
        _axes(row, scene.quats, g, rotation, axes)
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


class Gradients(NamedTuple):
    """Gradients with respect to the arrays of ``Scene``, same shapes, zero on entry."""

    means: np.ndarray
    scales: np.ndarray
    quats: np.ndarray
    opacities: np.ndarray
    logits: np.ndarray


@numba.njit(cache=True)
def _back_to_ego(row, point, axes, scales, g, conic, grad, grad_axes, out):
    """Gradient of one Gaussian in one camera, from the image to camera point and scales.

    conic: (a, b, c); grad: [8], columns as Entries.geometry. Writes d/d axes to grad_axes [3, 3], adds d/d scales to
    ``out`` and returns d/d camera point.
    """
    x, y, z = point
    a, b, c = conic
    # d inverse(S) = -inverse(S) dS inverse(S); b stands for two entries of the symmetric matrix.
    ga, gb, gc = grad[A], 0.5 * grad[B], grad[C]
    p00, p01 = a * ga + b * gb, a * gb + b * gc
    p10, p11 = b * ga + c * gb, b * gb + c * gc
    g00 = -(p00 * a + p01 * b)
    g01 = -(p00 * b + p01 * c) - (p10 * a + p11 * b)
    g11 = -(p10 * b + p11 * c)
    j00, j11 = row[12] / z, row[13] / z
    slope_x, slope_y = x / z, y / z
    clamped_x, clamped_y = min(max(slope_x, row[16]), row[17]), min(max(slope_y, row[18]), row[19])
    j02, j12 = -j00 * clamped_x, -j11 * clamped_y
    g_j00 = g_j02 = g_j11 = g_j12 = 0.0
    for k in range(3):
        s = np.float64(scales[g, k])
        m0, m1 = j00 * axes[0, k] + j02 * axes[2, k], j11 * axes[1, k] + j12 * axes[2, k]
        out[k] += 2 * s * (m0 * m0 * g00 + m0 * m1 * g01 + m1 * m1 * g11)
        g_m0, g_m1 = s * s * (2 * m0 * g00 + m1 * g01), s * s * (2 * m1 * g11 + m0 * g01)
        g_j00 += g_m0 * axes[0, k]
        g_j02 += g_m0 * axes[2, k]
        g_j11 += g_m1 * axes[1, k]
        g_j12 += g_m1 * axes[2, k]
        grad_axes[0, k], grad_axes[1, k], grad_axes[2, k] = j00 * g_m0, j11 * g_m1, j02 * g_m0 + j12 * g_m1
    # j00 = fx / z, j02 = -j00 clamp(x / z); u = fx x / z + cx.
    g_j00 -= clamped_x * g_j02
    g_j11 -= clamped_y * g_j12
    g_slope_x = row[12] * grad[U] - (j00 * g_j02 if clamped_x == slope_x else 0.0)
    g_slope_y = row[13] * grad[V] - (j11 * g_j12 if clamped_y == slope_y else 0.0)
    g_z = grad[DEPTH] - (j00 * g_j00 + j11 * g_j11 + slope_x * g_slope_x + slope_y * g_slope_y) / z
    return g_slope_x / z, g_slope_y / z, g_z


@numba.njit(cache=True)
def _back_to_quat(quats, g, norm, grad_rotation, out):
    """Add the gradient with respect to the unnormalised quaternion to out [4]."""
    w, x, y, z = quats[g, 0] / norm, quats[g, 1] / norm, quats[g, 2] / norm, quats[g, 3] / norm
    r = grad_rotation
    gw = 2 * (x * (r[2, 1] - r[1, 2]) + y * (r[0, 2] - r[2, 0]) + z * (r[1, 0] - r[0, 1]))
    gx = 2 * (y * (r[0, 1] + r[1, 0]) + z * (r[0, 2] + r[2, 0]) + w * (r[2, 1] - r[1, 2])) - 4 * x * (r[1, 1] + r[2, 2])
    gy = 2 * (x * (r[0, 1] + r[1, 0]) + z * (r[1, 2] + r[2, 1]) + w * (r[0, 2] - r[2, 0])) - 4 * y * (r[0, 0] + r[2, 2])
    gz = 2 * (x * (r[0, 2] + r[2, 0]) + y * (r[1, 2] + r[2, 1]) + w * (r[1, 0] - r[0, 1])) - 4 * z * (r[0, 0] + r[1, 1])
    along = gw * w + gx * x + gy * y + gz * z  # normalising removes the part along the quaternion
    out[0] += (gw - along * w) / norm
    out[1] += (gx - along * x) / norm
    out[2] += (gy - along * y) / norm
    out[3] += (gz - along * z) / norm


@numba.njit(cache=True)
def _gather_gradients(chunk, scene, images, strips, starts, entries, entry_gradients, gradients):
    K = scene.logits.shape[1]
    rotation, axes, grad_axes, grad_rotation = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    grad, at = np.empty(8), starts[:, chunk].copy()
    out = np.empty(10)  # means, scales, quats of one Gaussian
    for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(scene.live))):
        g = scene.live[i]
        out[:] = 0
        opacity = 0.0
        for c in range(len(images.cameras)):
            if strips[c, i, 0] == HIDDEN:
                continue
            grad[:] = 0
            entry = 0
            for view in range(c * STRIPS + strips[c, i, 0], c * STRIPS + strips[c, i, 1] + 1):
                entry = at[view]
                at[view] += 1
                if entry_gradients[entry, REACH] == 0:
                    continue
                for k in range(8):
                    grad[k] += entry_gradients[entry, k]
                for k in range(K):
                    gradients.logits[g, k] += entry_gradients[entry, 8 + k]
            if grad[REACH] == 0:
                continue
            opacity += grad[OPACITY]
            row = images.cameras[c]
            norm = _axes(row, scene.quats, g, rotation, axes)
            geometry = entries.geometry[entry]
            conic = (np.float64(geometry[A]), np.float64(geometry[B]), np.float64(geometry[C]))
            point = _camera_point(row, scene.means, g)
            gx, gy, gz = _back_to_ego(row, point, axes, scene.scales, g, conic, grad, grad_axes, out[3:6])
            for k in range(3):
                out[k] += row[k] * gx + row[3 + k] * gy + row[6 + k] * gz
            if len(scene.quats) > 0:
                for m in range(3):
                    for n in range(3):
                        grad_rotation[m, n] = (
                            row[m] * grad_axes[0, n] + row[3 + m] * grad_axes[1, n] + row[6 + m] * grad_axes[2, n]
                        )
                _back_to_quat(scene.quats, g, norm, grad_rotation, out[6:10])
        gradients.opacities[g] = opacity
        for k in range(3):
            gradients.means[g, k] = out[k]
            gradients.scales[g, k] = out[3 + k]
        if len(scene.quats) > 0:
            for k in range(4):
                gradients.quats[g, k] = out[6 + k]


@numba.njit(cache=True, parallel=True)
def gather_gradients(scene, images, strips, starts, entries, entry_gradients, gradients):
    """Sum each Gaussian's entry gradients over strips and cameras and carry them back to the ego frame.

    A task owns a chunk of Gaussians and adds in the order camera, strip: no race, and the same sum every time.
    entry_gradients: float32 [E, 8 + K], columns as Entries.geometry (REACH counts contributions), then logits.
    """
    chunks = starts.shape[1]
    for chunk in numba.prange(chunks):
        _gather_gradients(chunk, scene, images, strips, starts, entries, entry_gradients, gradients)
