import dataclasses

import numpy as np
import pytest
from small import SmallData, small_model

from gsrender_core.classes import FREE
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.evaluate import constant_images, evaluate, grey_images, majority_grid, sweep_tau
from gsrender_core.metrics.miou import MeanIoU, without_nan
from gsrender_core.model.gsrender import GSRender
from gsrender_core.predictor import Predictor
from gsrender_core.voxel_grid import VoxelGrid

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
    assert set(result["controls"]) == {"constant_image", "grey_image", "visible_truth", "majority"}
    # Only voxels no camera sees (x index 0) are cut from the truth: rays end one voxel farther at most there.
    assert result["controls"]["visible_truth"]["miou"] == pytest.approx(1.0)
    assert result["controls"]["majority"]["iou"]["driveable_surface"] == pytest.approx(1.0)
    assert result["controls"]["majority"]["iou"]["manmade"] == pytest.approx(0.0)
    assert result["samples"] == 3
    with pytest.raises(ValueError, match="no ground truth"):
        evaluate(predictor, SmallData())


def test_sweep_has_a_row_a_threshold_and_tau_one_is_empty():
    model = GSRender(small_model()).eval()
    curve = sweep_tau(model, Labelled(), [0, 1], (0.0, 1.1))
    assert curve[1.1]["rayiou"] == 0.0 and curve[0.0]["samples"] == 2
    assert sweep_tau(model, SmallData(), [0], (0.1,)) == {}


def test_control_images():
    frame = SmallData().frame(0)
    assert (constant_images(frame).images == 127).all()
    grey = grey_images(frame).images
    assert (grey[:, 0] == grey[:, 1]).all() and grey.std() > 10
    assert dataclasses.replace(frame, images=grey).Ks is frame.Ks


def test_nan_becomes_null():
    assert without_nan({"a": float("nan"), "b": {"c": 1.0}}) == {"a": None, "b": {"c": 1.0}}
