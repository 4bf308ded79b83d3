import dataclasses

import numpy as np
import pytest
import torch
from small import GRID, SIZE, SmallData, camera_pose, small_model

from gsrender_core.checkpoint import default_checkpoint, load_checkpoint
from gsrender_core.config import BackboneConfig, DepthConfig, EncoderConfig, HeadConfig, ViewConfig
from gsrender_core.model.backbone import Backbone
from gsrender_core.model.depth_net import depth_edges
from gsrender_core.model.efficientnet_lite0 import EfficientNetLite0
from gsrender_core.model.fold import fold_batch_norms
from gsrender_core.model.gaussian_head import GaussianHead
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.model.view_transformer import LiftSplat, Projection


def test_lite0_knows_imagenet_offline():
    body = EfficientNetLite0()
    before = body._conv_stem.weight.clone()
    body.load_imagenet()
    assert not torch.equal(before, body._conv_stem.weight)
    maps = body.eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(40, 8, 12), (112, 4, 6), (320, 2, 3)]


def test_the_packaged_checkpoint_computes_what_it_did_when_it_was_made():
    """Settings that came later default to what the checkpoint knows: same weights, same function."""
    model = load_checkpoint(default_checkpoint()).model
    width, height = model.config.image_size
    y, x = np.mgrid[:height, :width]
    image = np.stack([127 + 100 * np.sin(x / (7 + 3 * c) + y / (11 + 2 * c)) for c in range(3)]).astype(np.uint8)
    K = torch.tensor([[560.0, 0, 352], [0, 560, 128], [0, 0, 1]])
    T = torch.from_numpy(camera_pose(0.0, 1.5, 1.6)).float()
    with torch.no_grad():
        P = model(CameraInput(torch.from_numpy(image)[None, None], K[None, None], T[None, None]))[0]
        opacity, logits = model.opacity_and_logits(P)
    # Measured with the package as it was when the checkpoint was first shipped.
    assert P.mean().item() == pytest.approx(-0.191199, abs=1e-4) and P.std().item() == pytest.approx(2.808736, rel=1e-4)
    assert opacity.mean().item() == pytest.approx(-2.152332, rel=1e-4)
    assert logits.std().item() == pytest.approx(2.372044, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "strides"),
    [("resnet18", (8, 16, 32)), ("resnet18", (4, 16)), ("swin_base", (4, 16, 32)), ("efficientnet_lite0", (4, 32))],
)
def test_backbones_give_the_maps_that_are_wanted(name, strides):
    backbone = Backbone(BackboneConfig(name, pretrained=False, frozen=False, strides=strides)).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert [64 // m.shape[2] for m in maps] == list(backbone.strides) == list(strides)


def test_unknown_parts_are_named():
    with pytest.raises(ValueError, match="unknown backbone 'vgg'"):
        GSRender(small_model(backbone=BackboneConfig("vgg")))
    with pytest.raises(ValueError, match="unknown view.kind"):
        GSRender(small_model(view=ViewConfig("bird")))
    with pytest.raises(ValueError, match="must divide"):
        GSRender(small_model(view=ViewConfig(downsample=3)))
    with pytest.raises(ValueError, match="unknown encoder.kind"):
        GSRender(small_model(encoder=EncoderConfig("cube")))


def test_a_frozen_backbone_keeps_its_statistics_in_training():
    model = GSRender(small_model()).train()
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    model(CameraInput.from_frames([SmallData().frame(0)])).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.neck.parameters())


def test_depth_edges_grow_linearly():
    edges = depth_edges(DepthConfig(1.0, 7.0, 3, "linear"))
    assert edges.tolist() == [1.0, 2.0, 4.0, 7.0]
    assert depth_edges(DepthConfig(1.0, 7.0, 3, "uniform")).tolist() == [1.0, 3.0, 5.0, 7.0]


def camera(width=12, height=8, stride=8, focal=60.0):
    K = torch.tensor([[focal, 0, width * stride / 2], [0, focal, height * stride / 2], [0, 0, 1]])
    T = torch.from_numpy(camera_pose(0.0)).float()
    return K[None, None], T[None, None]


def test_lift_splat_puts_a_feature_where_its_ray_and_depth_say():
    edges = depth_edges(DepthConfig(0.5, 4.5, 4, "uniform"))
    centers = (edges[1:] + edges[:-1]) / 2
    lift = LiftSplat(GRID, 1, 8, centers)
    Ks, T = camera()
    context, depth = torch.zeros(1, 1, 1, 8, 12), torch.zeros(1, 1, 4, 8, 12)
    context[0, 0, 0, 2, 3] = 7.0
    depth[0, 0, 1, 2, 3] = 0.5  # bin [1.5, 2.5): centre 2 m
    volume = lift(context, depth, Ks, T)
    at_camera = np.array([(28 - 48) / 60, (20 - 32) / 60, 1.0]) * 2.0
    ego = camera_pose(0.0)[:3, :3] @ at_camera + camera_pose(0.0)[:3, 3]
    index, inside = GRID.index_of(ego[None])
    assert inside[0] and volume.sum().item() == pytest.approx(3.5)
    assert volume[0, 0][tuple(index[0])].item() == pytest.approx(3.5)


def test_lift_splat_drops_what_lies_outside_even_just_below_zero():
    # All depth at 6 m: beyond the 4 m volume in front of the car; nothing may be truncated into voxel 0.
    lift = LiftSplat(GRID, 1, 8, torch.tensor([6.0, 7.0]))
    Ks, T = camera()
    volume = lift(torch.ones(1, 1, 1, 8, 12), torch.full((1, 1, 2, 8, 12), 0.5), Ks, T)
    assert volume.abs().sum() == 0


def test_projection_samples_the_feature_under_a_voxel_and_its_depth_evidence():
    edges = depth_edges(DepthConfig(0.5, 8.5, 8, "uniform"))
    view = Projection(GRID, 1, 8, edges)
    Ks, T = camera()
    context = torch.arange(96.0).view(1, 1, 1, 8, 12)
    depth = torch.zeros(1, 1, 8, 8, 12)
    depth[:, :, 2] = 1.0  # every ray ends in [2.5, 3.5)
    volume = view(context, depth, Ks, T)[0]
    # The voxel around (3.25, 0.25, 0.25) m: at camera (-0.25, 0.25, 3.25), in the bin where rays end.
    index, _ = GRID.index_of(np.array([[3.25, 0.25, 0.25]]))
    feature, here, before = volume[(slice(None), *index[0])]
    u, v = 48 - 60 * 0.25 / 3.25, 32 + 60 * 0.25 / 3.25
    expected = (v / 8 - 0.5) * 12 + u / 8 - 0.5
    assert here.item() == pytest.approx(0.5, abs=1e-3) and before.item() == pytest.approx(0.5, abs=1e-3)
    assert feature.item() == pytest.approx(expected * 0.5**0.5, rel=1e-3)
    behind, _ = GRID.index_of(np.array([[-2.0, 0.25, 0.25]]))
    assert volume[(slice(None), *behind[0])].abs().sum() == 0


@pytest.mark.parametrize("kind", ["lift_splat", "projection"])
@pytest.mark.parametrize("encoder", ["bev", "resnet3d"])
def test_forward_and_backward_through_every_combination(kind, encoder):
    config = small_model(view=ViewConfig(kind, neck_channels=16, channels=8), encoder=EncoderConfig(encoder, 8, 6))
    model = GSRender(config).train()
    P = model(CameraInput.from_frames(SmallData().frames[:2]))
    assert P.shape == (2, 6, *GRID.shape)
    gaussians = model.gaussians(P[0])
    (gaussians.logits.sum() + gaussians.opacities.sum()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad and "head" not in n)


def test_the_head_starts_at_the_voxel_centres_with_opacity_a_tenth():
    torch.manual_seed(0)
    head = GaussianHead(HeadConfig(), 6, 17)
    centers = torch.randn(9, 3)
    gaussians = head(torch.zeros(9, 6), centers)
    assert torch.equal(gaussians.means, centers) and torch.allclose(gaussians.scales, torch.tensor(0.2))
    assert gaussians.quats is None and gaussians.opacities.mean().item() == pytest.approx(0.1, abs=0.05)
    with torch.no_grad():
        head.output.bias[:3] = 100.0
        head.output.bias[3:6] = 100.0
    far = head(torch.zeros(9, 6), centers)
    assert torch.allclose(far.means - centers, torch.tensor(1.2)) and torch.allclose(far.scales, torch.tensor(0.8))


def test_table_3_switches_of_the_head():
    centers, features = torch.zeros(4, 3), torch.randn(4, 6)
    frozen = GaussianHead(HeadConfig(max_offset_m=0.0, predict_scale=False), 6, 17)
    torch.nn.init.normal_(frozen.output.weight)
    gaussians = frozen(features, centers)
    assert torch.equal(gaussians.means, centers) and torch.allclose(gaussians.scales, torch.tensor(0.2))
    turned = GaussianHead(HeadConfig(predict_rotation=True), 6, 17)(features, centers)
    assert torch.allclose(turned.quats, torch.tensor([1.0, 0, 0, 0]).expand(4, 4))


def test_a_head_of_one_layer_is_linear():
    head = GaussianHead(HeadConfig(hidden=0), 6, 17)
    torch.nn.init.normal_(head.output.weight)
    a, b = torch.randn(2, 50, 6)
    logits = [head(x, torch.zeros(50, 3)).logits for x in (a, b, a + b, torch.zeros(50, 6))]
    torch.testing.assert_close(logits[0] + logits[1], logits[2] + logits[3], atol=1e-5, rtol=1e-5)
    assert head.linear and not GaussianHead(HeadConfig(), 6, 17).linear


@pytest.mark.parametrize("hidden", [16, 0])
def test_eq_7_and_its_short_cut_agree(hidden):
    model = GSRender(small_model(head=HeadConfig(hidden=hidden))).eval()
    P = torch.randn(6, *GRID.shape)
    with torch.no_grad():
        torch.nn.init.normal_(model.head.output.weight)
        tau = model.gaussians(P).opacities.median().item()
        slow_label, slow_sure = model.gaussians(P).to_occupancy(tau, 17)
        label, sure = model.occupancy(P, tau)
    assert 0.1 < (label == 17).float().mean() < 0.9
    # Rounding may put the very voxel whose opacity is tau on either side.
    assert (label.view(-1) != slow_label).sum() <= 1
    occupied = (slow_label != 17) & (label.view(-1) != 17)
    assert torch.allclose(sure.view(-1)[occupied], slow_sure[occupied], atol=1e-5)
    assert (sure[label == 17] == 0).all()


def test_a_choice_of_voxels_equals_that_part_of_all():
    model = GSRender(small_model()).eval()
    P = torch.randn(6, *GRID.shape)
    every, some = model.gaussians(P), model.gaussians(P, torch.tensor([5, 900, 17]))
    assert torch.allclose(some.logits, every.logits[[5, 900, 17]], atol=1e-6)
    assert torch.equal(some.means, every.means[[5, 900, 17]])


@pytest.mark.parametrize("encoder", ["bev", "resnet3d"])
def test_folded_batch_norms_change_nothing_but_the_modules(encoder):
    model = GSRender(small_model(encoder=EncoderConfig(encoder, 8, 6)))
    cameras = CameraInput.from_frames(SmallData(1).frames)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # statistics a training would leave
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
        folded = fold_batch_norms(model)
        expected, got = model.eval()(cameras), folded(cameras)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert expected.std() > 1e-3 and torch.allclose(expected, got, atol=1e-4 * expected.abs().max().item())


def test_camera_count_is_free_and_size_comes_from_the_configuration():
    model = GSRender(small_model()).eval()
    frame = SmallData().frame(0)
    one = dataclasses.replace(
        frame,
        images=frame.images[:1],
        Ks=frame.Ks[:1],
        T_ego_cam=frame.T_ego_cam[:1],
        camera_names=("front",),
        labels=None,
    )
    assert frame.image_size == SIZE
    assert model(CameraInput.from_frames([one])).shape == (1, 6, *GRID.shape)


@pytest.mark.parametrize("kind", ["lift_splat", "projection"])
def test_geometry_stays_in_full_precision_under_autocast(kind):
    model = GSRender(small_model(view=ViewConfig(kind, neck_channels=16, channels=8))).eval()
    cameras = CameraInput.from_frames([SmallData(2).frame(0)])
    seen = []
    model.view.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(cameras)
    ((inputs, under_autocast),) = seen
    with torch.no_grad():
        assert torch.equal(model.view(*inputs), under_autocast)
