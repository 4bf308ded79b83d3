"""Every renderer against a dense float64 one, on fresh random scenes; and what must hold for any scene."""

import math
import secrets
import threading

import pytest
import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.geometry import rotation_from_quaternion
from gsrender_core.render import Cameras, Pixels, RenderSettings, render_maps, render_pixels
from gsrender_core.render.gsplat_renderer import kernels_available
from gsrender_core.render.torch_renderer import render_pixels_torch

WIDTH, HEIGHT = 100, 70
NAMES = ("means", "scales", "opacities", "logits", "quats")


def random_scene(seed: int, count: int, channels: int, rotated: bool, views: int = 3):
    """Float32 Gaussians around random cameras, and random pixels in all of them."""
    rng = torch.Generator().manual_seed(seed)
    viewmats = torch.zeros(views, 4, 4)
    viewmats[:, 3, 3] = 1
    for c in range(views):
        quat = torch.randn(4, generator=rng).tolist()
        viewmats[c, :3, :3] = torch.from_numpy(rotation_from_quaternion(quat)).float()
        viewmats[c, :3, 3] = torch.randn(3, generator=rng)
    K = torch.tensor([[60.0, 0, 47.0], [0, 55.0, 36.0], [0, 0, 1]])
    cameras = Cameras(viewmats, K.repeat(views, 1, 1), WIDTH, HEIGHT)
    gaussians = Gaussians(
        torch.randn(count, 3, generator=rng) * 4,
        0.05 + 0.9 * torch.rand(count, 3, generator=rng),
        torch.rand(count, generator=rng),
        torch.randn(count, channels, generator=rng),
        torch.randn(count, 4, generator=rng) * 2 if rotated else None,
    )
    gaussians.opacities[: count // 3] = 0.95 + 0.05 * gaussians.opacities[: count // 3]  # finishes pixels
    gaussians.opacities[:20] = 1.0  # exercises the cap
    camera = torch.randint(0, views, (400,), generator=rng)
    uv = torch.rand(400, 2, generator=rng) * torch.tensor([WIDTH, HEIGHT])
    return gaussians, cameras, Pixels(camera, uv)


def dense_reference(gaussians: Gaussians, cameras: Cameras, pixels: Pixels, settings: RenderSettings):
    """Every Gaussian at every pixel in float64, one Gaussian after the other, with the textbook formulas.

    Returns:
        features [M, K + 2] (logits, depth, alpha) and a bool [M]: no decision about the pixel was so close that
        float32 may take it the other way.
    """
    leaves = [getattr(gaussians, name) for name in NAMES]
    means, scales, opacities, logits, quats = [t if t is None else t.double() for t in leaves]
    out = torch.zeros(len(pixels), logits.shape[1] + 2, dtype=torch.float64)
    clear = torch.ones(len(pixels), dtype=torch.bool)
    covariance = torch.diag_embed(scales**2)
    if quats is not None:
        w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
        zero = torch.zeros_like(w)
        cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), 1).reshape(-1, 3, 3)
        R = torch.eye(3, dtype=torch.float64) + 2 * w[:, None, None] * cross + 2 * cross @ cross
        covariance = R @ covariance @ R.transpose(1, 2)
    for c in range(len(cameras)):
        index = torch.nonzero(pixels.camera == c)[:, 0]
        T_cam_ego, K, uv = cameras.viewmats[c].double(), cameras.Ks[c].double(), pixels.uv[index].double()
        points = means @ T_cam_ego[:3, :3].T + T_cam_ego[:3, 3]
        T = torch.ones(len(index), dtype=torch.float64)
        done = torch.zeros(len(index), dtype=torch.bool)
        rows, sure, last_z = out[index], clear[index], torch.full((len(index),), -1.0, dtype=torch.float64)
        for g in torch.argsort(points[:, 2]).tolist():
            x, y, z = points[g]
            near_edge = min(abs(z.item() / settings.near_m - 1), abs(z.item() / settings.far_m - 1)) < 1e-4
            if not settings.near_m <= z <= settings.far_m:
                continue
            slopes = []
            for slope, f, center, size in ((x / z, K[0, 0], K[0, 2], WIDTH), (y / z, K[1, 1], K[1, 2], HEIGHT)):
                low, high = -center / f - 0.3 * size / (2 * f), (size - center) / f + 0.3 * size / (2 * f)
                near_edge |= min(abs(slope - low), abs(slope - high)) < 1e-5
                slopes.append(slope if low < slope < high else (low if slope <= low else high))
            J = torch.zeros(2, 3, dtype=torch.float64)
            J[0, 0], J[1, 1] = K[0, 0] / z, K[1, 1] / z
            J[0, 2], J[1, 2] = -K[0, 0] * slopes[0] / z, -K[1, 1] * slopes[1] / z
            W = T_cam_ego[:3, :3]
            covariance2d = J @ W @ covariance[g] @ W.T @ J.T + settings.eps2d * torch.eye(2, dtype=torch.float64)
            center = torch.stack((K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]))
            d = uv - center
            uncapped = opacities[g] * torch.exp(-0.5 * (d @ torch.linalg.inv(covariance2d) * d).sum(1))
            alpha = uncapped.clamp(max=settings.alpha_max)
            behind = T * (1 - alpha)
            asked = ~done
            counts = asked & (uncapped >= settings.alpha_min)
            with torch.no_grad():
                close = (uncapped / settings.alpha_min - 1).abs() < 1e-3
                close |= counts & ((behind / settings.transmittance_min - 1).abs() < 1e-3)
                close |= counts & ((uncapped / settings.alpha_max - 1).abs() < 1e-4)
                close |= counts & ((z / last_z - 1).abs() < 1e-5)
                close |= counts & near_edge
                sure &= ~(asked & close)
                last_z = torch.where(counts, z, last_z)
            done = done | (counts & (behind <= settings.transmittance_min))
            counts = counts & ~done
            weight = torch.where(counts, T * alpha, torch.zeros_like(T))
            rows = rows + weight[:, None] * torch.cat((logits[g], z[None], torch.ones_like(z)[None]))
            T = torch.where(counts, behind, T)
        out = out.index_copy(0, index, rows)
        clear[index] = sure
    return out, clear


def leaves_of(gaussians: Gaussians, dtype=torch.float32) -> Gaussians:
    """The same Gaussians as leaves that collect gradients."""
    tensors = [getattr(gaussians, name) for name in NAMES]
    return Gaussians(*(None if t is None else t.detach().to(dtype).requires_grad_() for t in tensors))


def gradients_of(gaussians: Gaussians, features: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    leaves = {name: t for name in NAMES if (t := getattr(gaussians, name)) is not None}
    return dict(zip(leaves, torch.autograd.grad((features * weights).sum(), list(leaves.values())), strict=True))


def features_of(rendered) -> torch.Tensor:
    return torch.cat((rendered.logits, rendered.depth[:, None], rendered.alpha[:, None]), 1)


def comparable_scene(channels: int, rotated: bool):
    """A fresh seed, its scene, leaves of it in float64, and the dense reference with the pixels that it is sure of.

    In one scene of some hundreds a large Gaussian lies so near a threshold that no pixel it touches is sure, or little
    is seen at all: then the next one is drawn.
    """
    for _ in range(5):
        seed = secrets.randbits(32)
        scene = random_scene(seed, 300, channels, rotated)
        exact = leaves_of(scene[0], torch.float64)
        expected, clear = dense_reference(exact, *scene[1:], RenderSettings())
        alpha = expected[:, -1]
        if clear.float().mean() > 0.9 and alpha.mean() > 0.2 and alpha.max() > 0.99:
            return seed, scene, exact, (expected, clear)
    raise AssertionError(f"seed {seed}: too few pixels left to compare in five scenes, or they are almost empty")


@pytest.mark.parametrize("channels, rotated", [(17, False), (17, True), (1, True), (5, False)])
def test_torch_and_numba_agree_with_the_dense_reference(channels, rotated):
    seed, (gaussians, cameras, pixels), exact, (expected, clear) = comparable_scene(channels, rotated)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed)).double() * clear[:, None]
    weights[:, -2] *= 0.1  # depth in metres would outweigh everything
    expected_gradients = gradients_of(exact, expected, weights)
    for backend in ("torch", "numba"):
        scene = leaves_of(gaussians)
        got = features_of(render_pixels(scene, cameras, pixels, backend=backend))
        error = (got - expected)[clear].abs().max().item()
        assert error <= 1e-4, f"{backend}, seed {seed}: off by {error:.2e}"
        for name, gradient in gradients_of(scene, got, weights.float()).items():
            wanted = expected_gradients[name]
            excess = ((gradient - wanted).abs() - 1e-3 * wanted.abs() - 1e-4 * wanted.abs().max()).max().item()
            assert wanted.abs().max() > 1e-3, f"seed {seed}: gradient of {name} vanishes, nothing is compared"
            assert excess <= 0, f"{backend}, seed {seed}: gradient of {name} beyond tolerance by {excess:.2e}"


def test_whole_images_numba_against_torch():
    seed = secrets.randbits(32)
    gaussians, cameras, _ = random_scene(seed, 3000, 3, True, views=2)
    slow, fast = (render_maps(gaussians, cameras, backend=b) for b in ("torch", "numba"))
    for name in ("logits", "depth", "alpha"):
        error = (getattr(slow, name) - getattr(fast, name)).abs()
        # A threshold taken the other way in float32 changes a pixel by up to about 0.004 of its value.
        assert error.quantile(0.99) < 1e-4, f"seed {seed}: {name}"
    assert slow.alpha.shape == (2, HEIGHT, WIDTH) and slow.alpha.mean() > 0.3, f"seed {seed}"


def test_gradcheck_of_the_torch_renderer():
    gaussians, cameras, pixels = random_scene(7, 12, 2, True, views=1)
    scene = leaves_of(gaussians, torch.float64)
    scene.means.data.copy_(torch.tensor([0, 0, 4.0]) + torch.randn(12, 3, generator=torch.Generator().manual_seed(1)))
    scene.opacities.data.fill_(0.4)
    cameras.viewmats[:] = torch.eye(4)
    few = Pixels(pixels.camera[:6], 35 + 0.3 * pixels.uv[:6])
    settings = RenderSettings(alpha_min=1e-12)  # no jump at the rim of a Gaussian

    def render(*tensors):
        return features_of(render_pixels(Gaussians(*tensors), cameras, few, settings, backend="torch"))

    inputs = tuple(getattr(scene, name) for name in NAMES)
    assert render(*inputs)[:, -1].max() > 0.3
    assert torch.autograd.gradcheck(render, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_cameras_without_pixels_change_nothing(backend):
    """A training step asks for pixels of some cameras only; the others are not looked at."""
    seed = secrets.randbits(32)
    gaussians, cameras, pixels = random_scene(seed, 5000, 4, True)
    asked = pixels.camera == 1
    alone = Cameras(cameras.viewmats[1:2], cameras.Ks[1:2], WIDTH, HEIGHT)
    results = []
    for where, wanted in (
        (cameras, Pixels(pixels.camera[asked], pixels.uv[asked])),
        (alone, Pixels(torch.zeros_like(pixels.camera[asked]), pixels.uv[asked])),
    ):
        scene = leaves_of(gaussians)
        got = features_of(render_pixels(scene, where, wanted, backend=backend))
        results.append({"features": got, **gradients_of(scene, got, torch.ones_like(got))})
    assert results[0]["features"].abs().max() > 0.1, f"seed {seed}: nothing is seen"
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], msg=lambda text, name=name: f"seed {seed}: {name}: {text}")


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_order_of_gaussians_does_not_matter(backend):
    seed = secrets.randbits(32)
    gaussians, cameras, pixels = random_scene(seed, 800, 4, True)
    shuffle = torch.randperm(800, generator=torch.Generator().manual_seed(seed))
    shuffled = Gaussians(*(getattr(gaussians, name)[shuffle] for name in NAMES))
    a, b = (features_of(render_pixels(g, cameras, pixels, backend=backend)) for g in (gaussians, shuffled))
    assert torch.allclose(a, b, atol=2e-4), f"seed {seed}: {(a - b).abs().max():.2e}"


def test_tile_size_and_blocks_do_not_change_the_result():
    gaussians, cameras, pixels = random_scene(secrets.randbits(32), 500, 2, False)
    whole = features_of(render_pixels_torch(gaussians, cameras, pixels, RenderSettings()))
    assert torch.allclose(
        whole, features_of(render_pixels_torch(gaussians, cameras, pixels, RenderSettings(), 500)), atol=1e-5
    )
    fast = features_of(render_pixels(gaussians, cameras, pixels, backend="numba"))
    for tile in (5, 64, 512):  # 512: fewer tiles than strips
        settings = RenderSettings(tile=tile)
        assert torch.equal(fast, features_of(render_pixels(gaussians, cameras, pixels, settings, "numba")))
        assert torch.allclose(
            whole, features_of(render_pixels(gaussians, cameras, pixels, settings, "torch")), atol=1e-5
        )


def run_numba(scene, cameras, pixels) -> list[torch.Tensor]:
    scene = leaves_of(scene)
    got = features_of(render_pixels(scene, cameras, pixels, backend="numba"))
    return [got.detach(), *gradients_of(scene, got, torch.ones_like(got)).values()]


def test_numba_is_the_same_for_any_number_of_threads_and_callers():
    scene, cameras, pixels = random_scene(secrets.randbits(32), 6000, 3, True)
    threads = torch.get_num_threads()
    results = [None] * 4

    def call(i):
        torch.set_num_threads(2)  # a thread begins with the environment's number
        results[i] = run_numba(scene, cameras, pixels)

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    try:
        torch.set_num_threads(1)
        alone = run_numba(scene, cameras, pixels)
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(threads)
    for result in results:
        assert all(torch.equal(a, b) for a, b in zip(alone, result, strict=True))


def test_numba_keeps_the_callers_float_type():
    gaussians, cameras, pixels = random_scene(3, 50, 2, True)
    scene = leaves_of(gaussians, torch.float64)
    got = features_of(render_pixels(scene, cameras, pixels, backend="numba"))
    assert got.dtype == torch.float64
    assert all(g.dtype == torch.float64 for g in gradients_of(scene, got, torch.ones_like(got)).values())


@pytest.mark.skipif(not kernels_available(), reason="gsplat needs CUDA and compiled kernels or a CUDA toolkit")
def test_gsplat_agrees_with_torch_at_pixel_centres():
    seed = secrets.randbits(32)
    gaussians, cameras, _ = random_scene(seed, 2000, 17, True)
    gaussians = Gaussians(*(getattr(gaussians, name).cuda() for name in NAMES))
    cameras = Cameras(cameras.viewmats.cuda(), cameras.Ks.cuda(), WIDTH, HEIGHT)
    centers = Pixels.centers(cameras)
    picked = torch.randperm(len(centers), device="cuda")[:4000]
    pixels = Pixels(centers.camera[picked], centers.uv[picked])
    results = []
    for backend in ("torch", "gsplat"):
        scene = leaves_of(gaussians)
        got = features_of(render_pixels(scene, cameras, pixels, backend=backend))
        results.append((got, gradients_of(scene, got, torch.ones_like(got))))
    (slow, slow_gradients), (fast, fast_gradients) = results
    assert (slow - fast).abs().quantile(0.99) < 1e-3, f"seed {seed}"
    for name, wanted in slow_gradients.items():
        difference = (fast_gradients[name] - wanted).norm() / wanted.norm()
        assert math.isfinite(difference) and difference < 1e-2, f"seed {seed}: gradient of {name} {difference:.2e}"
