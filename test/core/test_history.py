"""The frame before: its features in the current volume, its images in the stereo depth, and what happens without it."""

import dataclasses

import numpy as np
import pytest
import torch
from small import GRID, SmallData, small_model, small_training

from gsrender_core.config import (
    AugmentConfig,
    BackboneConfig,
    EncoderConfig,
    ModelConfig,
    ViewConfig,
    from_dict,
    to_dict,
)
from gsrender_core.data.frame import previous_frames
from gsrender_core.geometry import transform
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.model.observation import PastMaps
from gsrender_core.objective import Objective
from gsrender_core.predictor import Predictor
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.trilinear import sample_rows_reference

BOTH = ViewConfig(
    neck_channels=16, channels=8, downsample=1, neck="joined", depth_net="bevdepth", stereo=True, history=True
)


def temporal_model(view: ViewConfig = BOTH, frozen: bool = True, **changes) -> ModelConfig:
    backbone = BackboneConfig(pretrained=False, frozen=frozen, strides=(4, 8, 16))
    encoder = EncoderConfig("bevstereo3d", 4, 6)
    return small_model(**({"backbone": backbone, "view": view, "encoder": encoder} | changes))


def cameras(data: SmallData, i: int, before: int) -> CameraInput:
    return CameraInput.from_frames([data.frame(i)], previous=[previous_frames(data, i, before)])


def randomised(config: ModelConfig, seed: int = 0) -> GSRender:
    torch.manual_seed(seed)
    model = GSRender(config).eval()
    with torch.no_grad():
        if config.view.history:
            model.no_history.normal_()
    return model


def volumes_of(model: GSRender, data: SmallData, i: int, before: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoder takes: current and history half."""
    seen = []
    handle = model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model(cameras(data, i, before))
    handle.remove()
    return seen[0].chunk(2, dim=1)


def test_the_poses_of_previous_frames_come_from_the_frames():
    data = SmallData()
    data.frames[1] = dataclasses.replace(
        data.frames[1], T_global_ego=transform([np.sqrt(0.5), 0, 0, np.sqrt(0.5)], (4000.0, 3.0, 0.0))
    )
    data.frames[0] = dataclasses.replace(data.frames[0], T_global_ego=transform(np.eye(3), (4000.0, 1.0, 0.0)))
    now = cameras(data, 1, 2)
    # The car drives along global +y and was 2 m behind, turned 90 degrees to its right.
    assert torch.allclose(now.T_curr_prev[0, :3, 3], torch.tensor([-2.0, 0, 0]), atol=1e-6)
    assert torch.allclose(now.T_curr_prev[0, :3, :3], torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), atol=1e-6)
    assert now.previous.previous is None and len(now.chain()) == 1
    assert len(cameras(data, 2, 2).chain()) == 2 and len(cameras(data, 0, 2).chain()) == 0


def test_history_is_the_previous_volume_in_the_current_ego():
    """Ego motion of exactly one voxel (0.5 m): the history half is the previous frame's own volume, shifted."""
    model = randomised(temporal_model(dataclasses.replace(BOTH, stereo=False)))
    data = SmallData()
    own, _ = volumes_of(model, data, 1, 0)
    _, history = volumes_of(model, data, 2, 1)
    assert own.abs().sum() > 0
    # What stood at voxel x ahead of the car is one voxel nearer now. Points within a rounding error of a voxel's
    # side may fall into either, so that a few voxels differ.
    same = torch.isclose(history[:, :, :-1], own[:, :, 1:], atol=1e-5).all(1)
    occupied = own[:, :, 1:].abs().sum(1) > 0
    assert occupied.sum() > 100 and same[occupied].float().mean() > 0.98


def test_history_under_a_turn_agrees_with_resampling_the_previous_volume():
    """Lifting into the current ego against trilinear look-up of the previous volume at T_prev_curr."""
    model = randomised(temporal_model(dataclasses.replace(BOTH, stereo=False)))
    data = SmallData()
    quarter = transform([np.sqrt(0.5), 0, 0, np.sqrt(0.5)], (1.0, 0.5, 0.0))  # two voxels ahead, one left, left turn
    data.frames[1] = dataclasses.replace(data.frames[1], T_global_ego=np.eye(4))
    data.frames[2] = dataclasses.replace(data.frames[2], T_global_ego=quarter)
    own, _ = volumes_of(model, data, 1, 0)
    _, history = volumes_of(model, data, 2, 1)
    centers = torch.from_numpy(GRID.centers_ego()).reshape(-1, 3)
    at_previous = centers @ torch.from_numpy(quarter[:3, :3].T).float() + torch.from_numpy(quarter[:3, 3]).float()
    index = (at_previous - torch.tensor(GRID.min_m)) / GRID.voxel_size_m - 0.5
    expected = sample_rows_reference(own[0].permute(1, 2, 3, 0).reshape(-1, own.shape[1]), GRID.shape, index)
    inside = ((index > 0.01) & (index < torch.tensor(GRID.shape) - 1.01)).all(1) & (expected.abs().sum(1) > 0)
    got = history[0].permute(1, 2, 3, 0).reshape(-1, own.shape[1])
    assert inside.sum() > 100
    same = torch.isclose(got[inside], expected[inside], atol=1e-4).all(1)
    assert same.float().mean() > 0.95
    wrong = sample_rows_reference(own[0].permute(1, 2, 3, 0).reshape(-1, own.shape[1]), GRID.shape, index - 1)
    assert torch.isclose(got[inside], wrong[inside], atol=1e-4).all(1).float().mean() < 0.5


def test_without_a_previous_frame_a_learnt_vector_stands_there_never_the_current_volume():
    model = randomised(temporal_model())
    current, history = volumes_of(model, SmallData(), 0, 2)
    assert torch.equal(history, model.no_history.detach().view(1, -1, 1, 1, 1).expand_as(history))
    assert not torch.equal(history, current)
    model.train()
    model(cameras(SmallData(), 0, 2)).sum().backward()
    assert model.no_history.grad.abs().sum() > 0


def test_stereo_evidence_is_zero_without_a_previous_frame_and_changes_the_depth_with_one():
    model = randomised(temporal_model())
    data, seen = SmallData(), []
    model.depth_net.stereo.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    volumes_of(model, data, 0, 2)
    assert len(seen) == 1 and seen[0].shape == (3, 12, 16, 24) and seen[0].abs().sum() == 0
    seen.clear()
    volumes_of(model, data, 2, 2)  # the previous frame has its own stereo depth, from the frame before it
    previous, current = seen
    for evidence in (previous, current):
        assert torch.allclose(evidence.sum(1), torch.ones(3, 16, 24), atol=1e-5) and evidence.std() > 0.01
    seen.clear()
    volumes_of(model, data, 1, 2)
    previous, current = seen
    assert previous.abs().sum() == 0 and current.std() > 0.01


def test_the_stereo_compares_each_camera_with_itself_through_its_own_pose():
    """A textureless image but for its features' exact reprojection: the cost is zero at the motion's true planes."""
    model = randomised(temporal_model())
    data = SmallData()
    still = dataclasses.replace(data.frames[1], images=data.frames[0].images, T_global_ego=data.frames[0].T_global_ego)
    seen = []
    model.depth_net.stereo.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        model(CameraInput.from_frames([still], previous=[[data.frames[0]]]))
    flat = seen[-1]
    # The same images from the same place say nothing about depth: wherever the match is inside, all planes are equal.
    assert torch.allclose(flat, torch.full_like(flat, 1 / 12), atol=1e-4)


def test_no_gradient_reaches_the_previous_frame():
    model = GSRender(temporal_model(frozen=False)).train()
    data = SmallData()
    maps = [m.requires_grad_() for m in (m.detach() for m in model.image_features(cameras(data, 1, 0).images))]
    now = cameras(data, 2, 1)
    before = model.recall([PastMaps(maps, now.previous.Ks, now.previous.T_ego_cam, now.T_curr_prev)])
    assert not before.context.requires_grad and not before.depth_logits.requires_grad
    lifted, _ = model.lift(model.image_features(now.images), now.Ks, now.T_ego_cam, before)
    model.encoder(lifted).sum().backward()
    assert all(m.grad is None for m in maps)
    assert all(
        p.grad is not None for n, p in model.named_parameters() if n.startswith(("backbone.body._conv_stem", "neck"))
    )


@pytest.mark.parametrize("switches", [{"stereo": False}, {"history": False}, {}])
def test_every_combination_runs_through_the_objective(switches):
    config = small_training(model=temporal_model(dataclasses.replace(BOTH, **switches)))
    data, model = SmallData(), GSRender(config.model).train()
    objective = Objective(config, model, TrainingFrames(data, model, torch.device("cpu"), 0.5, 1.0))
    for i in range(3):
        terms = objective(i)
        sum(v for name, v in terms.items() if not name.startswith("_")).backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused


def test_training_and_prediction_see_the_same_previous_frames():
    data = SmallData()
    model = randomised(temporal_model())
    frames = TrainingFrames(data, model, torch.device("cpu"), 0.5, 0.0)
    for i in range(3):
        with torch.no_grad():
            seen, labels = frames.seen(i, AugmentConfig()), frames.labels(i)
            before = model.recall(frames.past(i, None))
            lifted, _ = model.lift(seen.maps, seen.Ks[None], labels.T_ego_cam[None], before)
            expected = model(cameras(data, i, 2))
            # Training rounds cached features to bfloat16; the rest is the same computation.
            assert torch.allclose(model.encoder(lifted), expected, atol=0.05 * expected.abs().max().item())


def test_the_past_is_moved_by_the_same_pixel_transform_as_the_present():
    data = SmallData()
    model = randomised(temporal_model(frozen=False))
    frames = TrainingFrames(data, model, torch.device("cpu"), 0.5, 0.0)
    flip = torch.tensor([[-1.0, 0, 96], [0, 1, 0], [0, 0, 1]]).expand(3, 3, 3)
    (moved, _), (plain, _) = frames.past(2, flip), frames.past(2, None)
    images = torch.from_numpy(data.frame(1).images[..., ::-1].copy())
    with torch.no_grad():
        expected = model.image_features(images[None])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(moved.maps, expected, strict=True))
    assert torch.allclose(moved.Ks[0], flip @ plain.Ks[0]) and torch.equal(moved.T_next_this, plain.T_next_this)


def test_a_previous_frame_of_another_scene_is_refused():
    data = SmallData()
    data.frames[0] = dataclasses.replace(data.frames[0], scene="b")
    model = GSRender(temporal_model())
    frames = TrainingFrames(data, model, torch.device("cpu"), 0.5, 0.0)
    with pytest.raises(ValueError, match="belongs to scene 'b'"):
        frames.past(1, None)


def test_the_predictor_keeps_features_and_gives_what_it_would_give_afresh():
    data, model = SmallData(frames=4), randomised(temporal_model())
    predictor, calls = Predictor(model, device="cpu", precision="float32"), []
    body = predictor.model.backbone
    body.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    assert predictor.frames_before == 2
    for i in range(4):
        before = previous_frames(data, i, 2)
        got = predictor.features(data.frame(i), before)
        if i in (1, 3):
            afresh = Predictor(model, device="cpu", precision="float32").features(data.frame(i), before)
            assert torch.equal(got, afresh)
    assert len(calls) == 4  # one pass of the backbone a frame
    without = predictor.features(data.frame(3))
    assert not torch.allclose(without, got, atol=1e-3)
    calls.clear()
    predictor.warm_up(3)
    assert len(calls) == 1


@pytest.mark.parametrize("switches", [{"stereo": False}, {"history": False}, {}])
def test_bfloat16_keeps_the_poses_of_previous_frames_in_float32(switches):
    """Far from where the ego frame began bfloat16 poses would be metres off, and float32 geometry refuses them."""
    data, model = SmallData(), randomised(temporal_model(dataclasses.replace(BOTH, **switches)))
    before = previous_frames(data, 2, 2)
    full, half = (
        Predictor(model, device="cpu", precision=name).features(data.frame(2), before)
        for name in ("float32", "bfloat16")
    )
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    assert (half - full).norm() < 0.1 * full.norm()


def test_bfloat16_trains_with_previous_frames_and_moved_images():
    augment = AugmentConfig(resize=(0.9, 1.1), flip=0.5)
    config = small_training(model=temporal_model(frozen=False), bf16=True, augment=augment)
    data, model = SmallData(), GSRender(config.model).train()
    frames = TrainingFrames(data, model, torch.device("cpu"), 0.5, 1.0)
    frames.bf16 = True
    terms = Objective(config, model, frames)(2)
    assert all(torch.isfinite(value) for value in terms.values())


def test_a_network_without_history_does_not_look_back():
    predictor = Predictor(GSRender(small_model()), device="cpu", precision="float32")
    data = SmallData()
    assert predictor.frames_before == 0
    alone, with_past = (predictor.features(data.frame(2), before) for before in ((), data.frames[1::-1]))
    assert torch.equal(alone, with_past)


def test_impossible_inputs_and_settings_are_named():
    data = SmallData()
    with pytest.raises(ValueError, match="different numbers of previous frames"):
        CameraInput.from_frames(data.frames[:2], previous=[[], [data.frames[0]]])
    other = dataclasses.replace(data.frames[0], camera_names=("left", "front", "right"))
    with pytest.raises(ValueError, match="same cameras in the same order"):
        CameraInput.from_frames([data.frames[1]], previous=[[other]])
    now = cameras(data, 1, 0)
    with pytest.raises(ValueError, match="give both"):
        CameraInput(now.images, now.Ks, now.T_ego_cam, now)
    for values, message in (
        ({"view": {"stereo": True}}, "needs model.view.depth_net: bevdepth"),
        ({"view": {"stereo": True, "depth_net": "bevdepth"}}, "compares features at stride 4"),
        ({"view": {"neck": "bottle"}}, "model.view.neck: 'bottle' is none of fpn, joined"),
        ({"view": {"depth_net": "deep"}}, "model.view.depth_net: 'deep' is none of"),
        ({"backbone": {"strides": [16, 8]}}, "must rise"),
        ({"backbone": {"strides": [2, 4]}}, "among 4, 8, 16, 32"),
    ):
        with pytest.raises(ValueError, match=message):
            from_dict(ModelConfig, values)
    assert from_dict(ModelConfig, to_dict(temporal_model())) == temporal_model()


def test_a_single_camera_trains():
    """No batch norm of the depth net meets a single value."""
    model = GSRender(temporal_model(frozen=False)).train()
    now = cameras(SmallData(), 1, 1)
    one = CameraInput(now.images[:, :1], now.Ks[:, :1], now.T_ego_cam[:, :1])
    model(one).sum().backward()
    assert torch.isfinite(model.no_history.grad).all()
