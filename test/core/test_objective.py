import dataclasses

import numpy as np
import pytest
import torch
from small import GRID, SmallData, camera_pose, small_model, small_training

from gsrender_core.config import HeadConfig, LossConfig
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.geometry import transform
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.views import Adjacent, draw_view


def objective(config, data):
    torch.manual_seed(0)
    model = GSRender(config.model).train()
    return Objective(config, model, TrainingFrames(data, model, torch.device("cpu"), config.rare_boost, 1.0))


def test_the_adjacent_term_exists_only_where_an_adjacent_frame_does():
    data = SmallData()
    compute = objective(small_training(bev_flip=False), data)
    assert "adj_semantic" in compute(0) and "adj_semantic" not in compute(2)
    logits = objective(small_training(compensation="logits", bev_flip=False), data)(0)
    assert torch.isfinite(logits["adj_depth"])
    assert "adj_semantic" not in objective(small_training(compensation="none"), data)(0)


def test_omega_scales_the_adjacent_terms():
    data, terms = SmallData(), {}
    for omega in (1.0, 0.5):
        compute = objective(small_training(loss=LossConfig(omega=omega, ray=0.0), bev_flip=False), data)
        torch.manual_seed(1)
        terms[omega] = compute(0)
    for name in ("adj_semantic", "adj_depth"):
        assert terms[0.5][name].item() == pytest.approx(0.5 * terms[1.0][name].item(), rel=1e-4)
    assert terms[0.5]["semantic"].item() == pytest.approx(terms[1.0]["semantic"].item(), rel=1e-4)


def test_the_moving_classes_are_ours_or_renderoccs():
    ours = objective(small_training(), SmallData()).dynamic
    theirs = objective(small_training(loss=LossConfig(renderocc_dynamic=True)), SmallData()).dynamic
    assert ours[2] and ours[6] and not ours[1]  # two-wheelers move, barriers do not
    assert theirs[1] and not theirs[2] and not theirs[6]


@pytest.mark.parametrize("signs", [(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)])
def test_mirroring_volume_cameras_and_motion_together_changes_no_loss(signs):
    data = SmallData()
    compute = objective(small_training(render_cameras=0, pixels=10_000, rays=10_000), data)
    torch.nn.init.normal_(compute.model.head.output.weight[6:])  # offsets stay zero: they would need mirroring too
    P = torch.randn(6, *GRID.shape)
    labels = compute.frames.labels(0)
    current = Adjacent(labels, torch.eye(4))
    (adjacent,) = compute._adjacent_frames(0, (1,), 1, labels)
    turned = torch.from_numpy(transform(camera_pose(0.3)[:3, :3] @ camera_pose(0.0)[:3, :3].T, (0.5, 0.2, 0.0))).float()
    adjacent = Adjacent(adjacent.labels, turned)
    S = torch.diag(torch.tensor([*signs, 1.0, 1.0]))
    axes = [axis + 1 for axis in (0, 1) if signs[axis] < 0]

    def losses(volume, mirror):
        with torch.no_grad():
            view = draw_view(current.labels, compute.config, mirror)
            here = compute._rendered("", compute._see(volume, view, None), view, None)
            view = draw_view(adjacent.labels, compute.config, mirror)
            seen = compute._see(volume, view, mirror @ adjacent.T_curr_adj @ mirror)
            there = compute._rendered("adj_", seen, view, 0.1)
            torch.manual_seed(5)
            rays = compute.rays(volume, [current, adjacent], mirror)
        values = {k: v.item() for k, v in (here | there).items() if not k.startswith("_")}
        return values | {"ray_opacity": rays[0].item(), "ray_semantic": rays[1].item()}

    plain = losses(P, torch.eye(4))
    assert losses(P.flip(axes), S) == pytest.approx(plain, rel=2e-3)
    assert losses(P, S) != pytest.approx(plain, rel=2e-2)  # the test can tell


def test_labels_unproject_to_the_points_they_came_from():
    data = SmallData()
    compute = objective(small_training(), data)
    labels, frame = compute.frames.labels(1), data.frame(1)
    points, origins = labels.points_and_origins(torch.arange(20))
    for n in range(20):
        c = int(labels.camera[n])
        at_camera = np.linalg.inv(frame.T_ego_cam[c]) @ np.append(points[n].numpy(), 1)
        uvz = frame.Ks[c] @ at_camera[:3]
        assert uvz[2] == pytest.approx(float(labels.depth_m[n]), rel=1e-4)
        assert uvz[:2] / uvz[2] == pytest.approx(labels.uv[n].numpy(), abs=1e-2)
        assert origins[n].numpy() == pytest.approx(frame.T_ego_cam[c][:3, 3], abs=1e-5)


def test_rare_classes_are_drawn_more_often_than_their_share():
    data = SmallData()
    compute = objective(small_training(rare_boost=1.0), data)
    labels = compute.frames.labels(0)
    assert labels.draw[labels.class_id == 3].sum().item() == pytest.approx(1.0, rel=1e-3)
    index = labels.sample(50)
    assert len(index) == 50 == len(set(index.tolist()))


def test_an_adjacent_frame_of_another_scene_is_refused_by_name():
    data = SmallData()
    data.frames[1] = dataclasses.replace(data.frames[1], scene="b")
    with pytest.raises(ValueError, match="frame 1 is given as adjacent to frame 0.* scene 'b', not to 'a'"):
        objective(small_training(), data)(0)


def test_all_adjacent_frames_of_a_step_are_summed_and_not_averaged():
    data = SmallData(frames=5)
    still = dict(bev_flip=False, render_cameras=0, pixels=10_000, loss=LossConfig(ray=0.0))

    def terms(**changes):
        compute = objective(small_training(**(still | changes)), data)
        return {name: value.item() for name, value in compute(2).items() if not np.isnan(value.item())}

    single = {k: terms(adjacent=(k,)) for k in (-2, -1, 1)}
    every = terms(adjacent=(-2, -1, 1, 4), adjacent_per_step=0)  # k = 4 does not exist
    for name in ("adj_semantic", "adj_depth"):
        assert every[name] == pytest.approx(sum(one[name] for one in single.values()), rel=1e-4)
    assert every["_adj_accuracy"] == pytest.approx(np.mean([one["_adj_accuracy"] for one in single.values()]), rel=1e-4)
    assert every["semantic"] == pytest.approx(single[1]["semantic"], rel=1e-4)
    two = terms(adjacent=(-2, -1), adjacent_per_step=2)
    assert two["adj_depth"] == pytest.approx(single[-2]["adj_depth"] + single[-1]["adj_depth"], rel=1e-4)


def test_only_labels_inside_both_volumes_are_rendered_unless_all_are_wanted():
    data = SmallData()
    inside, outside = objective(small_training(), data), objective(small_training(render_outside=True), data)
    labels = inside.frames.labels(0)
    far = Adjacent(labels, torch.eye(4))
    far.T_curr_adj[0, 3] = 2.5  # the adjacent car stands 2.5 m ahead: its forward half sees beyond the current volume
    points, _ = labels.points_and_origins(torch.arange(len(labels.camera)))
    low, high = torch.tensor(GRID.min_m), torch.tensor(GRID.max_m)
    own = ((points >= low) & (points < high)).all(1)
    shifted = points + torch.tensor([2.5, 0.0, 0.0])
    both = own & ((shifted >= low) & (shifted < high)).all(1)
    assert 0 < both.sum() < own.sum() < len(points)
    assert torch.equal(inside._allowed(Adjacent(labels, torch.eye(4))), own)
    assert torch.equal(inside._allowed(far), both)
    assert outside._allowed(far) is None
    view = draw_view(labels, inside.config, torch.eye(4), allowed=both)
    assert both[view.index].all() and len(view.index) > 0


STEADY = dict(bev_flip=False, render_cameras=0, pixels=10_000, rays=10_000)


def terms_of(data=None, i=0, head=None, loss=None, **changes):
    """Terms of a step of a model with offsets, scales and opacities that differ; equal seeds, whatever the switches."""
    config = small_training(
        **(STEADY | changes), model=small_model(head=head or HeadConfig()), loss=loss or LossConfig(ray=0.0)
    )
    compute = objective(config, data or SmallData())
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        compute.model.head.output.weight[:24] = torch.randn(24, config.model.head.hidden, generator=generator) / 4
    torch.manual_seed(1)
    return compute, {name: value.item() for name, value in compute(i).items()}


def rendered_gaussians(head):
    compute, _ = terms_of(head=head)
    torch.manual_seed(2)
    return compute.model.gaussians(torch.randn(6, *GRID.shape)), compute.model.centers


def test_table_3_each_switch_changes_its_own_property_and_nothing_else():
    plain, centers = rendered_gaussians(HeadConfig())
    offset = (plain.means - centers).abs()
    assert 0.2 < offset.max() <= 1.2 and plain.scales.std() > 0.01 and plain.quats is None

    def others_equal(gaussians, *changed):
        for name in {"means", "scales", "opacities", "logits"} - set(changed):
            torch.testing.assert_close(getattr(gaussians, name), getattr(plain, name), rtol=1e-6, atol=1e-6)

    fixed, _ = rendered_gaussians(HeadConfig(max_offset_m=0.0))
    assert torch.equal(fixed.means, centers)
    others_equal(fixed, "means")
    short, _ = rendered_gaussians(HeadConfig(max_offset_m=0.2))
    assert 0.1 < (short.means - centers).abs().max() <= 0.2 + 1e-6
    others_equal(short, "means")
    round_, _ = rendered_gaussians(HeadConfig(predict_scale=False))
    assert torch.allclose(round_.scales, torch.tensor(0.2))
    others_equal(round_, "scales")
    turned, _ = rendered_gaussians(HeadConfig(predict_rotation=True))
    assert turned.quats.shape == (GRID.size, 4) and torch.allclose(turned.quats.norm(dim=1), torch.ones(GRID.size))
    others_equal(turned, "quats")


@pytest.mark.parametrize(
    "head",
    [HeadConfig(max_offset_m=0.0), HeadConfig(max_offset_m=0.2), HeadConfig(predict_scale=False),
     HeadConfig(predict_rotation=True)],
)  # fmt: skip
@pytest.mark.parametrize("compensation", ["features", "logits"])
def test_every_head_of_table_3_trains_in_both_frames(head, compensation):
    compute, terms = terms_of(head=head, compensation=compensation)
    assert {"semantic", "depth", "adj_semantic", "adj_depth"} <= set(terms) and np.isfinite(list(terms.values())).all()
    sum(value for name, value in compute(0).items() if not name.startswith("_")).backward()
    assert all(torch.isfinite(p.grad).all() for p in compute.model.head.parameters())


def test_table_4_each_switch_changes_its_own_term_and_nothing_else():
    plain = terms_of()[1]
    paper = {"semantic", "depth", "adj_semantic", "adj_depth"}

    def compare(changed, scaled=None, **changes):
        terms = terms_of(**changes)[1]
        for name in set(plain) & set(terms):
            if name not in changed:
                assert terms[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-6), name
        for name in changed & set(terms):
            if scaled:
                assert terms[name] == pytest.approx(scaled * plain[name], rel=1e-4), name
            else:
                assert terms[name] != pytest.approx(plain[name], rel=0.05), name
        return terms

    assert paper <= set(plain)
    compare({"adj_semantic", "adj_depth"}, scaled=1 / 0.8, loss=LossConfig(ray=0.0, omega=1.0))
    compare({"adj_semantic", "adj_depth"}, loss=LossConfig(ray=0.0, alpha=1.0))
    none = compare(set(), compensation="none")
    assert not [name for name in none if "adj" in name]


def test_what_the_paper_has_alone_and_each_term_beyond_it():
    data = SmallData()
    paper = {"depth_net", "semantic", "depth", "drift", "adj_semantic", "adj_depth"}

    def names(**weights):
        return {n for n in terms_of(data, loss=LossConfig(**weights))[1] if not n.startswith("_")}

    assert names(ray=0.0) == paper
    assert names() - paper == {"ray_opacity", "ray_semantic", "free_prior"}
    assert names(ray=0.0, voxel=1.0) == paper  # no ground truth in these frames
    assert names(ray=0.0, semantic=0.0, depth=0.0) == {"depth_net"}


def test_weights_scale_their_terms():
    data = SmallData()
    one = LossConfig(semantic=1, depth=1, depth_net=1, offset_drift=1, ray=1, free_prior=0.2)
    single = terms_of(data, loss=one)[1]
    for key, names in (
        ("semantic", ("semantic", "adj_semantic")),
        ("depth", ("depth", "adj_depth")),
        ("depth_net", ("depth_net",)),
        ("offset_drift", ("drift",)),
        ("ray", ("ray_opacity", "ray_semantic", "free_prior")),
    ):
        terms = terms_of(data, loss=dataclasses.replace(one, **{key: 3.0}))[1]
        for name in single:
            expected = single[name] * (3.0 if name in names else 1.0)
            if not name.startswith("_"):
                assert terms[name] == pytest.approx(expected, rel=1e-3, abs=1e-6), (key, name)


def with_labels(data, i, **arrays):
    frame = data.frames[i]
    data.frames[i] = dataclasses.replace(frame, labels=dataclasses.replace(frame.labels, **arrays))
    return data


def test_cameras_without_labels_are_not_drawn_while_others_have_some():
    data = SmallData()
    with_labels(data, 0, camera=np.full(300, 2))
    compute = objective(small_training(render_cameras=1, render_outside=True), data)
    for seed in range(5):
        torch.manual_seed(seed)
        view = draw_view(compute.frames.labels(0), compute.config, torch.eye(4))
        assert view.chosen.tolist() == [False, False, True] and len(view.index) == 64


def test_a_frame_whose_labels_all_lie_outside_has_no_rendered_loss_and_is_named_once(caplog):
    data = with_labels(SmallData(), 0, depth_m=np.full(300, 60.0, np.float32))
    compute, terms = terms_of(data, adjacent=(1,))
    assert not {"semantic", "depth", "drift"} & set(terms) and "adj_depth" in terms
    compute(0)
    assert caplog.text.count("rendered losses are left out") == 1 and "frame 0: none of 300 labels" in caplog.text
    _, terms = terms_of(with_labels(SmallData(), 1, depth_m=np.full(300, 60.0, np.float32)))
    assert "adj_depth" not in terms and "depth" in terms


def test_labels_without_any_class_teach_depth_alone():
    data = SmallData()
    for i in range(3):
        with_labels(data, i, class_id=np.full(300, 255, np.uint8))
    compute, terms = terms_of(data, loss=LossConfig())
    assert terms["semantic"] == terms["adj_semantic"] == terms["ray_semantic"] == 0 and terms["depth"] > 0
    assert "_accuracy" not in terms and "_depth_error" in terms
    sum(value for name, value in compute(0).items() if not name.startswith("_")).backward()
    output = compute.model.head.output.weight.grad
    assert output[7:24].abs().max() == 0 and output[6].abs().max() > 0 and torch.isfinite(output).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -3.0])
def test_labels_without_a_usable_depth_are_refused_with_the_frame_named(bad):
    depth = SmallData().frames[0].labels.depth_m.copy()
    depth[7] = bad
    with pytest.raises(ValueError, match=r"frame t0 of a: 1 of 300 labels .*, first (nan|inf|0|-3)"):
        terms_of(with_labels(SmallData(), 0, depth_m=depth))
    uv = SmallData().frames[0].labels.uv.copy()
    uv[:, 1] = np.nan
    with pytest.raises(ValueError, match="300 of 300 labels have no usable depth or position"):
        terms_of(with_labels(SmallData(), 0, uv=uv))


@pytest.mark.parametrize("where", ["neck", "head"])
def test_a_broken_network_has_a_loss_that_is_not_finite_and_blames_no_frame(where):
    compute, _ = terms_of()
    with torch.no_grad():
        next(getattr(compute.model, where).parameters()).view(-1)[0] = float("nan")
    terms = compute(0)
    assert list(terms) == ["network"] and not torch.isfinite(terms["network"])


def test_a_frame_without_labels_is_refused():
    data = with_labels(SmallData(), 0, **{
        "camera": np.zeros(0, np.int64), "uv": np.zeros((0, 2), np.float32),
        "depth_m": np.zeros(0, np.float32), "class_id": np.zeros(0, np.uint8),
    })  # fmt: skip
    with pytest.raises(ValueError, match="frame t0 of a has no LiDAR labels"):
        terms_of(data)


def test_the_log_names_what_learning_goes_wrong_by_and_carries_no_gradient():
    compute, terms = terms_of()
    watched = ("offset_mean", "offset_spread", "offset_over_half", "opacity_10", "opacity_50", "opacity_90",
               "opacity_over_half", "rendered_share", "alpha", "depth_error", "accuracy")  # fmt: skip
    for prefix in ("_", "_adj_"):
        assert {prefix + name for name in watched} <= set(terms)
    assert terms["_opacity_10"] < terms["_opacity_50"] < terms["_opacity_90"]
    assert all(not value.requires_grad for name, value in compute(0).items() if name.startswith("_"))


def test_depth_error_accuracy_and_alpha_by_hand():
    from gsrender_core.render import Rendered
    from gsrender_core.splatting import Seen

    compute, _ = terms_of()
    labels = compute.frames.labels(0)
    view = draw_view(labels, compute.config, torch.eye(4))
    view.index = view.index[:4]
    target, class_id = labels.depth_m[view.index], labels.class_id[view.index].clone()
    labels.class_id[view.index[3]] = 255
    logits = torch.nn.functional.one_hot(class_id, 17).float()
    logits[0] = logits[0].roll(1)
    rendered = Rendered(logits, target * torch.tensor([1.1, 0.8, 1.4, 9.0]), torch.tensor([1.0, 0.5, 0.9, 0.004]))
    terms = compute._rendered("", Seen(rendered), view, None)
    assert terms["_depth_error"].item() == pytest.approx(0.2, rel=1e-4)  # of the three that anything covers
    assert terms["_accuracy"].item() == pytest.approx(2 / 3) and terms["_alpha"].item() == pytest.approx(2.404 / 4)


@pytest.mark.parametrize("signs", [(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)])
def test_3d_labels_are_mirrored_with_the_volume(signs):
    class Pointwise(torch.nn.Module):
        """An encoder that commutes with reflections."""

        def __init__(self, inputs):
            super().__init__()
            self.mix = torch.randn(6, inputs)

        def forward(self, lifted):
            size = (GRID.shape[0], GRID.shape[1], GRID.shape[2])
            return torch.einsum("fc,bcxyz->bfxyz", self.mix, torch.nn.functional.interpolate(lifted, size))

    class WithTruth(SmallData):
        def ground_truth(self, i):
            rng = np.random.default_rng(i)
            semantics = rng.integers(0, 18, GRID.shape).astype(np.uint8)
            return Occ3DLabels(semantics, semantics * 0, (rng.uniform(size=GRID.shape) < 0.5).astype(np.uint8), GRID)

    config = small_training(loss=LossConfig(ray=0.0, semantic=0.0, depth=0.0, voxel=1.5), voxels=0)
    compute = objective(config, WithTruth())
    lifted = []
    compute.model.encoder.register_forward_pre_hook(lambda module, inputs: lifted.append(inputs[0]))
    compute(0)
    compute.model.encoder = Pointwise(lifted[0].shape[1])
    compute.model.eval()  # batch statistics must not drift between the two

    def voxel(mirror):
        compute._mirror = lambda: mirror
        return compute(0)["voxel"].item()

    plain = voxel(torch.eye(4))
    assert voxel(torch.diag(torch.tensor([*signs, 1.0, 1.0]))) == pytest.approx(plain, rel=1e-4)
    compute.config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, voxel=3.0))
    assert voxel(torch.eye(4)) == pytest.approx(2 * plain, rel=1e-4)
