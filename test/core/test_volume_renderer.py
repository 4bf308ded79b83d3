import math

import pytest
import torch

from gsrender_core.render.interface import Cameras, Pixels
from gsrender_core.render.rays import VolumeSettings, cast_into_grid
from gsrender_core.render.volume_renderer import (
    reached_voxels,
    render_rays,
    render_rays_torch,
    touched_voxels,
    touched_voxels_torch,
)
from gsrender_core.voxel_field import DENSITY_SHIFT, EMPTY, VoxelField, tau_of_renderocc
from gsrender_core.voxel_grid import VoxelGrid

GRID = VoxelGrid((-4.0, -3.0, -1.0), 0.5, (20, 12, 6))


def camera(origin=(0.0, 0.0, 0.5), yaw=0.0, pitch=0.0) -> torch.Tensor:
    """T_cam_ego of a camera that looks along ``yaw`` and down by ``pitch``."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    forward = torch.tensor([cy * cp, sy * cp, -sp])
    right = torch.tensor([sy, -cy, 0.0])
    R = torch.stack((right, torch.linalg.cross(forward, right), forward))
    T = torch.eye(4)
    T[:3, :3], T[:3, 3] = R, -R @ torch.tensor(origin)
    return T


def cameras(*poses) -> Cameras:
    K = torch.tensor([[40.0, 0.0, 32.0], [0.0, 40.0, 24.0], [0.0, 0.0, 1.0]])
    return Cameras(torch.stack(poses), K.expand(len(poses), 3, 3), 64, 48)


def at(*uv, camera=0) -> Pixels:
    return Pixels(torch.full((len(uv),), camera), torch.tensor(uv, dtype=torch.float32))


def dense(opacity: torch.Tensor, logits: torch.Tensor, grid=GRID) -> VoxelField:
    """Field of a whole volume: opacity logits [X, Y, Z] and logits [X, Y, Z, K]."""
    return VoxelField(opacity.reshape(-1), logits.reshape(-1, logits.shape[-1]), torch.arange(grid.size), grid)


def random_case(seed, dtype=torch.float32, share=1.0, jitter=True, classes=5):
    """Half empty, half dense voxels, some cameras outside the grid, one of them mirrored."""
    generator = torch.Generator().manual_seed(seed)
    n = int(share * GRID.size)
    voxels = torch.randperm(GRID.size, generator=generator)[:n]
    opacity = torch.randn(n, generator=generator, dtype=dtype) * 3 - 2
    logits = torch.randn(n, classes, generator=generator, dtype=dtype)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    views = cameras(camera(), camera((-7.0, 0.3, 1.1), 0.2, 0.1), camera((1.0, 1.0, 0.0), 2.5, -0.1) @ mirror)
    m = 60
    uv = torch.rand(m, 2, generator=generator) * torch.tensor([64.0, 48.0])
    pixels = Pixels(torch.randint(0, 3, (m,), generator=generator), uv)
    torch.manual_seed(seed)
    rays = cast_into_grid(views, pixels, GRID, VolumeSettings(step_m=0.2, alpha_min=0.0), jitter)
    return VoxelField(opacity, logits, voxels, GRID), rays


def test_a_homogeneous_grid_hides_what_its_length_says():
    x = 0.3
    density = math.log1p(math.exp(x)) / 0.5
    field = dense(torch.full(GRID.shape, x), torch.ones(*GRID.shape, 1) * 2.0)
    assert field.density().tolist() == pytest.approx([density] * GRID.size, rel=1e-5)
    # Camera outside, looking along x through the whole grid: 10 m of it, and 0.3 m steps do not divide 10 m.
    for backend in ("torch", "numba"):
        rays = cast_into_grid(cameras(camera((-6.0, 0.0, 0.5))), at((32.0, 24.0)), GRID, VolumeSettings(step_m=0.3))
        assert rays.count.item() == 34
        out = render_rays(field, rays, backend)
        expected = 1 - math.exp(-density * 10.0)
        # What lies behind the first 1e-4 of transmittance is left out.
        assert out.alpha.item() == pytest.approx(expected, abs=2e-4)
        assert out.logits.item() == pytest.approx(2 * expected, abs=4e-4)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_compositing_by_hand_of_two_slabs(backend):
    opacity, logits = torch.full(GRID.shape, -40.0), torch.zeros(*GRID.shape, 2)
    # Slabs at x index 10 and 14: centres at 1.25 m and 3.25 m; the camera looks along x from the origin.
    opacity[10], opacity[14] = 0.0, 2.0
    logits[10, ..., 0], logits[14, ..., 1] = 1.0, 3.0
    rays = cast_into_grid(cameras(camera()), at((32.0, 24.0)), GRID, VolumeSettings(step_m=0.25, near_m=0.625))
    # Samples at 0.75, 1.0, 1.25, 1.5, ...: of a slab one sample in its centre, two half way to the empty neighbours.
    out = render_rays(dense(opacity, logits), rays, backend)
    softplus = torch.nn.functional.softplus
    points = [(1.0, -20.0, 0.5, 0), (1.25, 0.0, 1.0, 0), (1.5, -20.0, 0.5, 0)]
    points += [(3.0, -19.0, 1.5, 1), (3.25, 2.0, 3.0, 1), (3.5, -19.0, 1.5, 1)]
    left, depth, classes = 1.0, 0.0, [0.0, 0.0]
    for z, x, logit, class_id in points:
        hidden = 1 - math.exp(-softplus(torch.tensor(x)).item() / 0.5 * 0.25)
        depth += left * hidden * z
        classes[class_id] += left * hidden * logit
        left *= 1 - hidden
    assert left == pytest.approx((1 + 1) ** -0.5 * (1 + math.exp(2)) ** -0.5, rel=1e-6)  # sigmoid(-x) ** 0.5
    assert out.alpha.item() == pytest.approx(1 - left, rel=1e-5)
    assert out.depth.item() == pytest.approx(depth, rel=1e-5)
    assert out.logits[0].tolist() == pytest.approx(classes, rel=1e-5)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_depth_is_camera_z_and_not_the_distance_along_the_ray(backend):
    opacity = torch.full(GRID.shape, EMPTY)
    opacity[16:] = 60.0  # a wall from x = 4 m on
    views, settings = cameras(camera()), VolumeSettings(step_m=0.01)
    rays = cast_into_grid(views, at((32.0, 24.0), (55.0, 24.0)), GRID, settings)
    out = render_rays(dense(opacity, torch.zeros(*GRID.shape, 1)), rays, backend)
    assert rays.length[1].item() == pytest.approx(math.hypot(1, 23 / 40))  # 15 % farther along the ray
    assert (out.alpha > 0.99).all()
    # The logit rises from -13.8 at the centre 3.75 m to 60 at 4.25 m; from its zero on, the density rises by r a
    # metre and metre, and the mean distance to the first hit is sqrt(pi / 2 r).
    slope = (60 - EMPTY) / 0.5
    expected = 3.75 - EMPTY / slope + math.sqrt(math.pi / 2 / (slope / 0.5))
    straight, slanted = (out.depth / out.alpha).tolist()
    assert straight == pytest.approx(expected, abs=0.01)
    # Over the same z the slanted ray gathers 15 % more.
    assert slanted == pytest.approx(3.75 - EMPTY / slope + math.sqrt(math.pi / 2 / (slope * 2 * 1.1535)), abs=0.01)


@pytest.mark.parametrize("seed,share,jitter", [(1, 1.0, True), (2, 0.6, True), (3, 1.0, False)])
def test_fast_and_reference_agree_in_values_and_gradients(seed, share, jitter):
    field, rays = random_case(seed, share=share, jitter=jitter)
    results = {}
    for backend in ("torch", "numba"):
        opacity, logits = field.opacity_logits.clone().requires_grad_(), field.logits.clone().requires_grad_()
        out = render_rays(VoxelField(opacity, logits, field.voxels, GRID), rays, backend)
        weights = torch.Generator().manual_seed(seed)
        total = (out.logits * torch.randn(out.logits.shape, generator=weights)).sum()
        total = total + (out.depth * torch.randn(len(rays), generator=weights)).sum()
        total = total + (out.alpha * torch.randn(len(rays), generator=weights)).sum()
        total.backward()
        results[backend] = (out.logits, out.depth, out.alpha, opacity.grad, logits.grad)
    assert (rays.count == 0).any() and results["torch"][2].detach().max() > 0.9
    for slow, fast in zip(results["torch"], results["numba"], strict=True):
        assert slow.abs().max() > 0.1
        torch.testing.assert_close(fast, slow, rtol=2e-4, atol=2e-4)


def test_reference_has_the_gradient_of_its_values():
    field, rays = random_case(4, torch.float64, classes=2)
    keep = rays.count.argsort(descending=True)[:4]
    for name in ("origin", "direction", "length", "z_in", "z_out", "count", "offsets"):
        setattr(rays, name, getattr(rays, name)[keep])
    opacity = field.opacity_logits.clone().requires_grad_()
    out = render_rays_torch(VoxelField(opacity, field.logits, field.voxels, GRID), rays)
    (out.depth.sum() + out.alpha.sum()).backward()
    seen = opacity.grad.abs().topk(8).indices
    assert opacity.grad[seen].abs().min() > 1e-3

    def render(x, values):
        opacity = field.opacity_logits.index_add(0, seen, x)
        logits = field.logits.index_add(0, seen, values)
        out = render_rays_torch(VoxelField(opacity, logits, field.voxels, GRID), rays)
        return out.logits, out.depth, out.alpha

    changes = torch.zeros(8, dtype=torch.float64), torch.zeros(8, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(render, tuple(c.requires_grad_() for c in changes))


def test_touched_voxels_are_all_that_the_rays_read():
    field, rays = random_case(5, jitter=True)
    touched = touched_voxels(rays)
    assert torch.equal(touched, touched_voxels_torch(rays))
    assert 0 < len(touched) < GRID.size
    order = torch.argsort(field.voxels)
    some = VoxelField(field.opacity_logits[order][touched], field.logits[order][touched], touched, GRID)
    for backend in ("torch", "numba"):
        every, part = render_rays(field, rays, backend), render_rays(some, rays, backend)
        torch.testing.assert_close(every.logits, part.logits)
        torch.testing.assert_close(every.depth, part.depth)


def test_reached_voxels_are_all_that_changes_the_image():
    field, rays = random_case(6)
    field = VoxelField(field.opacity_logits + 4, field.logits, field.voxels, GRID)  # rays end early
    order = torch.argsort(field.voxels)
    opacity, logits = field.opacity_logits[order], field.logits[order]
    touched = touched_voxels(rays)
    reached = reached_voxels(rays, opacity[touched], touched)
    assert 0 < len(reached) < 0.8 * len(touched)
    for backend in ("torch", "numba"):
        # All the rest is made opaque: nobody may notice.
        changed = torch.full_like(opacity, 50.0)
        changed[reached] = opacity[reached]
        some = render_rays(VoxelField(changed, logits, torch.arange(GRID.size), GRID), rays, backend)
        every = render_rays(field, rays, backend)
        torch.testing.assert_close(some.logits, every.logits)
        torch.testing.assert_close(some.alpha, every.alpha)


def test_what_lies_behind_the_grid_or_in_front_of_the_near_plane_is_nothing():
    field = dense(torch.full(GRID.shape, 3.0), torch.ones(*GRID.shape, 1))
    away = cast_into_grid(cameras(camera((-6.0, 0.0, 0.5), yaw=math.pi)), at((32.0, 24.0)), GRID)
    assert away.count.item() == 0
    for backend in ("torch", "numba"):
        out = render_rays(field, away, backend)
        assert out.alpha.item() == out.depth.item() == out.logits.item() == 0
    rays = cast_into_grid(cameras(camera()), at((32.0, 24.0)), GRID, VolumeSettings(near_m=2.0))
    assert (rays.z_in.item(), rays.z_out.item()) == pytest.approx((2.0, 6.0))


def test_no_pixels_are_no_rays():
    rays = cast_into_grid(cameras(camera()), Pixels(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2)), GRID)
    field = dense(torch.zeros(GRID.shape), torch.zeros(*GRID.shape, 3))
    for backend in ("torch", "numba"):
        assert render_rays(field, rays, backend).logits.shape == (0, 3)
    assert len(touched_voxels(rays)) == 0


def test_jitter_stays_in_its_interval_and_covers_it():
    views, pixels = cameras(camera((-6.0, 0.0, 0.5))), at(*[(32.0, 24.0)] * 200)
    rays = cast_into_grid(views, pixels, GRID, VolumeSettings(step_m=0.5), jitter=True)
    z, length = rays.samples()
    position = (z - rays.z_in[:, None]) / 0.5 - torch.arange(z.shape[1])
    assert position.min() >= 0 and position.max() <= 1
    assert position.mean().item() == pytest.approx(0.5, abs=0.03)
    assert position.std().item() == pytest.approx(12**-0.5, abs=0.03)
    assert length.sum(1).tolist() == pytest.approx([10.0] * 200)


def test_settings_and_fields_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="step_m"):
        VolumeSettings(step_m=0.0)
    rays = cast_into_grid(cameras(camera()), at((32.0, 24.0)), GRID)
    field = dense(torch.zeros(GRID.shape), torch.zeros(*GRID.shape, 3))
    with pytest.raises(ValueError, match="unknown volume backend"):
        render_rays(field, rays, "gsplat")
    with pytest.raises(ValueError, match="the rays were cast into"):
        render_rays(VoxelField(field.opacity_logits, field.logits, field.voxels, VoxelGrid()), rays)
    field.opacity_logits[3] = float("nan")
    with pytest.raises(ValueError, match="non-finite opacity_logits"):
        render_rays(field, rays)
    with pytest.raises(ValueError, match="disagree"):
        VoxelField(torch.zeros(3), torch.zeros(2, 5), torch.arange(3), GRID)


def test_one_voxel_of_density_hides_the_sigmoid_of_its_logit():
    x = torch.tensor([-30.0, -5.0, 0.0, 2.2, 30.0], dtype=torch.float64)
    field = VoxelField(x, torch.zeros(5, 1), torch.arange(5), GRID)
    hidden = -torch.expm1(-field.density() * GRID.voxel_size_m)
    torch.testing.assert_close(hidden, torch.sigmoid(x), rtol=1e-9, atol=0)


def test_renderoccs_threshold_is_a_tau():
    assert DENSITY_SHIFT == pytest.approx(-13.8155, abs=1e-4)
    density = math.log1p(math.exp(8.5 + DENSITY_SHIFT))  # a voxel's, by RenderOcc's activation
    assert tau_of_renderocc(8.5) == pytest.approx(1 - math.exp(-density))
    assert tau_of_renderocc(8.5) == pytest.approx(0.00489, abs=1e-5)


def test_a_field_without_some_voxels_is_empty_there():
    field = dense(torch.zeros(GRID.shape), torch.ones(*GRID.shape, 1))
    keep = torch.arange(GRID.size) % 2 == 0
    some = field.without(keep)
    assert torch.sigmoid(some.opacity_logits[1]).item() == pytest.approx(1e-6, rel=1e-3)
    assert some.opacity_logits[0] == 0
