import dataclasses
import json

import numpy as np
import pytest
import torch
from small import SmallData, small_model

from gsrender_core.checkpoint import save_checkpoint
from gsrender_core.classes import FREE
from gsrender_core.cli import main
from gsrender_core.config import READOUTS, HeadConfig
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.evaluate import (
    HIGH_TAUS,
    constant_images,
    evaluate,
    grey_images,
    majority_grid,
    study_scores,
    sweep_tau,
)
from gsrender_core.metrics.miou import MeanIoU, without_nan
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.predictor import Predictor
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.world import generate_world

CELL = VoxelGrid((-4.0, -4.0, -1.0), 0.5, (16, 16, 8))


class Labelled(SmallData):
    """Frames with a ground truth: a floor of class 11 and, in frame 1 alone, a block of class 15."""

    def ground_truth(self, i):
        semantics = np.full(CELL.shape, FREE, np.uint8)
        semantics[:, :, 1] = 11
        if i == 1:
            semantics[10:12, 4:12, 2:6] = 15
        mask = np.ones(CELL.shape, np.uint8)
        mask[0] = 0
        return Occ3DLabels(semantics, mask, mask, CELL)

    def ray_origins(self, i):
        return np.array([[0.0, 0.0, 0.9]])


def test_majority_counts_seen_voxels_only():
    grid = majority_grid(Labelled(), range(3))
    assert (grid[1:, :, 1] == 11).all()  # the floor, in all three frames
    assert (grid[0] == FREE).all()  # never seen
    assert (grid[:, :, 2:] == FREE).all()  # the block is there once in three
    with pytest.raises(ValueError, match="needs ground truth"):
        majority_grid(SmallData(), range(3))


def test_evaluate_scores_prediction_and_controls_like_the_metrics_themselves():
    data = Labelled()
    predictor = Predictor(GSRender(small_model()), device="cpu")
    result = evaluate(predictor, data, majority_grid(data, range(3)))
    by_hand = MeanIoU()
    for i in range(3):
        truth = data.ground_truth(i)
        by_hand.update(predictor(data.frame(i)).semantics, truth.semantics, truth.mask_camera)
    assert result["miou"] == pytest.approx(by_hand.result()["miou"], nan_ok=True)
    assert set(result["controls"]) == {"constant_image", "grey_image", "visible_truth", "truth", "majority"}
    # Only voxels no camera sees (x index 0) are cut from the truth: rays end one voxel farther at most there.
    assert result["controls"]["visible_truth"]["miou"] == pytest.approx(1.0)
    assert result["controls"]["majority"]["iou"]["driveable_surface"] == pytest.approx(1.0)
    assert result["controls"]["majority"]["iou"]["manmade"] == pytest.approx(0.0)
    assert result["samples"] == 3
    # 256 voxels of floor, in frame 1 a block of 2 x 8 x 4 besides; x index 0 is not seen.
    truth = result["controls"]["truth"]
    assert truth["occupied"] == pytest.approx(256 + 64 / 3) and truth["occupied_seen"] == pytest.approx(240 + 64 / 3)
    assert truth["miou"] == truth["rayiou"] == 1 and truth["extra_runs"] == 0 < truth["true_runs"] == truth["runs"]
    assert result["controls"]["visible_truth"]["extra_runs"] == 0
    assert result["occupied"] == np.mean([(predictor(f).semantics != FREE).sum() for f in data.frames])
    assert {"extra_runs", "extra_runs_vehicle", "thickness_m"} <= set(result)
    with pytest.raises(ValueError, match="no ground truth"):
        evaluate(predictor, SmallData())


def test_sweep_has_a_row_a_threshold_and_tau_one_is_empty():
    model = GSRender(small_model()).eval()
    curve = sweep_tau(model, Labelled(), [0, 1], (0.0, 1.1))
    assert curve[1.1]["rayiou"] == 0.0 and curve[0.0]["samples"] == 2
    assert sweep_tau(model, SmallData(), [0], (0.1,)) == {}


def test_the_sweep_is_the_occupancy_at_each_threshold():
    model = GSRender(small_model()).eval()
    torch.nn.init.normal_(model.head.output.weight, std=0.3)
    data = Labelled()
    taus = (0.02, 0.3)
    for readout in READOUTS:
        model.config = small_model(readout=readout)
        curve = sweep_tau(model, data, [1], taus)
        P = model(CameraInput.from_frames([data.frame(1)]))[0]
        for tau in taus:
            by_hand = MeanIoU()
            semantics = model.occupancy(P, tau)[0].numpy()
            by_hand.update(semantics, data.ground_truth(1).semantics, data.ground_truth(1).mask_camera)
            assert curve[tau]["occupied"] == (semantics != FREE).sum()
            assert curve[tau]["miou"] == pytest.approx(by_hand.result()["miou"], nan_ok=True)


def test_study_scores_hold_both_readouts_the_constant_image_and_the_truth():
    torch.manual_seed(2)
    model = GSRender(small_model(tau=0.15)).eval()
    torch.nn.init.normal_(model.head.output.weight, std=0.3)
    torch.nn.init.zeros_(model.head.output.bias)  # opacities around a half: some above every threshold's reach
    data = Labelled()
    scores = study_scores(model, data, range(3), (0.05, 0.3))
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    for readout in ("voxel", "splat"):
        assert list(scores[readout]) == ["0.05", "0.15", "0.3", *map(str, HIGH_TAUS)]
        occupied = [row["occupied"] for row in scores[readout].values()]
        assert occupied == sorted(occupied, reverse=True) and occupied[0] > 0
        assert all(row["extra_runs"] >= 0 and row["samples"] == 3 for row in scores[readout].values())
    swept = sweep_tau(model, data, range(3), (0.05, 0.3))
    for tau in (0.05, 0.3):
        assert scores["voxel"][str(tau)]["rayiou"] == swept[tau]["rayiou"]
    assert scores["rayiou"] == scores["voxel"]["0.15"]["rayiou"]
    expected = evaluate(Predictor(model, device="cpu"), data)
    for key in ("rayiou", "miou", "extra_runs", "occupied", "runs"):
        assert scores[key] == pytest.approx(expected[key])
        assert scores["constant"][key] == pytest.approx(expected["controls"]["constant_image"][key])
    assert scores["truth"]["rayiou"] == 1 and scores["truth"]["extra_runs"] == 0


def test_study_scores_without_gaussians_or_ground_truth():
    nerf = GSRender(small_model(head=HeadConfig(kind="nerf"))).eval()
    scores = study_scores(nerf, Labelled(), [0], (0.05,))
    assert scores["splat"] is None and scores["voxel"]["0.05"]["samples"] == 1
    with pytest.raises(ValueError, match="test has no ground truth"):
        study_scores(nerf, SmallData(), [0], (0.05,))


def test_a_small_grid_is_scored_on_its_part_of_the_labels():
    grid = VoxelGrid((-2.0, -4.0, -1.0), 0.5, (8, 16, 8))
    model = GSRender(small_model(grid=grid)).eval()
    scores = study_scores(model, Labelled(), [1], (0.05,))
    assert scores["truth"]["occupied"] == 8 * 16 + 2 * 8 * 4 == scores["truth"]["occupied_seen"]


def test_control_images():
    frame = SmallData().frame(0)
    assert (constant_images(frame).images == 127).all()
    grey = grey_images(frame).images
    assert (grey[:, 0] == grey[:, 1]).all() and grey.std() > 10
    assert dataclasses.replace(frame, images=grey).Ks is frame.Ks


def test_nan_becomes_null():
    assert without_nan({"a": float("nan"), "b": {"c": 1.0}}) == {"a": None, "b": {"c": 1.0}}


def test_the_command_prints_and_writes_duplicates_and_takes_another_readout(tmp_path, capsys):
    generate_world(tmp_path / "data", scenes=1, frames=1, seed=5, image_size=(176, 64), sweeps=False, workers=1)
    grid = VoxelGrid((-6.4, -6.4, -1.0), 0.4, (32, 32, 16))
    torch.manual_seed(2)
    model = GSRender(small_model(grid=grid, image_size=(176, 64)))
    torch.nn.init.normal_(model.head.output.weight, std=0.3)
    torch.nn.init.zeros_(model.head.output.bias)  # opacities on both sides of tau
    save_checkpoint(tmp_path / "m.safetensors", model, {})
    results = {}
    for name, options in (("voxel", ["--tau", "0.5"]), ("splat", ["--tau", "0.5", "--readout", "splat"])):
        arguments = ["eval", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "data"), "--device", "cpu"]
        assert main([*arguments, "--json", str(tmp_path / "r.json"), *options]) == 0
        results[name] = json.loads((tmp_path / "r.json").read_text())
        assert (results[name]["tau"], results[name]["readout"]) == (0.5, name)
        header, heads, *rows = capsys.readouterr().out.splitlines()
        assert f"read-out {name}, tau 0.5, 1 samples" in header and "extra runs" in heads and "of vehicles" in heads
        assert [row.split()[0] for row in rows] == ["prediction", *results[name]["controls"]]
        for row, values in zip(rows, [results[name], *results[name]["controls"].values()], strict=True):
            assert float(row.split()[6]) == pytest.approx(values["extra_runs"], abs=6e-4)
            assert float(row.split()[-1]) == pytest.approx(values["occupied"], abs=0.6)
    assert results["voxel"]["controls"]["truth"] == results["splat"]["controls"]["truth"]
    assert 0 < results["voxel"]["occupied"] < 32 * 32 * 16
    assert results["voxel"]["occupied"] != results["splat"]["occupied"]
