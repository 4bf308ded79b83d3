"""The CPU renderer for training: numba kernels behind a torch.autograd.Function, float32.

It does work only where a listed pixel asks for it. Order of events: drop Gaussians below alpha_min; project those
whose box touches a tile that holds a pixel; sort by depth; list the entries of each tile in that order; blend the
listed pixels. The forward pass keeps one transmittance and one list position a pixel, the backward pass walks the
lists in reverse. Results do not depend on the number of threads. Calls from several Python threads take turns
(``gsrender_core.numba_threads``).
"""

from typing import NamedTuple

import numpy as np
import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.numba_threads import numba_threads
from gsrender_core.render import numba_gradients
from gsrender_core.render import numba_projection as projection
from gsrender_core.render import numba_raster as raster
from gsrender_core.render.interface import Cameras, Pixels, Rendered, RenderSettings
from gsrender_core.render.numba_projection import STRIPS


class Pass(NamedTuple):
    """Everything of a forward pass that its backward pass uses again."""

    scene: projection.Scene
    images: projection.Images
    strips: np.ndarray
    starts: np.ndarray
    entries: projection.Entries
    tiles: raster.Tiles
    list_start: np.ndarray
    members: np.ndarray
    caps: np.ndarray
    composite: raster.Composite


def render_pixels_numba(gaussians: Gaussians, cameras: Cameras, pixels: Pixels, settings: RenderSettings) -> Rendered:
    """Render M listed pixels on the CPU; see ``gsrender_core.render.render_pixels``.

    Raises:
        ValueError: the Gaussians are not on the CPU.
    """
    if gaussians.means.device.type != "cpu":
        raise ValueError(f"the numba renderer runs on the CPU, the Gaussians are on {gaussians.means.device}")
    tensors = (gaussians.means, gaussians.scales, gaussians.opacities, gaussians.logits, gaussians.quats)
    logits, depth, alpha = _RenderPixels.apply(*tensors, (cameras, pixels, settings))
    return Rendered(logits, depth, alpha)


class _RenderPixels(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, scales, opacities, logits, quats, request):
        cameras, pixels, settings = request
        tensors = (means, scales, opacities, logits, quats)
        arrays = [None if t is None else _array(t) for t in tensors]
        done = _forward(arrays, cameras, pixels, settings)
        # The arrays may share memory with the inputs; saving these makes autograd notice in-place changes.
        ctx.save_for_backward(means, scales, opacities, logits, quats)
        ctx.done = done
        outputs = (done.composite.logits, done.composite.depth, done.composite.alpha)
        return tuple(torch.from_numpy(array).to(logits.dtype) for array in outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logits, grad_depth, grad_alpha):
        means, scales, opacities, logits, quats = ctx.saved_tensors
        grads = _backward(ctx.done, tuple(_array(g) for g in (grad_logits, grad_depth, grad_alpha)))
        like = (means, scales, opacities, logits, quats)
        order = (grads.means, grads.scales, grads.opacities, grads.logits, grads.quats)
        return (
            *(None if t is None else torch.from_numpy(g).to(t.dtype) for t, g in zip(like, order, strict=True)),
            None,
        )


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as a contiguous float32 array, without a copy where possible."""
    return tensor.detach().to(torch.float32).contiguous().numpy()


def _forward(arrays: list, cameras: Cameras, pixels: Pixels, settings: RenderSettings) -> Pass:
    """Project, sort, bin and blend. arrays: means, scales, opacities, logits, quats or None."""
    means, scales, opacities, logits, quats = arrays
    live = np.flatnonzero(opacities >= np.float32(settings.alpha_min)).astype(np.int32)
    reach = np.log(opacities[live] / np.float32(settings.alpha_min))
    quats = np.zeros((0, 4), np.float32) if quats is None else quats
    scene = projection.Scene(means, scales, quats, opacities, logits, live, reach)
    tiles, images = _lay_out(cameras, pixels, settings)
    caps = np.array([settings.alpha_max, settings.transmittance_min], np.float32)
    views, chunks = len(cameras) * STRIPS, -(-len(live) // projection.CHUNK)
    with numba_threads():
        strips = np.empty((len(cameras), len(live), 2), np.uint8)
        counts = np.zeros((views, chunks), np.int32)
        projection.find_entries(scene, images, strips, counts)
        ends = np.cumsum(counts, dtype=np.int64).reshape(views, chunks)
        starts = ends - counts
        total = int(ends[-1, -1]) if ends.size else 0
        entries = projection.Entries(
            np.empty((total, 8), np.float32), np.empty(total, np.int32), np.empty((total, 4), np.int16)
        )
        projection.write_entries(scene, images, strips, starts, entries)
        view_start = np.append(starts[:, 0] if chunks else np.zeros(views, np.int64), total)
        depth_order = _sort_by_depth(entries.geometry[:, projection.DEPTH], view_start)
        counts = np.zeros(len(tiles.start) - 1, np.int64)
        raster.count_tile_entries(entries, view_start, tiles, counts)
        list_start = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        members = np.empty(list_start[-1], np.int32)
        raster.fill_tile_lists(entries, depth_order, view_start, tiles, list_start[:-1].copy(), members)
        m, K = len(pixels), logits.shape[1]
        composite = raster.Composite(
            np.empty((m, K), np.float32),
            np.empty(m, np.float32),
            np.empty(m, np.float32),
            np.empty(m, np.float64),
            np.empty(m, np.int64),
        )
        raster.composite_forward(logits, entries, tiles, list_start, members, caps, composite)
    return Pass(scene, images, strips, starts, entries, tiles, list_start, members, caps, composite)


def _backward(done: Pass, pixel_grads: tuple[np.ndarray, np.ndarray, np.ndarray]) -> numba_gradients.Gradients:
    """Gradients of the scene's arrays from those of logits [M, K], depth [M] and alpha [M]."""
    scene, K = done.scene, done.scene.logits.shape[1]
    gradients = numba_gradients.Gradients(
        *(
            np.zeros(a.shape, np.float32)
            for a in (scene.means, scene.scales, scene.quats, scene.opacities, scene.logits)
        )
    )
    entry_gradients = np.zeros((len(done.entries.gaussian), 8 + K), np.float32)
    with numba_threads():
        raster.composite_backward(
            scene.logits,
            done.entries,
            done.tiles,
            done.list_start,
            done.members,
            done.caps,
            done.composite,
            pixel_grads,
            entry_gradients,
        )
        numba_gradients.gather_gradients(
            scene, done.images, done.strips, done.starts, done.entries, entry_gradients, gradients
        )
    return gradients


def _lay_out(cameras: Cameras, pixels: Pixels, settings: RenderSettings) -> tuple[raster.Tiles, projection.Images]:
    """Group the pixels by tile and describe the images to the kernels."""
    tile, width, height = settings.tile, cameras.width, cameras.height
    lines, columns, C = -(-height // tile), -(-width // tile), len(cameras)
    uv = _array(pixels.uv)
    column = np.minimum((uv[:, 0] / tile).astype(np.int64), columns - 1)
    line = np.minimum((uv[:, 1] / tile).astype(np.int64), lines - 1)
    tile_of_pixel = (pixels.camera.numpy() * lines + line) * columns + column
    order = np.argsort(tile_of_pixel, kind="stable").astype(np.int32)
    counts = np.bincount(tile_of_pixel, minlength=C * lines * columns)
    start = np.concatenate((np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)))
    grouped = uv[order]
    box = np.zeros((len(counts), 4), np.float32)
    filled = np.flatnonzero(counts)
    if len(filled):
        box[filled, 0::2] = np.minimum.reduceat(grouped, start[filled])
        box[filled, 1::2] = np.maximum.reduceat(grouped, start[filled])

    first_column = (np.arange(STRIPS + 1) * columns // STRIPS).astype(np.int32)
    strip_of_column = np.repeat(np.arange(STRIPS, dtype=np.uint8), np.diff(first_column))
    filled_tiles = (counts > 0).reshape(C, lines, columns)
    wanted = np.zeros((C, lines + 1, columns + 1), np.int32)
    wanted[:, 1:, 1:] = filled_tiles.cumsum(1).cumsum(2)
    images = projection.Images(
        _camera_rows(cameras),
        wanted,
        strip_of_column,
        first_column,
        np.array([settings.near_m, settings.far_m, settings.eps2d, tile], np.float64),
    )
    # Threads take neighbouring tasks; dealing the heavy views out alternately evens their load.
    load = (
        np.add.reduceat(counts.reshape(C, lines, columns).sum(1), first_column[:-1], axis=1)
        if columns >= STRIPS
        else (np.zeros((C, STRIPS)))
    )
    by_load = np.argsort(-load.reshape(-1), kind="stable")
    views = np.concatenate((by_load[0::2], by_load[1::2])).astype(np.int32)
    return raster.Tiles(start, order, grouped, box, np.array([lines, columns]), first_column, views), images


def _camera_rows(cameras: Cameras) -> np.ndarray:
    """Cameras as float64 [C, 20], columns as ``numba_projection.Images.cameras``."""
    T = cameras.viewmats.detach().double().numpy()
    K = cameras.Ks.detach().double().numpy()
    fx, fy, cx, cy = K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]
    width, height = cameras.width, cameras.height
    # The Jacobian is held at 0.15 image sizes outside the image: 1.3 times the field of view.
    limits = (
        -(cx + 0.15 * width) / fx,
        (1.15 * width - cx) / fx,
        -(cy + 0.15 * height) / fy,
        (1.15 * height - cy) / fy,
    )
    columns = [T[:, :3, :3].reshape(-1, 9), T[:, :3, 3], np.stack((fx, fy, cx, cy, *limits), axis=1)]
    return np.ascontiguousarray(np.concatenate(columns, axis=1))


def _sort_by_depth(depth: np.ndarray, view_start: np.ndarray) -> np.ndarray:
    """Entries of each view by depth, ties by Gaussian index: int32 [E].

    Positive floats order like their bits, so bits and index share one integer, and numpy sorts integers fastest.
    """
    keys = (np.ascontiguousarray(depth).view(np.int32).astype(np.int64) << 32) | np.arange(len(depth))
    for low, high in zip(view_start[:-1], view_start[1:], strict=True):
        keys[low:high].sort()
    return (keys & 0xFFFFFFFF).astype(np.int32)
