"""Offsets, scales and opacities: the histogram against numpy, a network's Gaussians against its output, pictures."""

import json

import cv2
import numpy as np
import pytest
import torch
from small import GRID, SmallData, camera_pose, small_model

from gsrender_core.checkpoint import save_checkpoint
from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.cli import main
from gsrender_core.config import HeadConfig
from gsrender_core.data.frame import Frame, PixelLabels
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.histogram import Histogram
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.pictures.gaussian_views import filtered_picture, offsets_picture, render_points, scales_picture
from gsrender_core.pictures.voxel_view import BACKGROUND, View
from gsrender_core.statistics import (
    GaussianStatistics,
    gaussian_arrays,
    hit_voxels,
    spread,
    voxel_features,
    write_statistics,
)


def test_the_histogram_against_numpy():
    rng = np.random.default_rng()
    values = rng.normal(0.2, 0.4, 20_000).clip(-2.9, 2.9).astype(np.float32)
    histogram = Histogram(-3.0, 3.0, 4000)
    for part in np.array_split(values, 7):
        histogram.add(part)
    histogram.add(np.array([np.nan, np.inf]))
    assert histogram.count == len(values) and histogram.dropped == 2
    assert histogram.mean == pytest.approx(values.mean(dtype=np.float64)) and histogram.std == pytest.approx(
        values.std(dtype=np.float64)
    )
    for q in (0.0, 0.01, 0.25, 0.5, 0.9, 1.0):
        assert histogram.quantile(q) == pytest.approx(np.quantile(values, q), abs=0.01 if 0 < q < 1 else 0.002)
    assert histogram.share_beyond(0.5) == pytest.approx((np.abs(values) > 0.5).mean(), abs=2e-3)
    edges, counts = histogram.coarse(50)
    np.testing.assert_array_equal(counts, np.histogram(values, edges)[0])


def test_the_histogram_by_hand():
    histogram = Histogram(0.0, 1.0, 10)
    assert np.isnan([histogram.mean, histogram.std, histogram.quantile(0.5), histogram.share_beyond(0.5)]).all()
    histogram.add(np.array([0.05, 0.25, 0.25, 0.95, 7.0, -1.0]))  # the last two in the outermost bins
    assert histogram.counts.tolist() == [2, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert histogram.quantile(0.5) == pytest.approx(0.25) and histogram.share_beyond(0.5) == pytest.approx(1 / 3)
    assert histogram.coarse(2)[1].tolist() == [4, 2]


def trained_looking(seed: int = 0, **changes) -> GSRender:
    """A network whose head is not at its start: offsets, scales and opacities of many sizes."""
    torch.manual_seed(seed)
    model = GSRender(small_model(**changes)).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        if changes.get("head") is None:
            model.head.output.bias[6] = 0.0  # opacities around one half
            rows = model.head.output(torch.nn.functional.softplus(model.head.hidden(torch.zeros(1, 6))))
            model.head.output.bias[6] -= rows[0, 6]
    return model


def test_arrays_are_the_networks_gaussians():
    model, data = trained_looking(), SmallData()
    with torch.no_grad():
        P = model(CameraInput.from_frames([data.frame(1)]))[0]
        g = model.gaussians(P)
    assert torch.equal(voxel_features(model, data, 1), P)
    arrays = gaussian_arrays(model, P)
    np.testing.assert_allclose(arrays["means"], g.means.numpy(), atol=1e-5)
    np.testing.assert_allclose(arrays["opacity"], g.opacities.numpy(), atol=1e-5)
    np.testing.assert_allclose(arrays["scale"], g.scales.numpy(), atol=1e-5)
    centers = GRID.centers_ego().reshape(-1, 3)
    np.testing.assert_allclose(arrays["offset"], (g.means.numpy() - centers) / 0.5, atol=1e-4)
    assert (arrays["label"] == g.logits.argmax(1).numpy()).mean() > 0.999
    assert arrays["offset"].std() > 0.01


def test_groups_count_their_gaussians():
    model, data = trained_looking(), SmallData()
    statistics, hits = GaussianStatistics(model.config), np.array([5, 17, 900])
    arrays = [statistics.update(model, voxel_features(model, data, i), 0.5, hits) for i in (0, 2)]
    opacity = np.concatenate([a["opacity"] for a in arrays])
    offset = np.concatenate([a["offset"] for a in arrays])[opacity >= 0.5]
    scale = np.concatenate([a["scale"] for a in arrays])[opacity >= 0.5]
    result = statistics.result()
    assert 0 < len(offset) < len(opacity) and result["frames"] == 2
    groups = result["groups"]
    assert [groups[n]["count"] for n in ("all", "occupied", "lidar_hits")] == [2 * GRID.size, len(offset), 6]
    assert result["occupied_share"] == pytest.approx(len(offset) / len(opacity))
    for axis, name in enumerate("xyz"):
        found = groups["occupied"]["offset_voxels"][name]
        assert found["mean"] == pytest.approx(offset[:, axis].mean(), abs=1e-6)
        assert found["std"] == pytest.approx(offset[:, axis].std(), abs=1e-6)
        assert found["beyond_half"] == pytest.approx((np.abs(offset[:, axis]) > 0.5).mean(), abs=5e-3)
        assert groups["occupied"]["scale_m"][name]["mean"] == pytest.approx(scale[:, axis].mean(), abs=1e-6)
    beyond = (np.abs(offset) > 0.5).any(axis=1).mean()
    assert groups["occupied"]["offset_voxels"]["beyond_half_any_axis"] == pytest.approx(beyond)
    hit = np.concatenate([a["offset"][hits] for a in arrays])
    assert groups["lidar_hits"]["offset_voxels"]["z"]["mean"] == pytest.approx(hit[:, 2].mean(), abs=1e-6)
    assert sum(result["opacity_histogram"]["counts"]) == 2 * GRID.size
    summary = statistics.summary()
    assert summary["offset_mean_z"] == pytest.approx(offset[:, 2].mean(), abs=1e-4)
    assert summary["offset_over_half"] == pytest.approx(beyond, abs=1e-4)
    assert summary["opacity_50"] == pytest.approx(np.median(opacity), abs=1e-3)


def test_a_nerf_head_has_opacities_only():
    model, data = trained_looking(head=HeadConfig(kind="nerf")), SmallData()
    statistics = GaussianStatistics(model.config)
    statistics.update(model, voxel_features(model, data, 0), 0.3, np.array([3]))
    assert statistics.result()["groups"] == {} and statistics.summary()["opacity_50"] > 0
    assert "offset_mean_x" not in statistics.summary()
    with pytest.raises(ValueError, match="no Gaussians"):
        write_statistics(model, data, "unused")


def test_hit_voxels_are_those_of_the_points():
    """Points 3 m ahead of a level camera at (0.2, 0, 0.5), one of them outside the volume."""
    K = np.array([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]])
    points_cam = np.array([[0.0, 0.0, 3.0], [0.0, 0.0, 3.01], [1.0, -0.5, 2.0], [0.0, 0.0, 50.0]])
    uv = points_cam[:, :2] / points_cam[:, 2:] * 60 + [48, 32]
    labels = PixelLabels(np.array([0, 1, 0, 1]), uv.astype(np.float32), points_cam[:, 2].astype(np.float32),
                         np.array([4, 255, 3, 4], np.uint8))  # fmt: skip
    poses = np.stack([camera_pose(0.0, x=0.2)] * 2)
    frame = Frame(np.zeros((2, 3, 64, 96), np.uint8), np.stack([K] * 2), poses, np.eye(4), 0, ("a", "b"), labels=labels)
    # (3.2, 0, 0.5) -> (14, 8, 3); (2.2, -1, 1.0) -> (12, 6, 4), by floor((p - min) / 0.5).
    expected = {(14, 8, 3), (12, 6, 4)}
    found = {tuple(int(v) for v in np.unravel_index(i, GRID.shape)) for i in hit_voxels(frame, GRID)}
    assert found == expected


def test_spread_indices():
    assert list(spread(10, None)) == list(range(10)) and list(spread(10, 4)) == [0, 2, 5, 7]
    assert list(spread(3, 9)) == [0, 1, 2]
    with pytest.raises(ValueError, match="limit is 0"):
        spread(5, 0)
    with pytest.raises(ValueError, match="no frames"):
        spread(0, None)


def test_statistics_are_written_with_pictures(tmp_path):
    result = write_statistics(trained_looking(), SmallData(), tmp_path / "out", limit=2)
    stored = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert stored["frames"] == 2 and stored["groups"]["occupied"]["count"] == result["groups"]["occupied"]["count"]
    assert stored["groups"]["lidar_hits"]["count"] > 10 and stored["voxel_size_m"] == 0.5
    for name in ("offsets", "scales", "filtered"):
        picture = cv2.imread(str(tmp_path / "out" / f"{name}.png"))
        assert picture is not None and picture.shape[1] > 1000


def test_points_are_drawn_where_they_project_and_the_nearer_hides():
    view = View((-10.0, 0.0, 0.0), (0.0, 0.0, 0.0), (200, 100), fov_deg=60.0)
    points = np.array([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 3.0, 1.0], [-20.0, 0.0, 0.0]])
    colors = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], np.uint8)
    image = render_points(points, colors, view)
    assert image[50, 100].argmax() == 1  # green hides red; the point behind the eye is nowhere
    u, v = view.project(points[2:3])[0][0]
    assert image[int(v), int(u)].argmax() == 2
    reddish = image[..., 0].astype(int) - image[..., 1:].max(axis=2)
    assert reddish.max() <= 0 and (image[0, 0] == BACKGROUND).all()
    assert (render_points(points[:0], colors[:0], view) == BACKGROUND).all()


def test_the_filtered_picture_leaves_out_what_has_moved():
    data = SmallData()
    truth = np.full(GRID.shape, FREE, np.uint8)
    truth[12, 4:12, 2:5] = 15
    seen = np.ones(GRID.shape, np.uint8)
    opacity = np.full(GRID.size, 0.1, np.float32)
    label = np.full(GRID.size, 4, np.uint8)
    offset = np.zeros((GRID.size, 3), np.float32)
    moved = np.ravel_multi_index((np.full(8, 12), np.arange(4, 12), np.full(8, 3)), GRID.shape)
    opacity[moved], offset[moved, 2] = 0.9, 0.8
    arrays = {"opacity": opacity, "label": label, "offset": offset,
              "means": GRID.centers_ego().reshape(-1, 3) + 0.5 * offset}  # fmt: skip
    picture = filtered_picture(data.frame(0), Occ3DLabels(truth, seen, seen, GRID), arrays, 0.5, GRID)
    rgb = picture[:-150, :, ::-1].reshape(len(picture) - 150, -1, 3).astype(float)  # without the legend
    color = CLASS_COLORS[4] / np.linalg.norm(CLASS_COLORS[4])
    orange = (rgb @ color / np.maximum(np.linalg.norm(rgb, axis=2), 1) > 0.999) & (rgb.max(axis=2) > 120)
    orange[:420] = False  # the cameras
    columns = [int(orange[:, n * 560 : (n + 1) * 560].sum()) for n in range(3)]
    assert columns[1] > 30 and columns[0] == columns[2] == 0
    assert filtered_picture(data.frame(0), None, arrays, 0.5, GRID).shape[1] == 1680


def test_pictures_of_nothing_are_drawn():
    empty = Histogram(-1.0, 1.0, 100)
    assert offsets_picture({}).ndim == 3
    assert offsets_picture({"occupied": [empty] * 3}).ndim == 3
    assert scales_picture({}, Histogram(0.0, 1.0, 100), 0.1).ndim == 3


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / "m.safetensors", trained_looking(), {})
    monkeypatch.setattr("gsrender_core.cli.scoring.dataset", lambda *arguments, **more: SmallData())
    command = ["statistics", str(tmp_path / "m.safetensors"), "--data", "x", "--out", str(tmp_path / "out")]
    json_file = tmp_path / "other" / "s.json"
    assert main([*command, "--limit", "1", "--tau", "0.5", "--json", str(json_file), "--device", "cpu"]) == 0
    stored = json.loads(json_file.read_text())
    assert stored["frames"] == 1 and stored["tau"] == 0.5 and stored["checkpoint"].endswith("m.safetensors")
    assert "occupied z" in capsys.readouterr().out and (tmp_path / "out" / "offsets.png").exists()
    assert main([*command, "--limit", "0"]) == 1
