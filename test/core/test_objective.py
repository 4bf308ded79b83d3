import dataclasses

import numpy as np
import pytest
import torch
from small import GRID, SmallData, camera_pose, small_training

from gsrender_core.config import LossConfig
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
