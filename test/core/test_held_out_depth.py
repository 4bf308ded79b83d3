"""LiDAR points held out of training: which they are, that training never sees them, and what is measured on them."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small import SmallData, small_model, small_training
from test_nuscenes_reader import reader, shared, template  # noqa: F401 (a fixture)

from gsrender_core.config import DepthConfig, EncoderConfig, TrainConfig, ViewConfig
from gsrender_core.data.frame import PixelLabels
from gsrender_core.data.lidar_labels import LabelOptions, held_out_points, label_points, project_lidar
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.held_out_depth import HeldOutDepth, depth_errors, render_labels
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.pictures.depth_picture import depth_colors, depth_picture
from gsrender_core.render import Cameras, Pixels, render_pixels
from gsrender_core.statistics import voxel_features
from gsrender_core.train import Trainer
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.voxel_grid import VoxelGrid


class HeldOut(SmallData):
    """The small frames, every fourth label held out."""

    label_options = LabelOptions(hold_out=0.25)

    def frame(self, i, labels=True):
        frame = self.frames[i]
        kept = frame.labels.select(np.arange(len(frame.labels)) % 4 > 0)
        return dataclasses.replace(frame, labels=kept if labels else None)

    def held_out_labels(self, i):
        return self.frames[i].labels.select(np.arange(300) % 4 == 0)


@pytest.fixture
def crowded(template, tmp_path) -> Path:  # noqa: F811
    """A sweep of 400 points ahead of the car that all six (equal) cameras see."""
    root = Path(shutil.copytree(template, tmp_path / "data"))
    path = next(p for p in sorted((root / "samples" / "LIDAR_TOP").iterdir()) if p.name.startswith("scene-a-0-"))
    rng = np.random.default_rng(0)
    points = np.zeros((400, 5), np.float32)
    points[:, :3] = rng.uniform((8, -4, -1.5), (30, 4, 1.5), (400, 3))
    points.tofile(path)
    np.full(400, 24, np.uint8).tofile(next((root / "lidarseg" / "v1.0-mini").glob("scene-a-0-*_lidarseg.bin")))
    return root


def depths_of(labels: PixelLabels, camera: int) -> set[float]:
    return set(labels.depth_m[labels.camera == camera].tolist())


def test_held_out_points_are_a_fixed_share_of_each_sample():
    held = held_out_points("token-a", 100_000, 0.2)
    assert abs(held.mean() - 0.2) < 0.005
    np.testing.assert_array_equal(held, held_out_points("token-a", 100_000, 0.2))
    other = held_out_points("token-b", 100_000, 0.2)
    assert abs((held & other).mean() - 0.04) < 0.003  # independent: 0.2 * 0.2
    assert not held_out_points("token-a", 1000, 0.0).any()
    assert (held_out_points("token-a", 1000, 0.5) | ~held_out_points("token-a", 1000, 0.2)).all()  # more of the same


@pytest.mark.parametrize("drop_occluded", [False, True])
def test_a_point_is_held_out_in_every_camera_or_in_none(crowded, drop_occluded):
    def labels(hold_out: float):
        data = reader(crowded, label_options=LabelOptions(drop_occluded=drop_occluded, hold_out=hold_out))
        return data, data.frame(0).labels

    _, everything = labels(0.0)
    data, kept = labels(0.3)
    held = data.held_out_labels(0)
    for camera in range(6):
        assert depths_of(kept, camera).isdisjoint(depths_of(held, camera))
        # All six cameras stand at one place, so that a point has one depth in all of them.
        assert depths_of(held, camera) == depths_of(held, 0) and depths_of(kept, camera) == depths_of(kept, 0)
        if not drop_occluded:
            assert depths_of(kept, camera) | depths_of(held, camera) == depths_of(everything, camera)
    assert 0.2 < len(held) / (len(held) + len(kept)) < 0.4
    if drop_occluded:  # what hides a held-out label may itself be a label of training
        assert depths_of(held, 0) <= depths_of(everything, 0)


def test_held_out_labels_need_a_share(crowded):
    with pytest.raises(ValueError, match="no LiDAR points are held out"):
        reader(crowded).held_out_labels(0)
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match="hold_out"):
            LabelOptions(hold_out=bad)
        with pytest.raises(ValueError, match="hold_out_labels"):
            small_training(hold_out_labels=bad)


def test_label_points_invert_the_projection():
    frame = SmallData().frame(0)
    rng = np.random.default_rng(1)
    points = rng.uniform((-6, -6, -1), (6, 6, 3), (500, 3))
    labels = project_lidar(points, np.zeros(500, np.uint8), np.eye(4), frame.T_ego_cam, frame.Ks, frame.image_size)
    found = label_points(labels, frame.Ks, frame.T_ego_cam)
    nearest = np.linalg.norm(found[:, None] - points[None], axis=2).min(axis=1)
    assert len(labels) > 100 and nearest.max() < 1e-4


def test_errors_by_hand():
    errors = depth_errors(np.array([10.0, 9.0, 0.0, 30.0, 10.9]), np.array([10.0, 10.0, 10.0, 20.0, 10.0]))
    # relative errors 0, 0.1, 1, 0.5, 0.09
    assert errors == pytest.approx({"median_abs_rel": 0.1, "mean_abs_rel": 0.338, "within_10_percent": 0.6})


def test_rendered_labels_are_those_of_all_gaussians():
    """Against rendering every Gaussian of the grid, with pruning switched on in training."""
    config = small_training(prune_opacity=0.3, hold_out_labels=0.25)
    torch.manual_seed(0)
    model, data = GSRender(config.model).eval(), HeldOut()
    frame, labels = data.frame(1), data.held_out_labels(1)
    P = voxel_features(model, data, 1)
    rendered = render_labels(model, config, P, frame, labels)
    cameras = Cameras(
        torch.linalg.inv(torch.from_numpy(frame.T_ego_cam)).float(),
        torch.from_numpy(frame.Ks).float(),
        *frame.image_size,
    )
    with torch.no_grad():
        expected = render_pixels(
            model.gaussians(P), cameras, Pixels(torch.from_numpy(labels.camera), torch.from_numpy(labels.uv))
        )
    assert rendered.alpha.max() > 0.1
    for name in ("depth", "alpha", "logits"):
        assert torch.allclose(getattr(rendered, name), getattr(expected, name), atol=1e-4), name


def test_a_run_reports_before_the_first_step_and_at_the_end(tmp_path):
    config = small_training(hold_out_labels=0.25, validate_every=2)
    trainer = Trainer(config, HeldOut(), tmp_path, "cpu")
    trainer.run()
    rows = [
        row for line in (tmp_path / "log.jsonl").read_text().splitlines() if "held_out" in (row := json.loads(line))
    ]
    assert [row["step"] for row in rows] == [0, 2, 4]
    figures = rows[-1]["held_out"]
    assert figures["points"] == 3 * 75 and 0 <= figures["within_10_percent"] <= 1 and 0 <= figures["inside"] <= 1
    assert figures != rows[0]["held_out"]
    picture = cv2.imread(str(tmp_path / "held_out_depth.jpg"))
    assert picture is not None and picture.std() > 20
    # The figures are those of the averaged weights that the run ends with.
    again = HeldOutDepth(config, HeldOut(), [0, 1, 2]).measure(trainer.ema)
    assert again["median_abs_rel"] == pytest.approx(figures["median_abs_rel"], rel=1e-5)


def test_held_out_labels_never_reach_the_loss():
    """Labels of training hold no held-out one, and the loss is the same whatever those say."""
    data = HeldOut()
    config = small_training(hold_out_labels=0.25)
    torch.manual_seed(0)
    model = GSRender(config.model).eval()

    def terms(dataset) -> dict[str, float]:
        frames = TrainingFrames(dataset, model, torch.device("cpu"), 0.5, 1.0)
        assert len(frames.labels(0).camera) == 225
        torch.manual_seed(1)
        return {name: float(value.detach()) for name, value in Objective(config, model, frames)(0).items()}

    before = terms(data)
    for frame in data.frames:
        frame.labels.depth_m[::4] *= 3
        frame.labels.class_id[::4] = 1
    assert terms(data) == before


def test_data_that_holds_out_another_share_is_refused(tmp_path):
    with pytest.raises(ValueError, match="hold_out_labels is 0.1, the data holds out 0.25"):
        Trainer(small_training(hold_out_labels=0.1), HeldOut(), tmp_path / "a", "cpu")
    with pytest.raises(ValueError, match="the data holds out nothing"):
        Trainer(small_training(hold_out_labels=0.1), SmallData(), tmp_path / "b", "cpu")
    empty = HeldOut()
    empty.held_out_labels = lambda i: SmallData.frame(empty, i).labels.select(np.zeros(300, bool))
    config = small_training(hold_out_labels=0.25)
    with pytest.raises(ValueError, match="none of 3 frames has a held-out LiDAR point"):
        HeldOutDepth(config, empty, [0, 1, 2]).measure(GSRender(config.model).eval())


def test_depth_colours_run_from_near_to_far():
    colors = depth_colors(np.array([[0.0, 1.0, 0.5], [10.0, 60.0, 90.0]]))
    assert colors.shape == (2, 3, 3) and colors[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(colors[0, 1], colors[0, 2])
    np.testing.assert_array_equal(colors[1, 1], colors[1, 2])
    blue, red = colors[..., 0].astype(int), colors[..., 2].astype(int)
    assert red[0, 1] > blue[0, 1] and blue[1, 1] > red[1, 1]


def test_picture_shows_each_map_and_point_in_its_place():
    frame = HeldOut().frame(0)
    labels = PixelLabels(np.array([2]), np.array([[48.0, 32.0]], np.float32), np.array([5.0]), np.array([4], np.uint8))
    before, after = np.zeros((3, 32, 48), np.float32), np.full((3, 32, 48), 20.0, np.float32)
    sheet = depth_picture(dataclasses.replace(frame, labels=labels), before, after, "title")
    height = round(352 * 64 / 96)
    top = 2 * 26 + 2 * (height + 6)  # the third camera's row
    rows = slice(top + 20, top + height - 4)
    assert (sheet[rows, 6 + 358 + 4 : 6 + 358 + 348] == 0).all()
    expected = depth_colors(np.array([20.0]))[0, ::-1]
    assert (sheet[rows, 6 + 2 * 358 + 4 : 6 + 2 * 358 + 348] == expected).all()
    point = sheet[top + height // 2, 6 + 3 * 358 + 176]
    np.testing.assert_array_equal(point, depth_colors(np.array([5.0]))[0, ::-1])


@pytest.mark.parametrize("name, frames", [("ddad_three_frames", 3), ("nuscenes_keyframe", 1)])
def test_real_frames_train_with_ray_compensation_where_neighbours_exist(name, frames):
    """k = +-1 gives adjacent terms across the three real frames, and none for a frame that stands alone."""
    model = small_model(
        image_size=(176, 64),
        grid=VoxelGrid((-25.6, -25.6, -1.0), 0.8, (64, 64, 8)),
        depth=DepthConfig(1.0, 45.0, 24),
        view=ViewConfig(neck_channels=16, channels=8),
        encoder=EncoderConfig(channels=8, features=6),
    )
    config = TrainConfig(model=model, validation_scenes=0, adjacent=(-1, 1), pixels=256, rays=256, hold_out_labels=0.1)
    data = NuScenes(shared(name), model.image_size, label_options=LabelOptions(drop_occluded=True, hold_out=0.1))
    assert len(data) == frames
    torch.manual_seed(0)
    network = GSRender(model).train()
    objective = Objective(config, network, TrainingFrames(data, network, torch.device("cpu"), 0.5, 1.0))
    for i in range(frames):
        terms = objective(i)
        assert ("adj_depth" in terms and "adj_semantic" in terms) == (frames > 1)
        if frames > 1:
            neighbours = [j for j in (i - 1, i + 1) if 0 <= j < frames]
            found = objective._adjacent_frames(i, (-1, 1), 2, objective.frames.labels(i))
            assert sorted(a.labels.token for a in found) == sorted(data.tokens[j] for j in neighbours)
            for adjacent in found:  # the car moves about 1.3 m a frame
                assert 0.8 < float(adjacent.T_curr_adj[:3, 3].norm()) < 2.0
            assert terms["adj_depth"].item() > 0
    figures = HeldOutDepth(config, data, [0]).measure(network.eval())
    assert 1000 < figures["points"] < 7000 and 0.5 < figures["inside"] < 0.95
