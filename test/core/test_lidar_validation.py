import dataclasses

import numpy as np
import pytest
import torch
from small import GRID, SmallData, small_model, small_training

from gsrender_core.checkpoint import read_header
from gsrender_core.data.lidar_returns import LidarReturns
from gsrender_core.lidar_validation import returns_score, sweep_tau_on_returns
from gsrender_core.metrics.lidar_rays import LidarRayAgreement
from gsrender_core.model.gsrender import GSRender
from gsrender_core.train import Trainer

ORIGIN = np.array([0.1, 0.1, 0.1])


class Scanned(SmallData):
    """A LiDAR that sees a circle around the car, labelled or not."""

    def __init__(self, classes: int | None, frames: int = 3):
        super().__init__(frames=frames)
        self.classes = classes

    def lidar_returns(self, i):
        if i == 2:
            raise ValueError("sweep 2 is cut off")
        angle = np.linspace(0, 2 * np.pi, 50, endpoint=False)
        points = ORIGIN + 3.0 * np.stack((np.cos(angle), np.sin(angle), 0 * angle), axis=1)
        known = None if self.classes is None else np.full(50, self.classes, np.uint8)
        return np.broadcast_to(ORIGIN, points.shape), points, known


def test_each_threshold_is_judged_as_the_grid_that_it_gives(caplog):
    torch.manual_seed(0)
    model, data = GSRender(small_model(tau=0.3)).eval(), Scanned(4)
    curve = sweep_tau_on_returns(model, data, [0, 1, 2], [0.05, 0.1, 0.3])
    assert "frame 2 is left out of the validation on LiDAR returns: sweep 2 is cut off" in caplog.text
    by_hand = LidarRayAgreement(GRID)
    for i in (0, 1):
        from gsrender_core.predictor import Predictor

        grid = Predictor(model, device="cpu", precision="float32")(data.frame(i), 0.1)
        by_hand.update(grid.semantics, *data.lidar_returns(i))
    expected = by_hand.result()
    assert curve[0.1]["rays"] == expected["rays"] == 100
    for name in ("within@1", "missed", "occupied_rayiou", "lidar_rayiou"):
        assert curve[0.1][name] == pytest.approx(expected[name], abs=0.02)  # folded batch norms round otherwise
    assert sweep_tau_on_returns(model, data, [2], [0.1]) == {}


def test_the_score_is_of_classes_where_there_are_some():
    figures = {"lidar_rayiou": 0.25, "occupied_rayiou": 0.5, "labelled_rays": 3}
    assert returns_score(figures) == 0.25 and returns_score(figures | {"labelled_rays": 0}) == 0.5
    assert returns_score(figures | {"lidar_rayiou": float("nan")}) == 0.0


@pytest.mark.parametrize("classes", [None, 4])
def test_a_run_without_ground_truth_keeps_what_agrees_best_with_the_returns(classes, tmp_path):
    data = Scanned(classes, frames=2)
    data.scene_names = ("a", "b")
    data.indices_of = lambda scene: [0] if scene == "a" else [1]
    data.adjacent = lambda i, k: None
    trainer, rows = Trainer(small_training(steps=2, validation_scenes=1), data, tmp_path / "run", "cpu"), []
    trainer.on_row = rows.append
    best = trainer.run()
    (row,) = [row for row in rows if "returns" in row]
    score = row["returns"]["lidar_rayiou" if classes else "occupied_rayiou"] or 0.0
    assert row["returns"]["rays"] == 50 and trainer.best == score
    assert best.name == "best.safetensors" and read_header(best)["info"]["validation"]["tau"] == row["tau"]


def test_held_out_frames_of_a_replay_keep_their_returns_and_no_others():
    from gsrender_core.data.buffer_limits import BufferLimits
    from gsrender_core.data.lidar_returns import frame_bytes
    from gsrender_core.data.replay_buffer import ReplayBuffer

    frames = SmallData(frames=4).frames
    returns = LidarReturns(np.zeros((5, 3), np.float32), np.ones((5, 3), np.float32), np.zeros(5, np.uint8))
    assert returns.nbytes == 5 * (12 + 12 + 1) and frame_bytes(frames[0], returns) == frame_bytes(frames[0]) + 125
    buffer = ReplayBuffer(BufferLimits(100 * frame_bytes(frames[0]), stretch=2, hold_out_every=2))
    for frame in frames:
        assert buffer.put(frame, dataclasses.replace(returns))
    assert buffer.used_bytes == 4 * frame_bytes(frames[0], returns)
    buffer.take_in()
    assert buffer.used_bytes == 4 * frame_bytes(frames[0]) + 2 * 125
    assert buffer.numbers(held_out=True) == [2, 3] and len(buffer.lidar_returns(3)[1]) == 5
    with pytest.raises(ValueError, match="frame 1: only held-out frames keep their LiDAR returns"):
        buffer.lidar_returns(1)
