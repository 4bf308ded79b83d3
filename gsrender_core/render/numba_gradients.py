"""The way back through the projection of the numba renderer: from the images to the Gaussians."""

from typing import NamedTuple

import numba
import numpy as np

from gsrender_core.render.numba_projection import (
    CHUNK,
    DEPTH,
    HIDDEN,
    OPACITY,
    REACH,
    STRIPS,
    A,
    B,
    C,
    U,
    V,
    camera_axes,
    camera_point,
)


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
    """``gather_gradients`` for one chunk of Gaussians."""
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
            norm = camera_axes(row, scene.quats, g, rotation, axes)
            geometry = entries.geometry[entry]
            conic = (np.float64(geometry[A]), np.float64(geometry[B]), np.float64(geometry[C]))
            point = camera_point(row, scene.means, g)
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
