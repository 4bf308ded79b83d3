"""Splatting Gaussians into images: one interface, three renderers.

``torch`` is the readable reference for any device, ``numba`` the fast one for CPU training, ``gsplat`` the one for
CUDA. All follow the semantics of gsplat 1.5.3 (see ``RenderSettings``).
"""

import logging

import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.render.interface import Cameras, Pixels, Rendered, RenderSettings, check_inputs

__all__ = ["BACKENDS", "Cameras", "Pixels", "RenderSettings", "Rendered", "render_maps", "render_pixels"]

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "torch", "numba", "gsplat")


def render_pixels(
    gaussians: Gaussians,
    cameras: Cameras,
    pixels: Pixels,
    settings: RenderSettings | None = None,
    backend: str = "auto",
) -> Rendered:
    """Render the listed pixels only; differentiable in means, scales, quats, opacities and logits.

    torch and numba evaluate the Gaussians exactly at ``uv``. gsplat renders whole images at pixel centres and
    samples them bilinearly at ``uv``; at pixel centres all three agree.

    Args:
        gaussians: N Gaussians in the ego frame.
        cameras: C cameras, on the Gaussians' device.
        pixels: M positions, on the Gaussians' device; M may be 0.
        settings: compositing constants; default gsplat 1.5.3's with near 0.5 m and far 100 m.
        backend: one of ``BACKENDS``; "auto" takes gsplat for CUDA tensors (torch where its kernels cannot be
            compiled), else numba.

    Returns:
        logits [M, K], depth [M] metres, alpha [M], in the order of ``pixels``.

    Raises:
        ValueError: unknown backend, or inputs that ``check_inputs`` rejects.
        RuntimeError: gsplat asked for without CUDA.
    """
    settings = RenderSettings() if settings is None else settings
    check_inputs(gaussians, cameras, pixels)
    backend = _resolve(backend, gaussians.means.device)
    if backend == "torch":
        from gsrender_core.render.torch_renderer import render_pixels_torch as render
    elif backend == "numba":
        from gsrender_core.render.numba_renderer import render_pixels_numba as render
    else:
        from gsrender_core.render.gsplat_renderer import render_pixels_gsplat as render
    return render(gaussians, cameras, pixels, settings)


def render_maps(
    gaussians: Gaussians,
    cameras: Cameras,
    settings: RenderSettings | None = None,
    backend: str = "auto",
) -> Rendered:
    """Render whole images: logits [C, H, W, K], depth [C, H, W] metres, alpha [C, H, W] at the pixel centres."""
    if _resolve(backend, gaussians.means.device) == "gsplat":
        from gsrender_core.render.gsplat_renderer import render_maps_gsplat

        check_inputs(gaussians, cameras, Pixels.centers(Cameras(cameras.viewmats[:0], cameras.Ks[:0], 1, 1)))
        return render_maps_gsplat(gaussians, cameras, RenderSettings() if settings is None else settings)
    rendered = render_pixels(gaussians, cameras, Pixels.centers(cameras), settings, backend)
    shape = (len(cameras), cameras.height, cameras.width)
    return Rendered(
        rendered.logits.reshape(*shape, gaussians.logits.shape[1]),
        rendered.depth.reshape(shape),
        rendered.alpha.reshape(shape),
    )


def _resolve(backend: str, device: torch.device) -> str:
    """Name of the renderer that ``backend`` means for tensors on ``device``."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown render backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "auto" and device.type == "cuda":
        from gsrender_core.render.gsplat_renderer import kernels_available

        if kernels_available():
            return "gsplat"
        logger.warning("no CUDA toolkit to compile gsplat's kernels with: the much slower torch renderer is used")
        return "torch"
    if backend == "auto":
        return "numba"
    return backend
