"""Scores by LiDAR rays: a grid of returns by hand, controls whose figures are known, and the metric itself."""

import numpy as np
import pytest
import torch
from small import GRID, small_model
from test_lidar_validation import ORIGIN, Scanned

from gsrender_core.classes import FREE, IGNORE, class_id
from gsrender_core.evaluate import constant_images, grey_images
from gsrender_core.lidar_evaluation import evaluate_on_returns, grid_of_returns
from gsrender_core.metrics.lidar_rays import LidarRayAgreement
from gsrender_core.model.gsrender import GSRender
from gsrender_core.predictor import Predictor

CAR, ROAD = class_id("car"), class_id("driveable_surface")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(GSRender(small_model(tau=0.1)).eval(), device="cpu", precision="float32")


def test_a_voxel_has_the_most_frequent_class_of_its_returns():
    # Voxels of 0.5 m from (-4, -4, -1): (0.1, 0.1, 0.1) lies in (8, 8, 2).
    points = np.array([(0.1, 0.1, 0.1)] * 3 + [(1.1, 0.1, 0.1)] * 2 + [(-3.9, -3.9, -0.9), (9.0, 0.0, 0.0)])
    classes = np.array([CAR, ROAD, CAR, IGNORE, ROAD, IGNORE, CAR], np.uint8)
    semantics = grid_of_returns(points, classes, GRID)
    occupied = {tuple(int(v) for v in at): int(semantics[tuple(at)]) for at in np.argwhere(semantics != FREE)}
    assert occupied == {(8, 8, 2): CAR, (10, 8, 2): ROAD, (0, 0, 0): class_id("others")}
    alone = grid_of_returns(points, None, GRID)
    assert np.array_equal(alone != FREE, semantics != FREE) and set(alone[alone != FREE]) == {class_id("others")}


@pytest.mark.parametrize("classes", [None, CAR])
def test_prediction_and_controls_are_what_the_metric_says_of_their_grids(predictor, classes, caplog):
    data, calls = Scanned(classes), []
    result = evaluate_on_returns(predictor, data, progress=lambda *at: calls.append(at))
    assert (result["frames"], result["skipped"], result["tau"]) == (2, 1, 0.1)
    assert "frame 2 is left out: sweep 2 is cut off" in caplog.text
    assert calls == [(1, 3), (2, 3), (3, 3)]  # a frame that is left out is done, too
    changes = {"prediction": lambda frame: frame, "constant_image": constant_images, "grey_image": grey_images}
    for name, change in changes.items():
        by_hand = LidarRayAgreement(GRID)
        for i in (0, 1):
            by_hand.update(predictor(change(data.frame(i))).semantics, *data.lidar_returns(i))
        row, expected = (result if name == "prediction" else result["controls"][name]), by_hand.result()
        assert row["rays"] == expected["rays"] == 100
        for key in ("within@1", "early@1", "missed", "occupied_rayiou", "lidar_rayiou"):
            assert row[key] == pytest.approx(expected[key], nan_ok=True), (name, key)
    controls = result["controls"]
    assert set(controls) == {"constant_image", "grey_image", "all_occupied", "all_free", "returns"}
    assert controls["all_free"]["missed"] == 1 and controls["all_free"]["occupied_rayiou"] == 0
    # Every ray starts inside the full grid and is met there, 3 m before its return.
    assert controls["all_occupied"]["missed"] == 0 and controls["all_occupied"]["early@2"] == 1
    # The circle's voxels are met where the circle is; neighbours on it are a voxel's diagonal earlier at most.
    assert controls["returns"]["within@1"] == 1 and controls["returns"]["occupied_rayiou"] == 1
    assert result["labelled_rays"] == (0 if classes is None else 100)
    if classes is not None:
        assert controls["returns"]["lidar_ray_iou"]["car"] == 1 and controls["all_free"]["lidar_rayiou"] == 0


def test_without_controls_there_are_none(predictor):
    assert evaluate_on_returns(predictor, Scanned(CAR), controls=False)["controls"] == {}


def test_data_of_which_nothing_can_be_read_are_an_error(predictor):
    class Broken(Scanned):
        def frame(self, i, labels=True):
            raise OSError(f"image {i} is gone")

    with pytest.raises(ValueError, match="none of 3 frames of test could be read"):
        evaluate_on_returns(predictor, Broken(CAR))


def test_returns_at_the_sensor_itself_are_not_counted(predictor):
    class Touching(Scanned):
        def lidar_returns(self, i):
            origins, points, known = super().lidar_returns(i)
            points[:10] = ORIGIN
            return origins, points, known

    result = evaluate_on_returns(predictor, Touching(CAR), controls=False)
    assert (result["rays"], result["not_counted"]) == (80, 20)
