import dataclasses
import json
import math

import pytest
import torch
from small import GRID, SmallData, small_model, small_training

from gsrender_core.config import HeadConfig, LossConfig
from gsrender_core.losses import transmittance_entropy_loss
from gsrender_core.marching import march_view
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.nerf_head import NerfHead
from gsrender_core.objective import Objective
from gsrender_core.predictor import Predictor
from gsrender_core.train import Trainer
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.views import draw_view
from gsrender_core.voxel_field import DENSITY_SHIFT, EMPTY

NERF = HeadConfig(kind="nerf", hidden=16, nerf_jitter=False)


def nerf_training(**changes):
    return small_training(**({"model": small_model(head=NERF), "bev_flip": False, "render_cameras": 0} | changes))


def objective(config, data=None):
    torch.manual_seed(0)
    model = GSRender(config.model).train()
    return Objective(config, model, TrainingFrames(data or SmallData(), model, torch.device("cpu"), 0.5, 1.0))


def solid_where_the_first_feature_is(model):
    """Let the density follow the sign of feature 0 alone: opaque above, empty below."""
    with torch.no_grad():
        for layer in (model.head.density[0], model.head.density[2]):
            layer.weight.zero_()
            layer.bias.zero_()
        model.head.density[0].weight[0, 0] = 1.0
        model.head.density[2].weight[0, 0] = 1.0


def test_the_head_is_renderoccs_activation_at_the_gaussians_start():
    head = NerfHead(HeadConfig(kind="nerf", hidden=16), 6, 17)
    features = torch.randn(50, 6)
    opacity, logits = head.opacity_and_logits(features)
    assert opacity.shape == (50,) and logits.shape == (50, 17)
    density = torch.nn.functional.softplus(head.density(features)[:, 0])  # what RenderOcc calls density: >= 0
    voxel_of_density = torch.nn.functional.softplus(density.double() + DENSITY_SHIFT)  # its activation
    torch.testing.assert_close(torch.sigmoid(opacity.double()), 1 - torch.exp(-voxel_of_density), rtol=1e-4, atol=1e-9)
    for seed in range(5):
        torch.manual_seed(seed)
        fresh = NerfHead(HeadConfig(kind="nerf", hidden=32), 6, 17)
        assert 0.07 < torch.sigmoid(fresh.opacity(0.3 * torch.randn(500, 6))).median() < 0.14
    with torch.no_grad():
        head.density[-1].weight.zero_()
        assert head.opacity_and_logits(features)[0].tolist() == pytest.approx([-2.2] * 50, abs=1e-4)
        head.density[-1].bias.fill_(-200.0)
        assert head.opacity_and_logits(features)[0].tolist() == pytest.approx([EMPTY] * 50)
    with pytest.raises(TypeError, match="no Gaussians"):
        head(features, torch.zeros(50, 3))
    with pytest.raises(ValueError, match="none of gaussian, nerf"):
        HeadConfig(kind="mlp")
    with pytest.raises(ValueError, match="prune_opacity prunes Gaussians"):
        nerf_training(prune_opacity=0.01)


def test_occupancy_is_eq_7_of_the_voxels_opacity():
    torch.manual_seed(1)
    model = GSRender(small_model(head=NERF)).eval()
    with torch.inference_mode():
        P = torch.randn(6, *GRID.shape)
        opacity, logits = model.opacity_and_logits(P)
        tau = torch.sigmoid(opacity).median().item()
        labels, confidence = model.occupancy(P, tau)
    assert 0.4 < (labels != 17).float().mean() < 0.6
    torch.testing.assert_close(labels.long(), torch.where(torch.sigmoid(opacity) >= tau, logits.argmax(-1), 17))
    sure = torch.sigmoid(opacity) * torch.softmax(logits, -1).amax(-1)
    torch.testing.assert_close(confidence, torch.where(labels == 17, 0.0, sure))


@pytest.mark.parametrize("compensation", ["features", "logits"])
def test_compensation_without_motion_changes_nothing_and_far_away_nothing_is_seen(compensation):
    compute = objective(nerf_training(compensation=compensation))
    P = torch.randn(6, *GRID.shape)
    view = draw_view(compute.frames.labels(0), compute.config, torch.eye(4))
    with torch.no_grad():
        here = march_view(compute.model, compute.config, P, view, None).rendered
        still = march_view(compute.model, compute.config, P, view, torch.eye(4)).rendered
        away = torch.eye(4)
        away[0, 3] = 100.0
        nothing = march_view(compute.model, compute.config, P, view, away).rendered
    assert here.alpha.mean() > 0.3
    for name in ("logits", "depth", "alpha"):
        torch.testing.assert_close(getattr(still, name), getattr(here, name), rtol=1e-4, atol=1e-4)
    assert nothing.alpha.max() < 1e-3


def test_both_levels_see_the_same_where_the_volumes_voxels_coincide():
    # The adjacent frame stands two voxels further on: its voxel centres are voxel centres of the current volume.
    rendered = {}
    T = torch.eye(4)
    T[0, 3] = 2 * GRID.voxel_size_m
    torch.manual_seed(2)
    P = torch.full((6, *GRID.shape), -20.0)
    P[:, 5:13, 3:13, 1:6] = torch.randn(6, 8, 10, 5) * 20  # empty towards the borders, which the two volumes cut apart
    for compensation in ("features", "logits"):
        compute = objective(nerf_training(compensation=compensation))
        solid_where_the_first_feature_is(compute.model)
        view = draw_view(compute.frames.labels(1), compute.config, torch.eye(4))
        view = dataclasses.replace(view, index=torch.arange(300))
        with torch.no_grad():
            rendered[compensation] = march_view(compute.model, compute.config, P, view, T).rendered
            unmoved = march_view(compute.model, compute.config, P, view, None).rendered
    one, other = rendered["features"], rendered["logits"]
    assert one.alpha.mean() > 0.1 and (one.alpha - unmoved.alpha).abs().max() > 0.1
    for name in ("logits", "depth", "alpha"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("compensation", ["features", "logits"])
def test_a_view_without_pixels_shows_nothing_and_teaches_nothing(compensation):
    compute = objective(nerf_training(compensation=compensation))
    P = torch.randn(6, *GRID.shape, requires_grad=True)
    view = draw_view(compute.frames.labels(0), compute.config, torch.eye(4))
    view = dataclasses.replace(view, index=view.index[:0])
    for T in (None, torch.eye(4)):
        seen = march_view(compute.model, compute.config, P, view, T)
        assert seen.rendered.logits.shape == (0, 17) and seen.log == {}
        terms = compute._rendered("", seen, view, None)
        (terms["semantic"] + terms["depth"]).backward()
        assert P.grad.abs().max() == 0


@pytest.mark.parametrize("compensation", ["none", "features", "logits"])
def test_mirroring_volume_cameras_and_motion_together_changes_no_value(compensation):
    compute = objective(nerf_training(pixels=1000, compensation=compensation))
    P, S = torch.randn(6, *GRID.shape), torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    labels, T = compute.frames.labels(0), None
    if compensation != "none":
        c, s = math.cos(0.3), math.sin(0.3)
        T = torch.tensor([[c, -s, 0, 0.5], [s, c, 0, 0.2], [0, 0, 1, 0], [0, 0, 0, 1]])

    def depth(volume, mirror, motion):
        with torch.no_grad():
            view = draw_view(labels, compute.config, mirror)
            return march_view(compute.model, compute.config, volume, view, motion).rendered.depth

    plain = depth(P, torch.eye(4), T)
    torch.testing.assert_close(depth(P.flip(1), S, T if T is None else S @ T @ S), plain, rtol=1e-3, atol=1e-3)
    assert (depth(P, S, T) - plain).abs().max() > 0.01  # the test can tell
    if T is not None:
        assert (depth(P.flip(1), S, T) - plain).abs().max() > 0.01


def test_every_weight_of_the_network_learns_from_rendering_alone():
    compute = objective(nerf_training(loss=LossConfig(ray=0.0, depth_net=0.0, transmittance_entropy=0.01)))
    terms = compute(0)
    assert {"semantic", "depth", "entropy", "adj_semantic", "adj_depth", "adj_entropy"} <= set(terms)
    assert "drift" not in terms
    sum(value for name, value in terms.items() if not name.startswith("_")).backward()
    head = compute.model.head
    for parameter in (*head.parameters(), *compute.model.encoder.parameters()):
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    assert head.density[0].weight.grad.abs().max() > 0 and head.semantic[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("compensation", ["features", "logits"])
def test_training_fits_its_labels_and_leaves_a_checkpoint_that_predicts(tmp_path, compensation):
    config = nerf_training(compensation=compensation, steps=41, learning_rate=1e-2, pixels=200, checkpoint_every=41)
    config = dataclasses.replace(config, model=small_model(head=dataclasses.replace(NERF, nerf_jitter=True)))
    data = SmallData(frames=2)
    for frame in data.frames:  # something that can be learnt: a wall of one class, 3 m away
        frame.labels.class_id[:], frame.labels.depth_m[:] = 4, 3.0
    Trainer(config, data, tmp_path / "run", "cpu").run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["semantic"] < 0.5 * lines[0]["semantic"] and lines[-1]["depth"] < 0.5 * lines[0]["depth"]
    assert math.isfinite(lines[0]["adj_semantic"]) and lines[0]["samples_per_ray"] > 10
    predictor = Predictor.load(tmp_path / "run" / "last.safetensors", "cpu")
    assert predictor.model.config.head.kind == "nerf" and isinstance(predictor.model.head, NerfHead)
    grid = predictor(data.frame(0), tau=0.05)
    assert set(grid.semantics[grid.semantics != 17].tolist()) == {4}


def test_transmittance_entropy_by_hand():
    alpha = torch.tensor([0.5, 0.9, 0.0, 1.0])
    ten = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert transmittance_entropy_loss(alpha).item() == pytest.approx((math.log(2) + ten) / 4, abs=2e-5)
    assert transmittance_entropy_loss(torch.zeros(0)).item() == 0
    inner = torch.tensor([0.2, 0.5, 0.97], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transmittance_entropy_loss, (inner,))
