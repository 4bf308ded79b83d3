"""Rendering against values worked out by hand, and the edges of the interface."""

import math

import pytest
import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.render import Cameras, Pixels, RenderSettings, render_maps, render_pixels

BACKENDS = ("torch", "numba")
FOCAL, WIDTH, HEIGHT = 50.0, 64, 48


@pytest.fixture
def camera() -> Cameras:
    """At the ego origin, looking along ego x: (x, y, z) is seen at u = 32 - 50 y / x, v = 24 - 50 z / x."""
    viewmat = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Cameras(viewmat[None], K[None], WIDTH, HEIGHT)


def gaussians_at(means, opacities, scale=0.2, logits=None) -> Gaussians:
    means = torch.tensor(means, dtype=torch.float32)
    n = len(means)
    logits = torch.arange(1.0, n + 1)[:, None] * torch.tensor([1.0, -2.0]) if logits is None else logits
    return Gaussians(means, torch.full((n, 3), scale), torch.tensor(opacities), logits)


def pixels_at(*uv) -> Pixels:
    return Pixels(torch.zeros(len(uv), dtype=torch.int64), torch.tensor(uv, dtype=torch.float32).reshape(-1, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_gaussian_at_its_centre_and_beside_it(camera, backend):
    scene = gaussians_at([[10.0, 0, 0]], [0.6])
    out = render_pixels(scene, camera, pixels_at((32, 24), (34, 24), (32, 25)), backend=backend)
    # Projected sigma: 50 * 0.2 / 10 = 1 px, plus 0.3 px^2 of blur.
    expected = [0.6, 0.6 * math.exp(-0.5 * 4 / 1.3), 0.6 * math.exp(-0.5 * 1 / 1.3)]
    assert out.alpha.tolist() == pytest.approx(expected, rel=1e-5)
    assert out.depth.tolist() == pytest.approx([10 * a for a in expected], rel=1e-5)
    assert out.logits[:, 1].tolist() == pytest.approx([-2 * a for a in expected], rel=1e-5)
    assert out.expected_depth().tolist() == pytest.approx([10, 10, 10], rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_gaussians_blend_nearest_first_whatever_their_order(camera, backend):
    for means, opacities, logits in (
        ([[10.0, 0, 0], [5.0, 0, 0]], [0.8, 0.5], [[1.0, 0], [0, 1]]),
        ([[5.0, 0, 0], [10.0, 0, 0]], [0.5, 0.8], [[0.0, 1], [1, 0]]),
    ):
        scene = gaussians_at(means, opacities, logits=torch.tensor(logits))
        out = render_pixels(scene, camera, pixels_at((32, 24)), backend=backend)
        assert out.logits[0].tolist() == pytest.approx([0.5 * 0.8, 0.5], rel=1e-5)
        assert out.depth[0].item() == pytest.approx(0.5 * 5 + 0.4 * 10, rel=1e-5)
        assert out.alpha[0].item() == pytest.approx(0.9, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cap_and_end_of_a_pixel(camera, backend):
    # 0.999 caps the first; the second would leave 0.001 * 0.05 = 5e-5 <= 1e-4 and ends the pixel unblended.
    scene = gaussians_at([[5.0, 0, 0], [10.0, 0, 0], [12.0, 0, 0]], [1.0, 0.95, 0.5])
    scene.opacities.requires_grad_()
    out = render_pixels(scene, camera, pixels_at((32, 24)), backend=backend)
    assert out.alpha.item() == pytest.approx(0.999, rel=1e-6)
    assert out.depth.item() == pytest.approx(0.999 * 5, rel=1e-6)
    out.depth.sum().backward()
    assert scene.opacities.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "mean, opacity, scale",
    [
        ([-10.0, 0, 0], 0.9, 0.2),  # behind
        ([0.4, 0, 0], 0.9, 0.2),  # nearer than near_m
        ([101.0, 0, 0], 0.9, 5.0),  # beyond far_m
        ([10.0, 30, 0], 0.9, 0.2),  # beside the image
        ([10.0, 0, 0], 0.0039, 0.2),  # below 1/255
    ],
)
def test_what_is_not_seen_leaves_nothing_and_gets_no_gradient(camera, backend, mean, opacity, scale):
    scene = gaussians_at([mean], [opacity], scale)
    for tensor in (scene.means, scene.scales, scene.opacities, scene.logits):
        tensor.requires_grad_()
    out = render_maps(scene, camera, backend=backend)
    assert out.alpha.shape == (1, HEIGHT, WIDTH) and out.logits.shape == (1, HEIGHT, WIDTH, 2)
    assert out.alpha.abs().max() == 0 and out.logits.abs().max() == 0 and out.depth.abs().max() == 0
    (out.alpha.sum() + out.depth.sum() + out.logits.sum()).backward()
    assert all(t.grad is None or t.grad.abs().max() == 0 for t in (scene.means, scene.opacities, scene.logits))


@pytest.mark.parametrize("backend", BACKENDS)
def test_just_above_the_smallest_opacity_is_seen(camera, backend):
    out = render_pixels(gaussians_at([[10.0, 0, 0]], [0.00395]), camera, pixels_at((32, 24)), backend=backend)
    assert out.alpha.item() == pytest.approx(0.00395, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_partly_off_screen_centre_still_reaches_the_border(camera, backend):
    scene = gaussians_at([[10.0, 6.6, 0]], [0.9])  # u = 32 - 33 = -1
    out = render_pixels(scene, camera, pixels_at((0, 24), (64, 24)), backend=backend)
    # Seen from the side, the Jacobian's third column matters: j02 = -fx x / z^2 = 3.3 at x = -6.6, z = 10.
    variance = 0.2**2 * (5.0**2 + 3.3**2) + 0.3
    assert out.alpha.tolist() == pytest.approx([0.9 * math.exp(-0.5 / variance), 0], rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_jacobian_is_held_at_1_3_times_the_field_of_view(camera, backend):
    scene = gaussians_at([[2.0, 4.0, 0]], [0.9], scale=1.0)  # slope x/z = -2, beyond -(32 + 9.6) / 50 = -0.832
    out = render_pixels(scene, camera, pixels_at((0, 24)), backend=backend)
    variance = 25.0**2 * (1 + 0.832**2) + 0.3
    assert out.alpha.item() == pytest.approx(0.9 * math.exp(-0.5 * 68**2 / variance), rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rotation_turns_the_long_axis(camera, backend):
    scales = torch.tensor([[0.2, 0.8, 0.2]])  # long along ego y, which is image u
    quarter = torch.tensor([[2 * math.sqrt(0.5), 2 * math.sqrt(0.5), 0.0, 0.0]])  # 90 degrees about ego x, norm 2
    base = (torch.tensor([[10.0, 0, 0]]), scales, torch.tensor([0.5]), torch.ones(1, 1))
    at = pixels_at((36, 24), (32, 28))
    wide, narrow = 0.5 * math.exp(-0.5 * 16 / 16.3), 0.5 * math.exp(-0.5 * 16 / 1.3)
    narrow = narrow if narrow >= 1 / 255 else 0
    flat = render_pixels(Gaussians(*base), camera, at, backend=backend).alpha
    turned = render_pixels(Gaussians(*base, quarter), camera, at, backend=backend).alpha
    assert flat.tolist() == pytest.approx([wide, narrow], rel=1e-4)
    assert turned.tolist() == pytest.approx([narrow, wide], rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_list_and_no_gaussians(camera, backend):
    scene = gaussians_at([[10.0, 0, 0]], [0.6])
    scene.means.requires_grad_()
    out = render_pixels(scene, camera, pixels_at(), backend=backend)
    assert out.logits.shape == (0, 2) and out.depth.shape == (0,) and out.alpha.shape == (0,)
    (out.logits.sum() + out.depth.sum()).backward()
    assert scene.means.grad is None or scene.means.grad.abs().max() == 0
    nothing = Gaussians(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 2))
    assert render_pixels(nothing, camera, pixels_at((1, 1)), backend=backend).alpha.tolist() == [0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_and_unsorted_pixels_keep_their_order(camera, backend):
    scene = gaussians_at([[10.0, 0, 0], [8.0, 1, 0.5]], [0.6, 0.7])
    scene.means.requires_grad_()
    places = [(32, 24), (26.5, 20.5), (32, 24), (33.3, 24.1), (1, 1), (32, 24)]
    out = render_pixels(scene, camera, pixels_at(*places), backend=backend)
    single = [render_pixels(scene, camera, pixels_at(p), backend=backend).depth.item() for p in places]
    assert out.depth.tolist() == pytest.approx(single, rel=1e-6)
    (thrice,) = torch.autograd.grad(out.depth[[0, 2, 5]].sum(), scene.means)
    (once,) = torch.autograd.grad(
        render_pixels(scene, camera, pixels_at((32, 24)), backend=backend).depth.sum(), scene.means
    )
    assert torch.allclose(thrice, 3 * once, rtol=1e-5, atol=1e-6)


def test_bad_inputs_are_refused(camera):
    scene = gaussians_at([[10.0, 0, 0]], [0.6])
    with pytest.raises(ValueError, match="unknown render backend 'opengl'"):
        render_pixels(scene, camera, pixels_at((1, 1)), backend="opengl")
    with pytest.raises(ValueError, match="1 of 2 pixels lie outside 64 x 48"):
        render_pixels(scene, camera, pixels_at((1, 1), (65, 1)))
    with pytest.raises(ValueError, match="there are 1 cameras"):
        render_pixels(scene, camera, Pixels(torch.tensor([1]), torch.ones(1, 2)))
    with pytest.raises(ValueError, match="non-finite opacities"):
        render_pixels(gaussians_at([[10.0, 0, 0]], [math.nan]), camera, pixels_at((1, 1)))
    skewed = Cameras(camera.viewmats, camera.Ks + torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]]), WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="skewed"):
        render_pixels(scene, skewed, pixels_at((1, 1)))
    with pytest.raises(ValueError, match="near_m < far_m"):
        RenderSettings(near_m=5, far_m=2)


def test_gsplat_without_cuda_says_so(camera):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        render_pixels(gaussians_at([[10.0, 0, 0]], [0.6]), camera, pixels_at((1, 1)), backend="gsplat")
