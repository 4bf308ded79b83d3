import dataclasses

import numpy as np
import pytest
import torch
from small import GRID, SmallData, small_model, small_training

from gsrender_core.config import HeadConfig, LossConfig
from gsrender_core.model.gsrender import GSRender
from gsrender_core.ray_compensation import compensate_features
from gsrender_core.render import render_pixels
from gsrender_core.splatting import kept_gaussians, splat_view
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.views import draw_view
from gsrender_core.visibility import visible_voxels


def setting(seed=0, head=None, **changes):
    """A model whose Gaussians differ, random features and a view of the first frame."""
    config = small_training(model=small_model(head=head or HeadConfig()), bev_flip=False, pixels=200, **changes)
    torch.manual_seed(seed)
    model = GSRender(config.model)
    torch.nn.init.normal_(model.head.output.weight)
    frames = TrainingFrames(SmallData(), model, torch.device("cpu"), 0.0, 0.1)
    P = 0.5 * torch.randn(config.model.encoder.features, *GRID.shape)
    return config, model, P, draw_view(frames.labels(0), config, torch.eye(4))


def equal(a, b, tolerance=1e-4):
    for name in ("logits", "depth", "alpha"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance)


def test_leaving_out_what_no_camera_can_see_changes_no_pixel():
    config, model, P, view = setting(render_cameras=1)
    visible = visible_voxels(model.centers, view, 1.2 + 3 * 0.8)
    assert 0 < len(visible) < GRID.size
    everything = model.gaussians(P)
    equal(splat_view(model, config, P, view, None).rendered, render_pixels(everything, view.cameras, view.pixels))


def test_compensation_equals_the_slow_way_with_opacity_zero_outside():
    config, model, P, view = setting(1)
    T = torch.eye(4)
    T[:3, 3] = torch.tensor([1.3, -0.4, 0.1])
    features, inside = compensate_features(P, model.centers, T, GRID)
    gaussians = model.head(features, model.centers)
    assert 0.3 < inside.float().mean() < 1
    gaussians = dataclasses.replace(gaussians, opacities=gaussians.opacities * inside)
    equal(splat_view(model, config, P, view, T).rendered, render_pixels(gaussians, view.cameras, view.pixels))
    T[0, 3] = 100.0  # nothing of the current volume reaches there
    assert splat_view(model, config, P, view, T).rendered.alpha.abs().max() == 0


@pytest.mark.parametrize("compensation", ["features", "logits"])
@pytest.mark.parametrize("moved", [False, True])
def test_pruning_equals_rendering_without_the_faint_gaussians_in_value_and_gradient(compensation, moved):
    config, model, P, view = setting(2, compensation=compensation, prune_opacity=0.3, prune_keep=0.0)
    T = None
    if moved:
        T = torch.eye(4)
        T[0, 3] = 0.7
    gradients, values = [], []
    for variant in ("fast", "slow"):
        model.zero_grad()
        features = P.clone().requires_grad_()
        if variant == "fast":
            seen = splat_view(model, config, features, view, T)
            rendered, share = seen.rendered, seen.log["rendered_share"]
        else:
            plain = dataclasses.replace(config, prune_opacity=0.0)
            whole = {}

            def keep(gaussians, *_, whole=whole):
                whole["gaussians"] = gaussians
                strong = gaussians.opacities.detach() >= 0.3
                return render_pixels(
                    dataclasses.replace(gaussians, opacities=gaussians.opacities * strong), view.cameras, view.pixels
                )

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("gsrender_core.splatting.render_pixels", keep)
                rendered = splat_view(model, plain, features, view, T).rendered
            expected_share = (whole["gaussians"].opacities >= 0.3).float().mean()
        (rendered.logits.square().sum() + rendered.depth.sum()).backward()
        values.append(rendered)
        gradients.append(features.grad)
    equal(*values)
    assert share.item() == pytest.approx(expected_share.item(), abs=1e-6) and 0.05 < share.item() < 0.9
    scale = gradients[1].abs().max()
    torch.testing.assert_close(gradients[0] / scale, gradients[1] / scale, rtol=1e-3, atol=1e-5)


def test_a_share_of_the_pruned_is_kept_and_every_one_of_them_gets_its_turn():
    config = small_training(prune_opacity=0.1, prune_keep=0.25)
    opacity = torch.cat((torch.full((1000,), 0.05), torch.full((100,), 0.1)))
    torch.manual_seed(0)
    turns = torch.zeros(1100)
    for _ in range(100):
        turns[kept_gaussians(opacity, config)] += 1
    assert (turns[1000:] == 100).all()
    assert turns[:1000].mean() == pytest.approx(25, abs=1) and turns[:1000].min() > 0
    never = kept_gaussians(opacity, dataclasses.replace(config, prune_keep=0.0))
    assert never.tolist() == list(range(1000, 1100))
    assert len(kept_gaussians(opacity, dataclasses.replace(config, prune_opacity=0.0))) == 1100


@pytest.mark.parametrize(("keep", "revived"), [(0.0, False), (0.3, True)])
def test_pruned_gaussians_come_back_only_where_a_share_of_them_is_kept(keep, revived):
    """All Gaussians start below the limit, and the images ask for opaque pixels."""
    config, model, P, view = setting(3, HeadConfig(opacity_bias=-3.5), prune_opacity=0.05, prune_keep=keep)
    torch.nn.init.zeros_(model.head.output.weight)
    features = torch.zeros_like(P).requires_grad_()
    optimizer = torch.optim.Adam(model.head.parameters(), lr=0.05)
    for step in range(30):
        torch.manual_seed(step)
        loss = (1 - splat_view(model, config, features, view, None).rendered.alpha).sum()
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
    opacity = model.gaussians(features).opacities
    assert bool(opacity.median() > 0.05) == revived


def test_a_view_without_any_gaussian_left_renders_nothing_and_has_finite_losses():
    config, model, P, view = setting(4, prune_opacity=0.999, prune_keep=0.0)
    seen = splat_view(model, config, 0 * P, view, None)
    assert seen.rendered.alpha.abs().max() == 0 and torch.isfinite(seen.terms["drift"])
    assert seen.log["rendered_share"] == 0


def test_the_figures_for_the_log_by_hand():
    config, model, P, view = setting(5, HeadConfig(max_offset_m=1.2), render_cameras=0)
    torch.nn.init.zeros_(model.head.output.weight)
    with torch.no_grad():
        model.head.output.bias[:3] = torch.atanh(torch.tensor([0.3, 0.0, -0.1]) / 1.2)  # 0.6, 0 and -0.2 voxels
        model.head.output.bias[6] = 1.0
    log = splat_view(model, config, P, view, None).log
    assert log["offset_mean"].item() == pytest.approx(np.hypot(0.6, 0.2), rel=1e-4)
    assert log["offset_spread"].item() == pytest.approx(0, abs=1e-5) and log["offset_over_half"] == 1
    assert log["opacity_10"].item() == log["opacity_90"].item() == pytest.approx(1 / (1 + np.exp(-1.0)), rel=1e-5)
    assert log["opacity_over_half"] == 1 and log["rendered_share"] == 1
    torch.nn.init.normal_(model.head.output.weight)
    log = splat_view(model, config, P, view, None).log
    opacity = model.gaussians(P, visible_voxels(model.centers, view, 3.6)).opacities
    for percent in (10, 50, 90):
        assert log[f"opacity_{percent}"].item() == pytest.approx(opacity.quantile(percent / 100).item(), abs=0.01)
    assert all(not value.requires_grad for value in log.values())


def test_drift_weighs_in_the_current_frame_only():
    config, model, P, view = setting(6, loss=LossConfig(offset_drift=2.0))
    single = splat_view(model, dataclasses.replace(config, loss=LossConfig(offset_drift=1.0)), P, view, None)
    double = splat_view(model, config, P, view, None)
    assert double.terms["drift"].item() == pytest.approx(2 * single.terms["drift"].item(), rel=1e-5)
    assert "drift" not in splat_view(model, config, P, view, torch.eye(4)).terms
