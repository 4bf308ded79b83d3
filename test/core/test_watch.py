"""What a run reports: on a small run from the first step to the last, and where TensorBoard is missing."""

import json
import logging
import math
import sys

import cv2
import numpy as np
import pytest
import torch
from small import GRID, SmallData, small_model, small_training

from gsrender_core.classes import FREE
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.pictures.curves import PANELS, read_log
from gsrender_core.train import Trainer
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.validation import TAUS
from gsrender_core.watch import ConstantImages, Watch, held_out_figures, objective_figures, scalars


class LabelledData(SmallData):
    """Two scenes of two frames, with ground truth: a wall ahead."""

    scene_names = ("a", "b")

    def __init__(self):
        super().__init__(frames=4)
        self.truth = np.full(GRID.shape, FREE, np.uint8)
        self.truth[14, :, :] = 15
        self.truth[:, :, 1] = 11

    def indices_of(self, scene):
        return [0, 1] if scene == "a" else [2, 3]

    def adjacent(self, i, k):
        return i + k if 0 <= i + k < 4 and i // 2 == (i + k) // 2 else None

    def ground_truth(self, i):
        seen = np.ones(GRID.shape, np.uint8)
        return Occ3DLabels(self.truth, seen, seen, GRID)

    def ray_origins(self, i):
        return np.zeros((1, 3))


def test_a_run_is_watched_from_before_its_first_step(tmp_path):
    config = small_training(steps=4, validation_scenes=1, validate_every=3, validation_frames=2, watch_frames=1)
    Trainer(config, LabelledData(), tmp_path / "run", "cpu").run()
    rows = read_log(tmp_path / "run")
    watched = {row["step"]: row["watch"] for row in rows if "watch" in row}
    assert list(watched) == [0, 3, 4] and rows[0]["step"] == 0
    for figures in watched.values():
        assert figures["frames"] == 1
        for name in ("rayiou", "miou", "constant_rayiou", "constant_miou", "tau", "alpha", "accuracy", "semantic"):
            assert math.isfinite(figures[name]), name
        assert set(figures["over_tau"]) == {str(tau) for tau in TAUS}
        assert figures["rayiou"] == max(m["rayiou"] for m in figures["over_tau"].values())
        assert 0 <= figures["opacity_10"] <= figures["opacity_50"] <= figures["opacity_99"] <= 1
    # At the start every offset is 0 and every scale the base scale.
    assert watched[0]["offset_mean_z"] in (0.0, None) and watched[4]["opacity_50"] != watched[0]["opacity_50"]
    picture = cv2.imread(str(tmp_path / "run" / "curves.png"))
    assert picture is not None and picture.shape[1] > 1500


def test_every_loss_and_every_common_figure_has_its_curve():
    """A term that the objective gains must be shown somewhere."""
    shown = {key for panel in PANELS for key, _ in panel.quantities}
    config = small_training(bev_flip=False)
    torch.manual_seed(0)
    model = GSRender(config.model)
    terms = Objective(config, model, TrainingFrames(SmallData(), model, torch.device("cpu"), 0.5, 1.0))(0)
    losses = {name for name in terms if not name.startswith("_")}
    assert losses <= shown, losses - shown
    for name in ("alpha", "depth_error", "accuracy", "offset_mean", "offset_spread", "offset_over_half", "opacity_50"):
        assert f"_{name}" in terms and name in shown, name


def test_without_ground_truth_the_gaussians_are_watched_nonetheless():
    torch.manual_seed(0)
    model = GSRender(small_model()).eval()
    figures = held_out_figures(model, SmallData(), [0, 1], TAUS)
    assert "rayiou" not in figures and figures["frames"] == 2
    assert 0 < figures["opacity_50"] < 1 and figures["occupied_share"] > 0
    assert (figures["offset_mean_x"], figures["offset_over_half"]) == (0.0, 0.0)
    json.dumps(figures, allow_nan=False)


def test_constant_images_change_the_images_and_nothing_else():
    data = LabelledData()
    constant = ConstantImages(data)
    frame, grey = data.frame(1), constant.frame(1, labels=False)
    assert (grey.images == 127).all() and frame.images.std() > 10
    assert grey.token == frame.token and constant.scene_names == data.scene_names and constant.adjacent(0, 1) == 1
    assert len(constant.indices_of("b")) == 2


def test_held_out_terms_are_repeatable_and_leave_the_random_numbers_alone(caplog):
    config, data = small_training(bev_flip=False, adjacent=(), ray_adjacent=()), SmallData()
    torch.manual_seed(0)
    model = GSRender(config.model).eval()
    objective = Objective(config, model, TrainingFrames(data, model, torch.device("cpu"), 0.5, 1.0))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = objective_figures(objective, [0, 1], 7)
    assert torch.equal(torch.rand(3), expected)
    assert first == objective_figures(objective, [0, 1], 7) and "depth_error" in first and "depth_net" in first
    assert all(p.grad is None for p in model.parameters())
    # The mean of both frames.
    alone = [objective_figures(objective, [i], 7)["depth_net"] for i in (0, 1)]
    assert first["depth_net"] == pytest.approx(sum(alone) / 2, abs=2e-6)
    # A frame that cannot be used is left out with its reason.
    broken = Objective(config, model, TrainingFrames(data, model, torch.device("cpu"), 0.5, 1.0))
    object.__setattr__(data.frames[1], "labels", None)
    with caplog.at_level(logging.WARNING):
        assert objective_figures(broken, [0, 1], 7)["depth_net"] == pytest.approx(alone[0], abs=1e-5)
    assert "no LiDAR labels" in caplog.text


def test_scalars_by_hand():
    row = {
        "step": 20, "seconds": 3.5, "depth": 0.5, "lr": 1e-3, "bad": float("nan"), "tau": 0.4,
        "watch": {"rayiou": 0.1, "miou": None, "over_tau": {"0.1": {"rayiou": 0.1}}},
        "validation": {"0.4": {"rayiou": 0.2, "ray_iou": {"car": 0.3}}},
    }  # fmt: skip
    assert scalars(row) == {
        "train/depth": 0.5,
        "train/lr": 1e-3,
        "train/tau": 0.4,
        "watch/rayiou": 0.1,
        "validation/tau_0.4/rayiou": 0.2,
    }


def test_event_files_hold_what_the_log_holds(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watch = Watch(tmp_path)
    watch.append({"step": 0, "watch": {"rayiou": 0.125}})
    watch.append({"step": 20, "depth": 0.5, "alpha": float("nan")})
    watch.append({"step": 40, "depth": 0.25})
    watch.close()
    # Resumed from step 20: what came after it is replaced.
    watch = Watch(tmp_path, 20)
    watch.append({"step": 21, "depth": 0.75})
    watch.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/depth")] == [(20, 0.5), (21, 0.75)] or [
        (e.step, e.value) for e in events.Scalars("train/depth")
    ] == [(21, 0.75)]
    assert [(e.step, e.value) for e in events.Scalars("watch/rayiou")] == [(0, 0.125)]
    assert "train/alpha" not in events.Tags()["scalars"]
    assert [row["step"] for row in read_log(tmp_path)] == [0, 20, 21]


def test_a_run_without_tensorboard_writes_its_log_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.DEBUG, logger="gsrender_core.watch"):
        watch = Watch(tmp_path)
    watch.close()  # a run that ended before its first row
    assert not list(tmp_path.iterdir())
    watch.append({"step": 1, "depth": 0.5})
    watch.close()
    assert "no TensorBoard" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]
