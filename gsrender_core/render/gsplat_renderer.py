"""The CUDA renderer: whole images through gsplat 1.5.3's kernels, sampled at the listed pixels."""

import importlib.util

import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.render.interface import Cameras, Pixels, Rendered, RenderSettings

# Compiled into gsplat 1.5.3's kernels (1.6.0 caps at 0.99).
_COMPILED = {"alpha_min": 1.0 / 255.0, "alpha_max": 0.999, "transmittance_min": 1e-4}


def kernels_available() -> bool:
    """Whether gsplat can render here: CUDA, and kernels that are compiled or a CUDA toolkit to compile them with."""
    if not torch.cuda.is_available():
        return False
    from torch.utils.cpp_extension import CUDA_HOME

    return CUDA_HOME is not None or importlib.util.find_spec("gsplat.csrc") is not None


def render_pixels_gsplat(gaussians: Gaussians, cameras: Cameras, pixels: Pixels, settings: RenderSettings) -> Rendered:
    """Render M pixels on CUDA; see ``gsrender_core.render.render_pixels``.

    gsplat rasterises at pixel centres, so the maps are interpolated bilinearly at ``uv``; positions beyond the
    outermost centres take the border's value. At pixel centres this is exact.

    Raises:
        RuntimeError: no CUDA device, or the Gaussians are not on it.
        ValueError: settings that gsplat's kernels do not have.
    """
    used, camera = torch.unique(pixels.camera, return_inverse=True)
    if len(used) == 0:
        used = pixels.camera.new_zeros(1)  # nothing to sample, yet the result stays connected to its inputs
    chosen = Cameras(cameras.viewmats[used], cameras.Ks[used], cameras.width, cameras.height)
    maps = render_maps_gsplat(gaussians, chosen, settings)
    planes = torch.cat((maps.logits, maps.depth[..., None], maps.alpha[..., None]), dim=-1)
    sampled = sample_bilinear(planes, Pixels(camera, pixels.uv))
    return Rendered(sampled[:, :-2], sampled[:, -2], sampled[:, -1])


def render_maps_gsplat(
    gaussians: Gaussians, cameras: Cameras, settings: RenderSettings, in_one_pass: bool = False
) -> Rendered:
    """Render C whole images on CUDA: logits [C, H, W, K], depth [C, H, W] metres, alpha [C, H, W].

    Projection and sorting happen once. Logits and depth are rasterised in two passes of K and 1 channels: 17 is a
    compiled width, whereas 17 + 1 would be padded to 32. ``in_one_pass``: padded all the same (for the bench).

    Raises:
        RuntimeError: no CUDA device, or the Gaussians are not on it.
        ValueError: settings that gsplat's kernels do not have.
    """
    if not torch.cuda.is_available():
        # gsplat's first call would start compiling its kernels here, and then fail.
        raise RuntimeError(
            "the gsplat renderer needs a CUDA device and torch sees none; use backend 'numba' or 'torch'"
        )
    if gaussians.means.device.type != "cuda":
        raise RuntimeError(
            f"the gsplat renderer needs Gaussians on CUDA, they are on {gaussians.means.device}; move them or use "
            "backend 'auto'"
        )
    for name, value in _COMPILED.items():
        if abs(getattr(settings, name) - value) > 1e-9:
            raise ValueError(
                f"gsplat's kernels have {name} = {value:.6g} built in, settings ask for "
                f"{getattr(settings, name):.6g}; use backend 'torch'"
            )
    from gsplat import rasterization

    means, quats = gaussians.means.float(), gaussians.quats
    if quats is None:
        quats = means.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(len(gaussians), 4).contiguous()
    channels = gaussians.logits.shape[1]
    planes, alphas, _ = rasterization(
        means=means,
        quats=quats.float(),
        scales=gaussians.scales.float(),
        opacities=gaussians.opacities.float(),
        colors=gaussians.logits.float(),
        viewmats=cameras.viewmats.float(),
        Ks=cameras.Ks.float(),
        width=cameras.width,
        height=cameras.height,
        near_plane=settings.near_m,
        far_plane=settings.far_m,
        eps2d=settings.eps2d,
        packed=True,
        tile_size=settings.tile,
        render_mode="RGB+D",
        channel_chunk=channels + 1 if in_one_pass else channels,
    )
    dtype = gaussians.logits.dtype
    return Rendered(planes[..., :channels].to(dtype), planes[..., channels].to(dtype), alphas[..., 0].to(dtype))


def sample_bilinear(maps: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """Values [M, D] of maps [C, H, W, D] at sub-pixel positions, (0.5, 0.5) being the first pixel's centre."""
    C, height, width, D = maps.shape
    limit = maps.new_tensor([width - 1, height - 1])
    position = torch.minimum((pixels.uv.to(maps) - 0.5).clamp(min=0), limit)
    low = position.floor()
    fraction = position - low
    low = low.long()
    high = torch.minimum(low + 1, limit.long())
    flat = maps.reshape(-1, D)
    first = pixels.camera * height
    out = maps.new_zeros(len(pixels), D)
    for row, weight_v in ((low[:, 1], 1 - fraction[:, 1]), (high[:, 1], fraction[:, 1])):
        for column, weight_u in ((low[:, 0], 1 - fraction[:, 0]), (high[:, 0], fraction[:, 0])):
            out = out + flat[(first + row) * width + column] * (weight_v * weight_u)[:, None]
    return out
